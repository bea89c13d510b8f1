"""What comes out and who gets copied, in one table and some sentences; where the two verdicts differ, why."""

from rich.box import SIMPLE_HEAD
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from zprime.measure.samples.side import PLANTED, RECONSTRUCTED
from zprime.results.audit import Audit
from zprime.results.drift import Drift
from zprime.results.names import CandidateId
from zprime.results.samples import BandwidthPath, Sampled, SamplesSide
from zprime.statistics.estimate import Estimate, unsigned

COPIES = {"copies": "copies", "passes": "no", "untested": "?"}


def sample_table(audit: Audit, *, width: int = 80) -> Table | None:
    """Copying and fidelity of every candidate, beside the controls, in `width` columns."""
    made = audit.samples
    if made is None:
        return None
    roomy = width >= 100
    table = Table(
        title=f"Samples x' beside {made.rows} held-out rows, in {made.features} features (seed {audit.seed})",
        caption="nearer: chance that a sample is nearer to the training set than a reconstruction of an unseen row is "
        "(1/2 if nothing is copied, within regions). Frechet: distance of moments. inside: share of samples inside the "
        "data; cover: share of the data covered. ± one standard error."
        + (" TSTR: accuracy on real rows of a classifier trained on samples." if _labelled(made) else ""),
        box=SIMPLE_HEAD,
        padding=(0, int(roomy), 0, 0),
        pad_edge=False,
    )
    shown = [*made.controls.values(), *made.entries]
    cells = [_cells(made, e, places=3 if roomy else 2) for e in shown]
    heads = ["copies", "nearer", "Frechet", "inside", "cover", *(["TSTR"] if _labelled(made) else [])]
    numbers = sum(1 + int(roomy) + max(len(head), *(len(c[i]) for c in cells)) for i, head in enumerate(heads))
    # a long name gives way to the numbers, and takes two lines
    room = max(width - numbers - 2, 12)
    table.add_column("x' from", max_width=room)
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    for e, numbers_of in zip(shown, cells, strict=True):
        chosen = e.id == CandidateId(made.verdict.choice)
        style = "bold" if chosen else "dim" if e.id.alone or e.name in made.controls else ""
        name = ("▶ " if chosen else "") + _title(e)
        table.add_row(Text(name if len(name) <= room else _in_two(name)), *numbers_of, style=style)
    return table


def _in_two(name: str) -> str:
    """What a candidate is mixed with, or that it is alone, on a line of its own."""
    cut = max(name.rfind(" + "), name.rfind(" alone"))
    return name if cut < 0 else f"{name[:cut]}\n   {name[cut:]}"


def _title(e: Sampled) -> str:
    return f"  {e.label} alone" if e.id.alone else e.label


def _labelled(made: SamplesSide) -> bool:
    return any(e.tstr is not None for e in made.entries)


def _cells(made: SamplesSide, e: Sampled, *, places: int) -> list[str]:
    f = e.fidelity
    out = [
        "–" if e.copying is None else COPIES[e.status],
        _share(None if e.copying is None else e.copying.regional, places),
        _distance(f.frechet),
        _share(f.precision, places),
        _share(f.coverage, places),
    ]
    if _labelled(made):
        out.append(_share(None if e.tstr is None else e.tstr.accuracy, places))
    return out


def _share(e: Estimate | None, places: int) -> str:
    """Value±error of a share or a chance, in so many decimals."""
    return "–" if e is None else f"{e.value:.{places}f}±{e.stderr or 0.0:.{places}f}"


def _distance(e: Estimate) -> str:
    """Value±error, two decimals less a figure for every ten."""
    places = 0 if e.value >= 100 else 1 if e.value >= 10 else 2
    return f"{e.value:.{places}f}±{e.stderr or 0.0:.{places}f}"


def verdict_box(audit: Audit) -> Box | None:
    """The verdict for generation, as the one by likelihood is shown."""
    if audit.samples is None:
        return None
    v = audit.samples.verdict
    body = Text(v.sentence, style="bold")
    for reason in [*v.why, *filter(None, [difference(audit)])]:
        body.append(f"\n· {reason}", style="not bold")
    return Box(body, title=f"Verdict for generation: {v.decision}")


def lines(audit: Audit) -> list[tuple[str, str]]:
    """For the page: where things are compared, and what the copying test found."""
    made = audit.samples
    if made is None:
        return []
    out = [("Features", f"{made.features}: {made.says}. Samples are decoder {made.noise}s.")]
    if made.classifier is not None:
        out.append(("Labels", f"given by a classifier that is right on {_percent(made.classifier)} of held-out rows."))
    planted = made.controls[PLANTED].copying
    if planted is not None:
        out.append(
            (
                "Controls of the copying test",
                f"planted copies of training rows are nearer with chance {unsigned(planted.regional)} (must be near 1); "
                f"reconstructions of unseen rows with chance {_within(made.controls[RECONSTRUCTED])} (must be 1/2).",
            )
        )
    by_status: dict[str, list[str]] = {}
    for e in made.entries:
        if e.copying is not None:
            by_status.setdefault(e.status, []).append(_title(e).strip())
    if by_status:
        out.append(("Copying", "; ".join(f"{k}: {', '.join(v)}" for k, v in sorted(by_status.items())) + "."))
    if made.path is not None:
        out.append(("From copies to off the data, by bandwidth", path_line(made.path)))
    return out


def each(audit: Audit) -> list[tuple[str, str]]:
    """For the page: what the copying test found of every candidate."""
    found = [] if audit.samples is None else audit.samples.entries
    return [(_title(e).strip(), _copying(e)) for e in found if e.copying is not None]


def path_line(found: BandwidthPath) -> str:
    """At which bandwidths samples copy, and where they leave the data."""
    first = found.points[0].copying
    out = [
        "posteriors smoothed by a kernel of bandwidth h, from the training codes themselves "
        f"(nearer with chance {unsigned(first.regional)}) to one Gaussian"
    ]
    if any(s.copying.status == "untested" for s in found.points):
        return out[0] + ": untested, for the controls failed"
    copies, off = found.copies, found.off
    out.append(f"samples copy up to {copies[-1].name}" if copies else "nowhere do samples measurably copy")
    if off:
        out.append(
            f"from {off[0].name} on they are farther from the training set than reconstructions of unseen rows, off "
            f"the data (at the end with chance {unsigned(off[-1].copying.regional)})"
        )
    else:
        out.append("nowhere do they measurably leave the data")
    return "; ".join(out) + "."


def _copying(e: Sampled) -> str:
    c, d = e.copying, e.copying_draws
    if c is None:
        return ""
    noise = "" if d is None else f" (draws with the decoder's noise: {unsigned(d.regional)})"
    return (
        f"{e.status}. A sample is nearer to the training set than an unseen row's reconstruction with chance "
        f"{unsigned(c.regional)} within regions, {unsigned(c.auc)} over all{noise}; {_percent(c.near)} are nearer than all "
        "but 5 % of those, "
        f"{_percent(c.singled)} nearer to one training row in particular; "
        f"Z_U {c.z_u}, C_T {c.c_t}; {_percent(c.authenticity)} authentic; ratio of distances "
        f"{unsigned(c.ratio)}."
    )


def _within(e: Sampled) -> str:
    return "–" if e.copying is None else unsigned(e.copying.regional)


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} ± {100 * (e.stderr or 0.0):.1f} %"


def shipped(audit: Audit) -> str:
    """What is shipped after both verdicts and, where they differ, why they do; empty without samples."""
    if audit.samples is None:
        return ""
    why = difference(audit)
    return f"To be shipped: {audit.entry(audit.shipped).label}." + (
        f" Why the two verdicts differ: {why}." if why else ""
    )


def difference(audit: Audit) -> str:
    """Why the two verdicts choose differently, in a sentence; empty where they do not."""
    made = audit.samples
    if made is None or made.verdict.choice == audit.verdict.choice:
        return ""
    ours, theirs = made.verdict.choice, audit.verdict.choice
    a, b = audit.entry(theirs).label, audit.entry(ours).label
    standing = made.verdict.ranking.get(theirs, "")
    if standing == "copies":
        return (
            f"likelihood hardly sees memorising: {a} makes held-out data likelier, but what it generates are near "
            "copies of training rows"
        )
    if standing == "loses modes":
        return f"{a} is the likelier one, but its samples cover less of the data than the prior's do"
    if standing == "covers less":
        return f"{a} is the likelier one, but its samples cover less of the data than those of its equals in distance"
    if made.verdict.decision in ("undecided", "none of these"):
        return (
            f"{a} is the choice by likelihood, which is measured row by row and needs fewer of them; its samples could "
            f"not be told to be better than those of {b}"
        )
    if theirs == "prior":
        return (
            "likelihood hardly sees junk among samples (99 % of it costs at most 4.6 nats), and nothing was measurably "
            f"better than the prior by it; that samples of {b} look more like the data is another matter"
        )
    if standing in ("best", "tied"):
        return (
            f"samples of {a} and of {b} cannot be told apart in quality; the rule then takes the one that is better by "
            "TSTR, or the smaller"
        )
    return (
        f"{a} is the likelier one, but its samples are farther from held-out data than those of {b}: likelihood counts "
        "every row, however rare, and a distance of samples counts what most of them look like"
    )


def drift_table(d: Drift) -> Table:
    """The three tests of new rows."""
    table = Table(title=f"{d.rows} new rows beside held-out rows, under {d.source}", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("what", "value", "p"):
        table.add_column(name, justify="left" if name == "what" else "right")
    worst = d.dimensions[0]
    table.add_row("mean log r(z), new less held-out, nats", str(d.log_density), f"{d.density_p:.3g}")
    table.add_row("moments, KL from held-out, nats", str(d.moments), f"{d.moments_p:.3g}")
    name = f"dimension {worst.dimension}, largest of {len(d.dimensions)}"
    table.add_row(name, f"{worst.statistic:.3f}", f"{worst.p_value:.3g}")
    table.add_row("ELBO gain over the prior on new rows, nats", str(d.gain), "")
    table.add_row("the same on held-out rows", str(d.gain_heldout), "")
    return table

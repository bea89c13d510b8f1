"""Fidelity and copying of generated rows, in one table and some sentences."""

from dataclasses import replace

from zprime.reporting import claims, figures
from zprime.reporting.numbers import attributes
from zprime.reporting.section import Drawing, Fold, Section
from zprime.results.audit import Audit
from zprime.results.samples import (
    PLANTED,
    RECONSTRUCTED,
    TSTR,
    BandwidthPath,
    Copying,
    Fidelity,
    Sampled,
    SamplesSide,
)
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import distance, explained, fixed, interval, percent, unsigned
from zprime.tables import NONE, Cell, Column, Row, Style, Table

COPYING, FIDELITY = attributes(Copying), attributes(Fidelity)
COPIES = {"copies": "copies", "passes": "no", "untested": "untested"}
NOTE = (
    "copies: no, if a share at the limit of samples as near to training rows as known copies are is excluded at 95 %; "
    "untested, if it is not: up to as many may be. "
    "Of the prior and the chosen candidate, which alone are tested again beside the held-out split, the second status "
    "is that one. "
    "nearer: chance that a sample is nearer to the training set than a reconstruction of an unseen row is (1/2 if "
    "nothing is copied, within regions). These two beside the selection split, which the choice is made from; the "
    "others beside held-out rows. Frechet: distance of moments. inside: proportion of samples inside the data; cover: "
    "proportion of the data covered. ± one standard error."
)
OTHER = {"mean": "draw", "draw": "mean"}
TSTR_NOTE = " TSTR: accuracy on real rows of a classifier trained on samples."


def table(audit: Audit, *, places: int = 3) -> Table | None:
    """Copying and fidelity of every candidate, beside the controls; None without samples.

    Args:
        audit: what was measured.
        places: decimals of proportions in a terminal.
    """
    side = audit.samples
    if side is None:
        return None
    shown = [*side.controls.values(), *side.entries]
    columns = [
        Column("name", "x′ from", "x' from", numeric=False),
        Column("copies", "copies"),
        Column("nearer", "nearer"),
        Column("frechet", "Frechet"),
        *([Column("other", f"of {OTHER[side.noise]}s", page_only=True)] if len(side.forms) > 1 else []),
        Column("inside", "inside"),
        Column("cover", "cover"),
        *([Column("tstr", "TSTR")] if _labelled(side) else []),
    ]
    return Table(
        f"Samples x' beside {side.rows} held-out rows, in {side.features} features (seed {audit.seed})",
        columns,
        [_row(side, e, places) for e in shown],
        NOTE + (TSTR_NOTE if _labelled(side) else ""),
    )


def summary(audit: Audit, width: int) -> Table | None:
    """For a terminal of so many columns."""
    return table(audit, places=3 if width >= 100 else 2)


def _labelled(side: SamplesSide) -> bool:
    return any(e.tstr is not None for e in side.entries)


def _row(side: SamplesSide, e: Sampled, places: int) -> Row:
    f = e.fidelity
    cells = [
        Cell(e.label, key=e.label),
        _copies(e, side.verdict.copying.get(e.name, "")),
        _proportion(None if e.copying is None else e.copying.regional, COPYING["regional"], places),
        replace(explained(f.frechet, FIDELITY["frechet"], plain=True), short=distance(f.frechet)),
        *([explained(e.other, attributes(Sampled)["other"], plain=True)] if len(side.forms) > 1 else []),
        _proportion(f.precision, FIDELITY["precision"], places),
        _proportion(f.coverage, FIDELITY["coverage"], places),
    ]
    if _labelled(side):
        cells.append(_proportion(None if e.tstr is None else e.tstr.accuracy, attributes(TSTR)["accuracy"], places))
    return Row(cells, _style(side, e))


def _style(side: SamplesSide, e: Sampled) -> Style:
    if e.name == side.verdict.choice:
        return Style.CHOSEN
    if any(e is control for control in side.controls.values()):
        return Style.CONTROL
    if e.id.eligible:
        return Style.PLAIN
    return Style.ITSELF if any(e.id.name == o.id.name and o.id.eligible for o in side.entries) else Style.SHOWN


def _copies(e: Sampled, heldout: str) -> Cell:
    """The status beside the selection split, with what cannot be excluded where it is untested; and the held-out one.

    Args:
        e: a sample.
        heldout: status of fresh draws beside the held-out split; empty where that was not opened for it.
    """
    c = e.copying
    if c is None:
        return Cell(NONE)
    why = COPYING["share"] if c.share is None else f"{COPYING['share']} Here: {interval(c.share)}."
    text, short, key = COPIES[e.status], "", float(e.status == "copies")
    if e.status == "untested" and c.share is not None and c.because.startswith("cannot"):
        most = f"up to {100 * c.most:.2g} %"
        text, short, key = f"{text}: {most}", most, c.most
    if heldout:
        short = f"{short or text}, {COPIES[heldout]}"
        text += f"; held-out: {COPIES[heldout]}"
        why += f" Fresh draws beside held-out rows: {COPIES[heldout]}."
    return Cell(text, why, key, short)


def _proportion(e: Estimate | None, says: str, places: int) -> Cell:
    """A proportion or a chance: three decimals, as all of its column."""
    return replace(explained(e, says), text=fixed(e, 3, between=" ± "), short=fixed(e, places))


def lines(audit: Audit) -> list[tuple[str, str]]:
    """Where things are compared, and what the copying test found."""
    side = audit.samples
    if side is None:
        return []
    told = [("Features", f"{side.features}: {side.says}. {_form(side)}")]
    told += [("The decoder ignores z", f"{side.ignores}.")] if side.ignores else []
    told += [("The decoder memorises", f"{side.memorises}.")] if side.memorises else []
    if side.classifier is not None:
        right = percent(side.classifier, places=1)
        told.append(("Labels", f"given by a classifier that is right on {right} of held-out rows."))
    planted, reconstructed = side.controls[PLANTED].copying, side.controls[RECONSTRUCTED].copying
    if planted is not None:
        told.append(
            (
                "Controls of the copying test",
                f"planted copies of training rows are nearer with chance {unsigned(planted.regional)} (must be near "
                "1); reconstructions of unseen rows with chance "
                f"{NONE if reconstructed is None else unsigned(reconstructed.regional)} (must be 1/2).",
            )
        )
    by_status: dict[str, list[str]] = {}
    for e in side.entries:
        if e.copying is not None:
            because = f" ({e.copying.because})" if e.copying.because else ""
            by_status.setdefault(e.status, []).append(e.label + because)
    if by_status:
        told.append(("Copying", "; ".join(f"{k}: {', '.join(v)}" for k, v in sorted(by_status.items())) + "."))
    if side.path is not None:
        told.append(("From copies to off the data, by bandwidth", path_line(side.path)))
    return told


def _form(side: SamplesSide) -> str:
    """Which form is compared, and why."""
    if len(side.forms) < 2:
        return f"Samples are decoder {side.noise}s, for the data are discrete."
    mine, other = side.forms[side.noise], side.forms[OTHER[side.noise]]
    return (
        f"Samples are decoder {side.noise}s: reconstructions of the selection split are nearer to its real rows so "
        f"(Frechet distance {unsigned(mine)}; of {OTHER[side.noise]}s {unsigned(other)})."
    )


def copied(audit: Audit) -> list[Table]:
    """The training rows that samples copy most, by row id, of every candidate that is not cleared."""
    entries = [] if audit.samples is None else [e for e in audit.samples.entries if e.status != "passes" and e.copied]
    columns = [
        Column("name", "x′ from", "x' from", numeric=False),
        Column("rows", "training row: samples as near to it as copies are", numeric=False),
    ]
    rows = [Row([Cell(e.label), Cell(", ".join(f"{c.row}: {c.count}" for c in e.copied))]) for e in entries]
    return [Table("", columns, rows)] if rows else []


def each(audit: Audit) -> list[tuple[str, str]]:
    """What the copying test found of every candidate."""
    entries = [] if audit.samples is None else audit.samples.entries
    return [(e.label, _copying(e)) for e in entries if e.copying is not None]


def path_line(path: BandwidthPath) -> str:
    """At which bandwidths samples copy, and where they leave the data."""
    first = path.points[0].copying
    parts = [
        "posteriors smoothed by a kernel of bandwidth h, from the training codes themselves "
        f"(nearer with chance {unsigned(first.regional)}) to one Gaussian"
    ]
    if any(s.copying.status == "untested" for s in path.points):
        return parts[0] + ": untested, for the controls failed"
    copies, off = path.copies, path.off
    parts.append(f"samples copy up to {copies[-1].name}" if copies else "nowhere do samples measurably copy")
    if off:
        parts.append(
            f"from {off[0].name} on they are farther from the training set than reconstructions of unseen rows, off "
            f"the data (at the end with chance {unsigned(off[-1].copying.regional)})"
        )
    else:
        parts.append("nowhere do they measurably leave the data")
    return "; ".join(parts) + "."


def _copying(e: Sampled) -> str:
    c, d = e.copying, e.copying_draws
    if c is None:
        return ""
    noise = "" if d is None else f" (draws with the decoder's noise: {unsigned(d.regional)})"
    return (
        f"{e.status}{f', {c.because}' if c.because else ''}. {_share(c)}A sample is nearer to the training set than an "
        "unseen row's reconstruction with chance "
        f"{unsigned(c.regional)} within regions, {unsigned(c.auc)} over all{noise}; {percent(c.near, places=1)} are "
        f"nearer than all but 5 % of those, {percent(c.singled, places=1)} nearer to one training row in particular; "
        f"Z_U {c.z_u}, C_T {c.c_t}; {percent(c.authenticity, places=1)} authentic; ratio of distances "
        f"{unsigned(c.ratio)}."
    )


def _share(c: Copying) -> str:
    return "" if c.share is None else f"Copies are {interval(c.share)} of its samples at 95 %. "


COPIED = Section(
    "copied",
    "Which training rows are copied",
    field="samples",
    tables=copied,
    note="Row ids, as in the splits of the data; ten rows at most of every candidate that is not cleared of copying.",
)

SECTION = Section(
    "samples",
    "Samples beside data",
    field="samples",
    sentences=lines,
    fold=Fold("Copying, one by one", each),
    drawings=(
        Drawing(
            claims.fidelity,
            "Samples x′ of each candidate beside real rows, their reconstructions and planted copies, with 95 % "
            "intervals. Good samples stand where the real rows do. Nearer to training rows: 1/2 where nothing is "
            "copied, 1 for copies, less where samples are off the data. Red: it copies.",
        ),
        Drawing(
            figures.bandwidth_path,
            "The bandwidth path from copies to off the data: samples from the training codes themselves, from the "
            "aggregated posterior (h = 0), and from posteriors smoothed until they are one Gaussian (h = 1). Above: "
            "chance, with 95 % interval, that a sample is nearer to the training set than a reconstruction of an "
            "unseen row is. Red: copies, because the interval lies in the grey and the samples are near to single "
            "rows. Well below 1/2: off the data. Below: Z_U and C_T (Meehan et al. 2020). Dotted: controls and prior, "
            "as many samples each.",
        ),
    ),
    tables=lambda audit: [t for t in [table(audit)] if t is not None],
    sorts=True,
    note=lambda audit: "" if (t := table(audit)) is None else t.note,
    numbers=True,
    summary=summary,
)

"""The terminal table."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from zprime.measure.candidates import PURE
from zprime.notebook import size as size
from zprime.reporting.latents import lines
from zprime.reporting.likelihood import sentences
from zprime.reporting.samples import sample_table, verdict_box
from zprime.results.audit import Audit, Entry, Score
from zprime.statistics.estimate import Estimate, digits

RUNGS = {"code": "(a) ELBO gain", "evidence": "(b) exact-posterior gain", "likelihood": "(c) likelihood gain"}


def cell(score: Score | None) -> str:
    """A gain with its error; a question mark where its own check failed."""
    if score is None:
        return "–"
    return f"{score.gain}{'' if score.gain.stable else ' ?'}"


def short(e: Estimate | None) -> str:
    """Value±error in as few characters as 80 columns allow."""
    if e is None:
        return "–"
    if abs(e.value) >= 10_000:
        return f"{e.value:+.1e}{'' if e.stable else '?'}"
    places = min(2, digits(e.stderr)) if e.stderr else 2
    error = "" if e.stderr is None else f"±{e.stderr:.{places}f}"
    return f"{e.value:+.{places}f}{error}{'' if e.stable else '?'}"


def title(entry: Entry) -> str:
    """Name of a table row: what it is, what its user calls it, and whether it is only shown for information."""
    name = entry.name.removesuffix(PURE)
    label = entry.label if entry.label.startswith(name) else f"{name}: {entry.label}"
    return f"  {label} alone" if entry.name.endswith(PURE) else label


def spent(entry: Entry) -> str:
    """CPU seconds of a fit."""
    return "–" if entry.seconds is None else f"{entry.seconds:,.1f}"


def show(audit: Audit, *, width: int = 80) -> Group:
    """What a terminal of `width` columns should end with: tables, surgery, verdicts."""
    parts = [
        _scores(audit, width),
        _surgery(audit),
        sample_table(audit, width=width),
        _notes(audit),
        _verdict(audit),
        verdict_box(audit),
    ]
    return Group(*(p for p in parts if p is not None))


def details(audit: Audit) -> Group:
    """The rest of the audit, which the page shows too: latent side, model side, costs."""
    return Group(_latent_side(audit), _model_side(audit), _costs(audit))


def _scores(audit: Audit, width: int) -> Table:
    wide = width >= 100
    heldout = next(iter(audit.entries[0].scores["heldout"].values())).gain
    table = Table(
        title=f"Held-out gain over the prior, nats per row ({heldout.n} rows, seed {audit.seed})",
        caption="(a) code, (b) evidence, (c) likelihood gain ± one standard error. + x % p: mixed with that much of "
        "the prior; alone: without it, never chosen. *: stores functions of single rows. ?: not to be stable.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    widths = {rung: _width([e.scores["heldout"].get(rung) for e in audit.entries]) for rung in RUNGS}
    # a long name gives way to the numbers, and takes two lines
    room = width - sum(widths.values()) - (44 if wide else 22)
    table.add_column("z' from", max_width=max(room, 12))
    table.add_column("stored", justify="right", no_wrap=True)
    for rung, name in RUNGS.items():
        # 80 columns leave ten characters for each
        narrow = {"code": "(a) code", "evidence": "(b) evid.", "likelihood": "(c) likel."}
        table.add_column(name if wide else narrow[rung], justify="right", no_wrap=True)
    if wide:
        table.add_column("rows > 0", justify="right")
        table.add_column("rows < -5", justify="right")
    for e in audit.entries:
        scores = e.scores["heldout"]
        last = scores.get("likelihood") or scores["code"]
        chosen = e.name == audit.verdict.choice
        line: list[Text | str] = [
            Text(("▶ " if chosen else "") + title(e)),
            size(e.bytes) + ("*" if e.holds_rows else " "),
            *(short(scores[r].gain) if r in scores else "–" for r in RUNGS),
        ]
        if wide:
            line += [f"{last.above:.0%}", f"{last.below:.0%}"]
        table.add_row(*line, style="bold" if chosen else ("" if e.eligible else "dim"))
    return table


def _width(scores: list[Score | None]) -> int:
    """Characters of a column of gains."""
    return max([10, *(len(short(s.gain)) for s in scores if s is not None)])


def _surgery(audit: Audit) -> Table:
    table = Table(
        title="ELBO surgery, nats: mean KL(q||p) = I + KL(qbar||p) >= I + its Gaussian part",
        caption="Without ±: exact for these rows.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("split", "rows", "KL(q||p)", "I", "log N", "KL(qbar||p)", "Gaussian", "active"):
        table.add_column(name, justify="left" if name == "split" else "right", no_wrap=True)
    for split, s in audit.surgery.items():
        table.add_row(
            split,
            str(s.mean_kl.n),
            f"{s.mean_kl.value:.2f}",
            short(s.information),
            f"{s.log_n:.2f}",
            short(s.hole),
            f"{s.gaussian_part.value:.2f}",
            f"{s.active}/{len(s.dimension_kl)}",
        )
    return table


def _latent_side(audit: Audit) -> Table:
    table = Table(title="Latent side", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    table.add_column(ratio=1)
    table.add_column(ratio=3)
    for name, text in lines(audit):
        table.add_row(name, text)
    return table


def _model_side(audit: Audit) -> Text:
    return Text("".join(f"· {s}\n" for s in sentences(audit)))


def _costs(audit: Audit) -> Table:
    table = Table(title="What each costs", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("z' from", "fit, CPU s", "stored", "draws z' per CPU s"):
        table.add_column(name, justify="left" if name == "z' from" else "right", no_wrap=True)
    for e in audit.entries:
        if e.eligible:
            table.add_row(title(e), spent(e), size(e.bytes), f"{e.rate:,.0f}")
    return table


def _notes(audit: Audit) -> Text:
    parts = [f"The |D| posteriors take {size(audit.storage['posteriors'])}"]
    if "posteriors_rate" in audit.storage:
        parts.append(f" ({audit.storage['posteriors_rate']:,} draws z' a second)")
    if "data" in audit.storage:
        parts.append(f"; the training rows themselves {size(audit.storage['data'])}")
    if "data_rate" in audit.storage:
        parts.append(f" ({audit.storage['data_rate']:,} draws z' a second, encoding each)")
    parts.append(".")
    return Text("".join(parts) + "".join(f"\nNote: {w}." for w in audit.warnings))


def _verdict(audit: Audit) -> Box:
    v = audit.verdict
    body = Text(v.sentence, style="bold")
    for reason in v.why:
        body.append(f"\n· {reason}", style="not bold")
    return Box(body, title=f"Verdict by likelihood: {v.decision}")

"""The terminal table."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from zprime.notebook import size as size
from zprime.reporting.latents import lines
from zprime.reporting.likelihood import sentences
from zprime.reporting.samples import sample_table, verdict_box
from zprime.results.audit import Audit, Entry, Score
from zprime.results.names import CandidateId, Gain
from zprime.statistics.estimate import Estimate, digits


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
    """Name of a table row; a base alone is set in."""
    return f"  {entry.title}" if entry.id.alone else entry.title


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
    heldout = audit.entries[0].heldout.elbo.gain
    table = Table(
        title=f"Held-out gain over the prior, nats per row ({heldout.n} rows, seed {audit.seed})",
        caption="± one standard error. + x % p: mixed with that much of "
        "the prior; alone: without it, never chosen. *: stores functions of single rows. ?: not stable.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    widths = {gain: _width([e.heldout.of(gain) for e in audit.entries]) for gain in Gain}
    # a long name gives way to the numbers, and takes two lines
    room = width - sum(widths.values()) - (44 if wide else 22)
    table.add_column("z' from", max_width=max(room, 12))
    table.add_column("stored", justify="right", no_wrap=True)
    narrow = {Gain.ELBO: "ELBO", Gain.EXACT_POSTERIOR: "exact post.", Gain.LIKELIHOOD: "likelihood"}
    for gain in Gain:  # 80 columns leave ten characters for each
        table.add_column(gain.words if wide else narrow[gain], justify="right", no_wrap=True)
    if wide:
        table.add_column("rows > 0", justify="right")
        table.add_column("rows < -5", justify="right")
    for e in audit.entries:
        scores = e.heldout
        last = scores.likelihood or scores.elbo
        chosen = e.id == CandidateId(audit.verdict.choice)
        line: list[Text | str] = [
            Text(("▶ " if chosen else "") + title(e)),
            size(e.bytes) + ("*" if e.holds_rows else " "),
            *("–" if (s := scores.of(g)) is None else short(s.gain) for g in Gain),
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
            table.add_row(title(e), spent(e), size(e.bytes), f"{e.draws_per_second:,.0f}")
    return table


def _notes(audit: Audit) -> Text:
    parts = [f"The |D| posteriors take {size(audit.storage.posteriors)}"]
    if audit.storage.posteriors_draws:
        parts.append(f" ({audit.storage.posteriors_draws:,} draws z' a second)")
    if audit.storage.data is not None:
        parts.append(f"; the training rows themselves {size(audit.storage.data)}")
    if audit.storage.data_draws is not None:
        parts.append(f" ({audit.storage.data_draws:,} draws z' a second, encoding each)")
    parts.append(".")
    return Text("".join(parts) + "".join(f"\nNote: {w}." for w in audit.warnings))


def _verdict(audit: Audit) -> Box:
    v = audit.verdict
    body = Text(v.sentence, style="bold")
    for reason in v.why:
        body.append(f"\n· {reason}", style="not bold")
    return Box(body, title=f"Verdict by likelihood: {v.decision}")

"""The terminal table."""

from rich.console import Console, Group
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from zprime.auditing import Audit, Entry, Score
from zprime.measure.panel import PURE

RUNGS = {"code": "(a) code gain", "evidence": "(b) evidence gain", "likelihood": "(c) likelihood gain"}


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def cell(score: Score | None) -> str:
    """A gain with its error; a question mark where its own check failed."""
    if score is None:
        return "–"
    return f"{score.gain}{'' if score.gain.trusted else ' ?'}"


def title(entry: Entry) -> str:
    """Name of a table row: what it is, and whether it is only shown for information."""
    return f"  {entry.label}, without prior" if entry.name.endswith(PURE) else entry.label


def show(audit: Audit) -> Group:
    """Everything that fits a terminal: table, surgery, verdict."""
    return Group(_scores(audit), _surgery(audit), _notes(audit), _verdict(audit))


def _scores(audit: Audit) -> Table:
    heldout = next(iter(audit.entries[0].scores["heldout"].values())).gain
    table = Table(
        title=f"Held-out gain over the prior, nats per row ({heldout.n} rows, seed {audit.seed})",
        caption="± one standard error. Only rows without 'without prior' could be chosen. ?: not to be trusted, see the report.",
    )
    table.add_column("z' from", no_wrap=True)
    table.add_column("stored", justify="right")
    table.add_column("single rows?", justify="center")
    for name in RUNGS.values():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rows > 0", justify="right")
    table.add_column("rows < -5", justify="right")
    for e in audit.entries:
        scores = e.scores["heldout"]
        last = scores.get("likelihood") or scores["code"]
        chosen = e.name == audit.verdict.choice
        table.add_row(
            Text(("▶ " if chosen else "") + title(e)),
            size(e.bytes),
            "yes" if e.holds_rows else "no",
            *(cell(scores.get(r)) for r in RUNGS),
            f"{last.above:.0%}",
            f"{last.below:.0%}",
            style="bold" if chosen else ("" if e.eligible else "dim"),
        )
    return table


def _surgery(audit: Audit) -> Table:
    table = Table(title="ELBO surgery, nats (each split's posteriors against their own mixture)")
    for name in ("split", "rows", "mean KL(q||p)", "I (cap log N)", "KL(qbar||p)", "its Gaussian part", "active"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, s in audit.surgery.items():
        table.add_row(
            split,
            str(s.mean_kl.n),
            f"{s.mean_kl.value:.2f}",
            f"{s.information} ({s.log_n:.2f})",
            f"{s.hole}",
            f"{s.gaussian_part.value:.2f}",
            f"{s.active} of {len(s.dimension_kl)}",
        )
    return table


def _notes(audit: Audit) -> Text:
    parts = [f"The |D| posteriors take {size(audit.storage['posteriors'])}"]
    if "data" in audit.storage:
        parts.append(f" (the training rows themselves: {size(audit.storage['data'])})")
    if audit.log_prior is not None:
        parts.append(f". Held-out log p(x) under the prior: {audit.log_prior} nats per row")
    parts.append(".")
    return Text("".join(parts) + "".join(f"\nNote: {w}." for w in audit.warnings))


def _verdict(audit: Audit) -> Box:
    v = audit.verdict
    body = Text(v.sentence, style="bold")
    for reason in v.why:
        body.append(f"\n· {reason}", style="not bold")
    return Box(body, title=f"Verdict by likelihood: {v.decision}")


def text(audit: Audit, *, width: int = 120) -> str:
    """`show` as plain text."""
    console = Console(width=width, record=True, file=open_null(), color_system=None)
    console.print(show(audit))
    return console.export_text()


def open_null() -> "_Null":
    """A file that keeps nothing."""
    return _Null()


class _Null:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return

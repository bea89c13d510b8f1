"""The table of the page: one row for every latent distribution, with its intervals drawn on one scale."""

from dataclasses import dataclass

from zprime.reporting.numbers import SAYS, Number, estimate, gain, share
from zprime.reporting.table import size, title
from zprime.reporting.words import shown
from zprime.results.audit import Audit, Entry
from zprime.results.names import CandidateId, Gain
from zprime.statistics.estimate import Estimate

WIDTH = 130


@dataclass(frozen=True)
class Bar:
    """An interval in a strip of `WIDTH` units: ends, value and zero; `left` or `right` where it goes beyond."""

    low: float
    high: float
    value: float
    zero: float
    left: bool
    right: bool


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    chosen: bool
    alone: bool
    numbers: list[Number]
    bar: Bar | None


def headings(audit: Audit) -> list[str]:
    """Of the columns after the name and the drawn interval, in order."""
    return [*(g.words for g in Gain), "median", "rows > 0", "rows < −5", "k̂ > 0.7", "stored", "of single rows"]


def rung(audit: Audit) -> Gain:
    """The highest rung that was measured: what is drawn."""
    return audit.entries[0].heldout.surest


def rows(audit: Audit) -> list[Row]:
    """All entries in the order of the audit."""
    drawn = rung(audit)
    ends = [s.gain for e in audit.entries if e.eligible and (s := e.heldout.of(drawn)) is not None]
    low, high = min(0.0, *(e.low for e in ends)), max(0.0, *(e.high for e in ends))
    return [_row(audit, e, drawn, low, high) for e in audit.entries]


def _row(audit: Audit, entry: Entry, drawn: Gain, low: float, high: float) -> Row:
    scores = entry.heldout
    last = scores.of(drawn) or scores.elbo
    rows_kept = "functions of single training rows" if entry.holds_rows else "no function of a single training row"
    numbers = [
        *(gain(scores.of(g), g) for g in Gain),
        Number(f"{last.median:+.2f}", SAYS["median"] + ".", last.median),
        share(last.above, SAYS["above"]),
        share(last.below, SAYS["below"]),
        share(last.khat, SAYS["khat"]),
        Number(size(entry.bytes), f"{SAYS['stored']}: {entry.bytes:,}.", entry.bytes),
        Number("yes" if entry.holds_rows else "no", f"What is stored: {rows_kept}.", float(entry.holds_rows)),
    ]
    name = title(entry).strip()
    bar = _bar(s.gain, low, high) if (s := scores.of(drawn)) is not None else None
    return Row(name, entry.id == CandidateId(audit.verdict.choice), not entry.eligible, numbers, bar)


def _bar(e: Estimate, low: float, high: float) -> Bar:
    margin = 0.06 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def at(x: float) -> float:
        return round(min(max((x - low) / (high - low), 0.0), 1.0) * WIDTH, 1)

    return Bar(at(e.low), at(e.high), at(e.value), at(0.0), e.value < low, e.value > high)


def surgery(audit: Audit) -> tuple[list[str], list[tuple[str, list[Number]]]]:
    """The table of the ELBO surgery: headings, and for each split its numbers."""
    heads = ["rows", "mean KL(q‖p)", "I", "log N", "exp I", "KL(q̄‖p)", "its Gaussian part", "active latents"]
    out = []
    for split, s in audit.surgery.items():
        d = len(s.dimension_kl)
        told = Number(shown(s.told_apart), estimate(s.told_apart, SAYS["told_apart"]).why, s.told_apart.value)
        numbers = [
            Number(f"{s.mean_kl.n:,}", f"Posteriors of the {split} split.", s.mean_kl.n),
            estimate(s.mean_kl, SAYS["mean_kl"], plain=True),
            estimate(s.information, SAYS["information"], plain=True),
            Number(f"{s.log_n:.2f}", SAYS["log_n"] + ".", s.log_n),
            told,
            estimate(s.hole, SAYS["hole"], plain=True),
            estimate(s.gaussian_part, SAYS["gaussian_part"], plain=True),
            Number(f"{s.active} of {d}", SAYS["active"] + ".", s.active),
        ]
        out.append((split, numbers))
    return heads, out

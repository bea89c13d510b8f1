"""The gains over the prior: one row for every latent distribution, with its intervals drawn on one scale."""

import math
from dataclasses import replace

from zprime.reporting.numbers import SAYS, proportion_cell
from zprime.reporting.section import Section
from zprime.results.audit import Audit, Entry
from zprime.results.names import Gain
from zprime.statistics.estimate import Estimate
from zprime.tables import NONE, WIDTH, Bar, Cell, Column, Table

NOTE = (
    "Gain over the prior in nats per row ± one standard error, paired over {rows:,} held-out rows, conditional on this "
    "model. ELBO gain: change of the ELBO with the encoder as it is; exact-posterior gain: change of log p(x) if the "
    "encoder were exact; likelihood gain: change of log p(x), with the decoder, by importance sampling on {draws} "
    "that all candidates share. “?” marks a figure whose own check failed; (bound) and (estimate) say what "
    "log r(z) is where it is not exact, and its own error is in the interval. “+ e % p” is a candidate: mixed "
    "with that much of the prior. Grey rows are distributions themselves: shown, never chosen. Drawn: 95 % intervals "
    "on one scale, an arrow where one is beyond it. Rows behind, at least: effective training rows (Kish 1965) of the "
    "stored component that has fewest; 1 is a row by itself, – where no rows were counted. Only the bold row's "
    "held-out figure is confirmatory."
)
LIKELIHOOD_NOTE = (
    " k̂ is of each log p(x) by itself; a gain is a difference on the same draws, and is stable while it hardly moves "
    "from a quarter of them to all."
)
TERMINAL_NOTE = (
    "± one standard error. + x % p: a candidate, mixed with that much of the prior; without: the distribution itself, "
    "never chosen. *: stores functions of single rows. ?: not stable. b: log r is a bound, e: an estimate; their own "
    "error is in the ±."
)


def drawn_gain(audit: Audit) -> Gain:
    """The gain whose intervals are drawn: the surest that was measured."""
    return audit.entries[0].heldout.surest


def table(audit: Audit) -> Table:
    """All entries in the order of the audit, with all that is known of their gains."""
    gains = audit.table()
    limits = audit.thresholds
    columns = [
        *gains.columns,
        Column("drawn", drawn_gain(audit).words, numeric=False),
        Column("median", "median"),
        Column("above", "rows > 0"),
        Column("below", f"rows < {limits.lost:g}".replace("-", "−"), f"rows < {limits.lost:g}"),
        Column("khat", f"k̂ > {limits.khat:g}"),
        Column("least rows", "rows behind, at least"),
    ]
    bars = _bars(audit)
    rows = [
        replace(row, cells=[*row.cells, Cell("", bar=bar), *_more(audit, e)])
        for e, row, bar in zip(audit.entries, gains.rows, bars, strict=True)
    ]
    return Table(gains.title, columns, rows, TERMINAL_NOTE)


PAGE = ("name", "drawn", *Gain, "median", "above", "below", "khat", "stored", "least rows")
"""Columns of the page, in order."""


def summary(audit: Audit, width: int) -> Table:
    """For a terminal of so many columns."""
    shown = table(audit)
    if width < 100:
        return shown.pick("name", "stored", *Gain)
    wide = replace(shown, columns=[replace(c, short="") if c.name in set(Gain) else c for c in shown.columns])
    return wide.pick("name", "stored", *Gain, "above", "below")


def _more(audit: Audit, entry: Entry) -> list[Cell]:
    """What is told of an entry beside its gains."""
    last = entry.heldout.of(drawn_gain(audit)) or entry.heldout.elbo
    limits = audit.thresholds
    return [
        Cell(f"{last.median:+.2f}", SAYS["median"] + ".", last.median),
        proportion_cell(last.above, SAYS["above"]),
        proportion_cell(last.below, SAYS["below"].format(lost=-limits.lost)),
        proportion_cell(last.khat, SAYS["khat"].format(khat=limits.khat)),
        least_rows(entry),
    ]


def least_rows(entry: Entry) -> Cell:
    """Effective rows behind the stored component that has fewest; a dash where none were counted."""
    rows, why = entry.least_rows, f"{entry.kept[0].upper()}{entry.kept[1:]}."
    return Cell(NONE if rows is None else f"{math.floor(rows):,}", why, rows)


def _bars(audit: Audit) -> list[Bar | None]:
    """The intervals of all entries on a scale that holds those which can be chosen."""
    drawn = drawn_gain(audit)
    scored = [(e, s.gain if (s := e.heldout.of(drawn)) is not None else None) for e in audit.entries]
    ends = [gain for e, gain in scored if e.eligible and gain is not None]
    low, high = min(0.0, *(e.low for e in ends)), max(0.0, *(e.high for e in ends))
    return [None if gain is None else _bar(gain, low, high) for _, gain in scored]


def _bar(e: Estimate, low: float, high: float) -> Bar:
    margin = 0.06 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def at(x: float) -> float:
        return round(min(max((x - low) / (high - low), 0.0), 1.0) * WIDTH, 1)

    return Bar(at(e.low), at(e.high), at(e.value), at(0.0), e.value < low, e.value > high)


def _note(audit: Audit) -> str:
    draws = f"{audit.draws} draws a row" if audit.model.kl is None else "the known draws of each posterior"
    note = NOTE.format(rows=audit.entries[0].heldout.elbo.gain.n, draws=draws)
    return note + (LIKELIHOOD_NOTE if drawn_gain(audit) is Gain.LIKELIHOOD else "")


SECTION = Section(
    "gains",
    "Every latent distribution, on held-out data",
    field="entries",
    tables=lambda audit: [table(audit).pick(*PAGE)],
    sorts=True,
    note=_note,
    summary=summary,
)

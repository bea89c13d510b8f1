"""What each latent distribution costs: to fit, to keep, to draw from; and how its fit ended."""

from zprime.memory import size
from zprime.reporting.numbers import SAYS
from zprime.reporting.section import Section
from zprime.results.audit import Audit, Entry
from zprime.results.facts import Setting
from zprime.statistics.format import seconds, setting
from zprime.tables import NONE, Cell, Column, Row, Table

COLUMNS = (
    Column("name", "", "z' from", numeric=False),
    Column("fit", "fit, CPU s"),
    Column("stored", "stored"),
    Column("draws", "draws z′ per CPU s", "draws z' per CPU s"),
    Column("outcome", "outcome", numeric=False, page_only=True),
)
TITLE = "What each costs"


def table(audit: Audit) -> Table:
    """One row for every fit: for its candidate, where it makes one."""
    return Table(TITLE, COLUMNS, [_row(e) for e in audit.leading])


def _row(e: Entry) -> Row:
    shown = (f"{k} {setting(v, 3)}" for k, v in decisions(e).items() if isinstance(v, bool | int | float | str))
    decided = "; ".join(shown) or "nothing"
    cells = [
        Cell(e.title),
        Cell(seconds(e.seconds), "CPU time of the fit, all threads together.", e.seconds),
        Cell(size(e.bytes), f"{SAYS['stored']}: {e.bytes:,}.", e.bytes),
        Cell(f"{e.draws_per_second:,.0f}", "Draws z′ per CPU second, in one call of 10,000.", e.draws_per_second),
        Cell(e.outcome or NONE, f"How the fit ended. Decided on the selection split: {decided}."),
    ]
    return Row(cells)


def decisions(e: Entry) -> dict[str, Setting]:
    """What the selection split decided in a fit, by name; the kind's own settings first."""
    c = e.chosen
    common: dict[str, Setting] = {"epsilon": c.epsilon, "gain": c.gain, "weights": c.weights or None}
    return {**c.settings, **{k: v for k, v in common.items() if v is not None}}


SECTION = Section("costs", TITLE, tables=lambda audit: [table(audit)], details=True)

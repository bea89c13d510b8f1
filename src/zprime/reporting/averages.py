"""The "average" of the posteriors under each criterion: a picture and one table."""

from collections.abc import Sequence

from zprime.reporting import claims
from zprime.reporting.section import Drawing, Section
from zprime.results.audit import Audit
from zprime.results.latents import Average, Averages
from zprime.statistics.format import figures, prose
from zprime.tables import NONE, Cell, Column, Row, Table

COLUMNS = (
    Column("criterion", "closest in", numeric=False),
    Column("name", "r", numeric=False),
    Column("forward", "KL(q‖r)"),
    Column("heldout", "on unseen rows"),
    Column("reverse", "KL(r‖q)"),
    Column("to_prior", "KL(r‖p)"),
    Column("width", "width"),
)
SENSES = {"prior": "(independent of the data)", "product-of-experts": "(a product, not an average)"}


def table(averages: Averages) -> Table:
    """One row for each average, in nats."""
    return Table("Averages of the posteriors", COLUMNS, [_row(m) for m in averages.members.values()])


def _row(m: Average) -> Row:
    sense = SENSES.get(m.name, m.criterion).replace("mean ", "").replace("||", "‖")
    cells = [
        Cell(sense),
        Cell(claims.AVERAGES.get(m.name, m.name)),
        Cell(prose(m.forward), key=m.forward.value),
        Cell(prose(m.heldout), key=m.heldout.value),
        Cell(NONE) if m.reverse is None else Cell(prose(m.reverse), key=m.reverse.value),
        Cell(prose(m.to_prior), key=m.to_prior.value),
        Cell(figures(m.width, 3), key=m.width),
    ]
    return Row(cells)


def gaussian_gap(averages: Averages) -> tuple[float, bool]:
    """How many nats closer than p(Z) the best single Gaussian is, and whether p(Z) may be called nearly that."""
    prior, match = averages.members["prior"].forward.value, averages.members["moment match"].forward.value
    return prior - match, prior - match < 0.1 * prior


def tables(audit: Audit) -> Sequence[Table]:
    """The table of an audit, where they were measured."""
    return [] if audit.averages is None else [table(audit.averages)]


SECTION = Section(
    "averages",
    "Which distribution is closest to all posteriors?",
    field="averages",
    drawings=(
        Drawing(
            claims.averages,
            "Each line is the average of the posteriors q(z|x) under another criterion. Left: its width, the geometric "
            "mean of its standard deviations; an average as narrow as one posterior covers one place of the latent "
            "space. Right: mean KL(q‖r) over the training rows, which the aggregated posterior makes smallest; the "
            "moment match does among Gaussians.",
        ),
    ),
    tables=tables,
    numbers=True,
)

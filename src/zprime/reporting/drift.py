"""New rows: whether they still fit what was shipped."""

from zprime.reporting import figures
from zprime.reporting.section import Drawing, Section
from zprime.reporting.words import latent
from zprime.results.drift import Drift
from zprime.tables import Cell, Column, Row, Table


def table(d: Drift) -> Table:
    """The three tests of new rows."""
    worst = d.dimensions[0]
    tested = "" if d.tested == d.rows else f"; the tests compare {d.tested} of them, independent and drawn by weight"
    rows = [
        ("mean log r(z), new less held-out, nats", str(d.log_density), f"{d.density_p:.3g}"),
        ("moments, KL from held-out, nats", str(d.moments), f"{d.moments_p:.3g}"),
        (
            f"{latent(worst.dimension)}, largest gap of {len(d.dimensions)}",
            f"{worst.statistic:.3f}",
            f"{worst.p_value:.3g}",
        ),
        ("ELBO gain over the prior on new rows, nats", str(d.gain), ""),
        ("the same on held-out rows", str(d.gain_heldout), ""),
    ]
    return Table(
        f"{d.rows} new rows beside held-out rows, under {d.source}{tested}",
        [Column("what", "what", numeric=False), Column("value", "value"), Column("p", "p")],
        [Row([Cell(text) for text in row]) for row in rows],
    )


SECTION = Section(
    "drift",
    "New rows",
    field="drift",
    sentences=lambda audit: [] if audit.drift is None else [audit.drift.sentence],
    drawings=(
        Drawing(
            figures.drift,
            lambda audit: (
                "How far the codes of new rows are from those of held-out rows, latent by latent, the "
                "farthest first: the largest gap between the two distribution functions (Kolmogorov and Smirnov). "
                f"Red: p below {audit.thresholds.level:g} after Holm's correction for the number of latents."
            ),
        ),
    ),
    numbers=True,
)

"""ELBO surgery: what the KL term of the ELBO is made of, on each split."""

from dataclasses import replace

from zprime.reporting import figures
from zprime.reporting.numbers import SAYS
from zprime.reporting.section import Drawing, Section
from zprime.results.audit import Audit
from zprime.results.latents import Surgery
from zprime.statistics.format import explained, prose
from zprime.tables import Cell, Column, Row, Table

COLUMNS = (
    Column("split", "split", numeric=False),
    Column("rows", "rows"),
    Column("mean_kl", "mean KL(q‖p)", "KL(q||p)"),
    Column("information", "I"),
    Column("log_n", "log N"),
    Column("told_apart", "exp I", page_only=True),
    Column("hole", "KL(q̄‖p)", "KL(qbar||p)"),
    Column("gaussian_part", "its Gaussian part", "Gaussian"),
    Column("active", "active latents", "active"),
)


def table(audit: Audit) -> Table:
    """One row for each split."""
    return Table(
        "ELBO surgery, nats: mean KL(q||p) = I + KL(qbar||p) >= I + its Gaussian part",
        COLUMNS,
        [_row(split, s, audit.thresholds.active) for split, s in audit.surgery.items()],
        "Without ±: exact for these rows.",
    )


def _row(split: str, s: Surgery, active: float) -> Row:
    d = len(s.mean_variance)
    cells = {name: explained(getattr(s, name), SAYS[name], plain=True) for name in ("mean_kl", "gaussian_part")}
    kl, part = (replace(c, short=f"{getattr(s, name).value:.2f}") for name, c in cells.items())
    return Row(
        [
            Cell(split),
            Cell(f"{s.mean_kl.n:,}", f"Posteriors of the {split} split.", s.mean_kl.n, str(s.mean_kl.n)),
            kl,
            explained(s.information, SAYS["information"], plain=True),
            Cell(f"{s.log_n:.2f}", SAYS["log_n"] + ".", s.log_n),
            replace(explained(s.told_apart, SAYS["told_apart"]), text=prose(s.told_apart)),
            explained(s.hole, SAYS["hole"], plain=True),
            part,
            Cell(f"{s.active} of {d}", SAYS["active"].format(active=active) + ".", s.active, f"{s.active}/{d}"),
        ]
    )


def summary(audit: Audit, width: int) -> Table:
    """For a terminal."""
    return table(audit)


def _note(audit: Audit) -> str:
    return (
        "mean KL(q‖p) = I + KL(q̄‖p), in nats, each split's posteriors against their own mixture q̄ (Hoffman & Johnson "
        "2016); ± one standard error, and what has none is exact for these rows. I cannot exceed log N: where it comes "
        "near, q̄ is a lookup table of its rows, and the hole may be large only because N is finite. The "
        "variance of q̄ in a dimension is that of the posteriors' means plus the mean of their own (grey); at 1 it is "
        f"the prior's. A hollow bar is a collapsed dimension: its means' variance is below {audit.thresholds.active:g}."
    )


SECTION = Section(
    "surgery",
    "What the KL term is made of",
    field="surgery",
    drawings=(
        Drawing(
            figures.surgery,
            "Waterfall: mean KL is I plus the part of the hole in mean and covariance plus the part in its shape",
            said=False,
        ),
        Drawing(
            figures.dimensions, "Mean KL and variance of the posterior means of every latent dimension", said=False
        ),
    ),
    tables=lambda audit: [table(audit)],
    note=_note,
    summary=summary,
)

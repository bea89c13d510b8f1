"""ELBO surgery: what the KL term of the ELBO is made of, on each split."""

from dataclasses import replace

from zprime.memory import size
from zprime.reporting import aggregated, figures
from zprime.reporting.numbers import SAYS
from zprime.reporting.section import Drawing, Section
from zprime.reporting.words import prior_name
from zprime.results.audit import Audit
from zprime.results.latents import Surgery
from zprime.statistics.estimate import Estimate
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


def sentences(audit: Audit) -> list[str]:
    """What the KL term is made of, and what keeping all posteriors costs, with this model's numbers."""
    s = audit.surgery["train"]
    told = [
        f"On average a posterior is {prose(s.mean_kl)} nats from {prior_name(audit)}{_exact(s.mean_kl)}. Of these, "
        f"{prose(s.information)} are what tells the data apart (at most log N = {s.log_n:.2f}), and "
        f"{prose(s.hole)} are the distance of this sample's aggregated posterior from the prior; only "
        f"{prose(s.gaussian_part)} of that{_exact(s.gaussian_part, '')} can be seen in its mean and covariance.",
    ]
    exact = aggregated.entry(audit)
    if exact is not None and exact.heldout.likelihood is not None:
        gain = exact.heldout.likelihood.gain
        told.append(
            f"Keeping all {s.mean_kl.n:,} posteriors takes {size(exact.bytes)} and changes the log-likelihood of "
            f"held-out data by {gain} nats per row against the prior."
        )
    return told


def _exact(e: Estimate, of: str = " for these rows") -> str:
    """That a number without an error has none."""
    return f" (exact{of})" if e.stderr is None else ""


WATERFALL = (
    "mean KL(q‖p) = I + KL(q̄‖p), in nats, over the training rows and their mixture q̄ (Hoffman & Johnson 2016). I is "
    "what tells the rows apart; it cannot exceed log N (dashed), and where it comes near, q̄ is a lookup table of its "
    "rows, so the hole KL(q̄‖p) may be large only because N is finite. The hole is cut into what q̄'s mean and "
    "covariance show, and its shape."
)


def _dimensions(audit: Audit) -> str:
    return (
        "Each latent: its mean KL, and the variance of q̄: that of the posteriors' means (dark) plus the mean of "
        "their own (light); at 1 it is the prior's. A hollow bar is a collapsed latent: its means' variance is below "
        f"{audit.thresholds.active:g}."
    )


SECTION = Section(
    "surgery",
    "What the KL term is made of",
    field="surgery",
    sentences=sentences,
    drawings=(
        Drawing(figures.surgery, WATERFALL),
        Drawing(figures.dimensions, _dimensions),
    ),
    tables=lambda audit: [table(audit)],
    note="± one standard error; what has none is exact for these rows.",
    summary=summary,
)

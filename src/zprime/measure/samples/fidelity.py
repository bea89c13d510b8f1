"""Fidelity: do generated rows look like unseen rows, and do they cover all of their variety?

All figures are computed in one feature space, whose name goes with every number, and at one sample size, on which most
of them depend. The same figures for two samples of real rows are measured beside them.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from zprime.errors import ArrayError
from zprime.measure.samples.frechet import Roots, frechet_replicates
from zprime.measure.samples.manifold import NAMES, Neighbourhoods, manifold_replicates
from zprime.measure.samples.sliced import sliced_replicates
from zprime.results.samples import Fidelity
from zprime.results.settings import FEWEST
from zprime.statistics.c2st import c2st
from zprime.statistics.resampling import About, Groups, Halves


@dataclass(frozen=True)
class Compared:
    """Fidelity, with the replicates that differences of two samples are computed from."""

    fidelity: Fidelity
    frechet: Groups
    manifold: Halves


def fidelity(
    real: Float[Tensor, "n f"],
    fake: Float[Tensor, "n f"],
    *,
    split: str,
    seed: int = 0,
    neighbourhoods: tuple[Neighbourhoods, Neighbourhoods] | None = None,
    roots: Roots | None = None,
) -> Compared:
    """Measure features of generated rows against features of as many real rows; both in random order.

    Args:
        real: features of real rows.
        fake: features of generated rows.
        split: which rows `real` are.
        seed: of the halves of the classifier test.
        neighbourhoods: of the real and of the generated rows, where they were searched before.
        roots: of the real rows, where others are compared with them too.

    Raises:
        ArrayError: the samples differ in size or features, or have fewer than 40 rows.
    """
    if real.shape != fake.shape:
        raise ArrayError(
            f"fidelity: expected as many generated as real rows, with the same features, got {list(fake.shape)} and "
            f"{list(real.shape)}: these figures depend on the size of the samples"
        )
    n = len(real)
    if n < FEWEST:
        raise ArrayError(f"fidelity: expected at least {FEWEST} rows, got {n}: the figures say nothing below that")
    distance, balls = frechet_replicates(real, fake, kept=roots), manifold_replicates(real, fake, known=neighbourhoods)
    about = About(n, split, seed)
    proportions = {
        name: balls.estimate(i, about, unit="proportion of rows", scale="proportion")
        for i, name in enumerate(NAMES)
        if name != "density"
    }
    measured = Fidelity(
        frechet=distance.estimate(0, about, unit="squared feature units", scale="distance"),
        precision=proportions["precision"],
        recall=proportions["recall"],
        density=balls.estimate(NAMES.index("density"), about, unit="balls over k"),
        coverage=proportions["coverage"],
        sliced=sliced_replicates(real, fake).estimate(0, about, unit="feature units", scale="distance"),
        told_apart=c2st(real, fake, split=split, seed=seed),
    )
    return Compared(measured, distance, balls)

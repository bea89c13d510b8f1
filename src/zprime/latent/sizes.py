"""Numbers of components and of factors that are tried for a mixture, and when trying ends."""

from zprime.arrays import WIDE
from zprime.latent.kind import Outcome
from zprime.posteriors import Posteriors
from zprime.results.thresholds import THRESHOLDS

COMPONENTS = (2, 5, 10, 20, 50, 100, 200)
"""K that are tried where none is given."""

RANK = 4
"""Factors with which K is chosen, where the rank is too."""

RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of factors that are tried where none is given."""

TIE = THRESHOLDS.tie
"""Nats: gains that differ by less are equal."""

COARSE = TIE
"""Nats: in more than 1,024 dimensions EM stops at such a rise of its bound until K, rank and start are chosen."""

STEPS = 40
"""Steps after which it stops there too."""


def components(train: Posteriors, rank: int) -> list[int]:
    """K that are tried: with five rows for each at least, also for every factor."""
    tried = [k for k in COMPONENTS if k <= max(1, train.n // 5)] or [1]
    return [k for k in tried if _enough(train, k, rank)] or tried[:1]


def ranks(train: Posteriors, k: int) -> list[int]:
    """Numbers of factors that K components may have, 1 at least."""
    return [r for r in RANKS if r <= train.d and _enough(train, k, r)] or [1]


def rough(d: int, tolerance: float, iterations: int) -> tuple[float, int]:
    """Where EM stops while something is chosen: at what rise of its bound in nats, and after how many steps."""
    return (max(tolerance, COARSE), min(iterations, STEPS)) if d > WIDE else (tolerance, iterations)


def past_best(d: int, gains: list[float]) -> bool:
    """Whether trying ends: above 1,024 dimensions, where the last two gained no more than the best before, or a tie."""
    return d > WIDE and len(gains) > 2 and max(gains[-2:]) < max(gains[:-2]) + TIE


def largest(outcome: Outcome, k: int) -> Outcome:
    """What is told of a fit whose K was chosen."""
    if not outcome.ok or k != COMPONENTS[-1]:
        return outcome
    return Outcome(message=f"{outcome.message}; the largest K tried was the best: try a larger one")


def _enough(train: Posteriors, k: int, rank: int) -> bool:
    return 5 * k * (1 + rank) <= train.n

"""Classical tests of whether two samples of numbers differ, and the difference of their means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from zprime.statistics.estimate import Z95, Estimate


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """The two-sample test of Kolmogorov and Smirnov.

    Attributes:
        statistic: largest gap between the two empirical distribution functions.
        p_value: of a gap this large or larger under one distribution for both.
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> KolmogorovSmirnov:
    """Do two samples have one distribution? Sensitive to any difference."""
    from scipy.stats import ks_2samp

    test = ks_2samp(a.numpy(), b.numpy())
    return KolmogorovSmirnov(float(test.statistic), float(test.pvalue))


def rank_test(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """Two-sided p-value of Mann and Whitney's (1947) rank test: is one sample larger than the other?"""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(a.numpy(), b.numpy()).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, j in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[j]))
        corrected[j] = least
    return corrected


def difference_of_means(
    a: Float[Tensor, " n"], b: Float[Tensor, " m"], *, unit: str, split: str, seed: int | None
) -> Estimate:
    """Mean of `a` less that of `b`, with its error (Welch 1947)."""
    value = float(a.mean() - b.mean())
    stderr = math.sqrt(float(a.var() / len(a) + b.var() / len(b)))
    low, high = value - Z95 * stderr, value + Z95 * stderr
    return Estimate(value, stderr, low, high, len(a), unit, split, seed)

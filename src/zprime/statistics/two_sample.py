"""Classical tests of whether two samples of numbers differ, and the difference of their means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from zprime.statistics.design import EQUAL, Design
from zprime.statistics.estimate import Estimate, mean_estimate, student


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
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    *,
    unit: str,
    split: str,
    seed: int | None,
    designs: tuple[Design, Design] = (EQUAL, EQUAL),
) -> Estimate:
    """Mean of `a` less that of `b`, with its error and 95 % interval (Welch 1947).

    `designs` has weights and groups of either; the error of each mean is then that of `mean_estimate`. The number of
    rows is that of `a`, as for any mean.
    """
    first, second = (
        mean_estimate(v, unit=unit, split=split, seed=seed, design=d) for v, d in zip((a, b), designs, strict=True)
    )
    errors = [e.stderr if e.stderr is not None else 0.0 for e in (first, second)]
    value, stderr = first.value - second.value, math.hypot(*errors)
    freedom = sum(s**4 / (e.independent - 1) for s, e in zip(errors, (first, second), strict=True) if e.independent > 1)
    known = math.isfinite(freedom) and freedom > 0
    half = student(stderr**4 / freedom, 0.975) * stderr if known else stderr
    return replace(first, value=value, stderr=stderr, low=value - half, high=value + half)

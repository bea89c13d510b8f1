"""Proportions below a quantile that is itself estimated."""

import math

from jaxtyping import Float
from torch import Tensor

from zprime.statistics.estimate import Estimate, clopper_pearson


def proportion_below(
    reference: Float[Tensor, " m"],
    values: Float[Tensor, " n"],
    level: float,
    *,
    unit: str = "proportion",
    split: str = "heldout",
    seed: int | None,
) -> Estimate:
    """Proportion of `values` below the `level` quantile of what `reference` was drawn from.

    The interval is free of assumptions and holds with at least 95 %: the quantile lies between two order statistics of
    `reference` with at least 97.5 % (binomial), and at each of these the proportion has an exact binomial interval. It
    is wider than needed. The standard error is a fourth of its width.
    """
    from scipy.stats import binom

    ordered, m, n = reference.double().sort().values, len(reference), len(values)
    # the k-th smallest is below the quantile with probability P(B >= k), B ~ Binomial(m, level)
    below = int(binom.ppf(0.0125, m, level))
    above = int(binom.ppf(0.9875, m, level)) + 1

    def hits(k: int) -> int:
        if k < 1:
            return 0
        return n if k > m else int((values.double() < ordered[k - 1]).sum())

    point = hits(max(1, math.ceil(level * m)))
    low = clopper_pearson(hits(below), n, 0.025)[0]
    high = clopper_pearson(hits(above), n, 0.025)[1]
    return Estimate(point / n, (high - low) / 4, low, high, min(m, n), unit, split, seed)

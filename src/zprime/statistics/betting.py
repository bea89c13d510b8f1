"""Is the mean of numbers that cannot fall below a bound above zero? A test by betting, valid at every sample size.

Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting". No normality is assumed, and no
upper bound: gains that lose many nats in few rows fool a test by standard errors, and not this one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.errors import NumericalError
from zprime.statistics.design import EQUAL, Design

STAKES = 30
ROUNDING = 1e-6  # nats: how far below the bound a value may lie by rounding


@dataclass(frozen=True)
class Bet:
    """What a bet against "the mean is at most 0" came to.

    Attributes:
        wealth: the most that 1 grew to, over the rows in their order: at least 1 / level with a probability of `level`
            at most if the mean is 0 or less (Ville's inequality).
        low: lower limit of the mean, of confidence 1 - `level` (one-sided); the bound where the rows exclude nothing.
        bound: no value lies below minus this, nats.
        level: of the test.
        n: independent rows, or groups of rows, that were bet on.
        most: rows that a group counts for at most (with weights: rows of mean weight, and a row too). The mean is the
            one over rows where none counts for more.
    """

    wealth: float
    low: float
    bound: float
    level: float
    n: int
    most: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the mean is above 0 at this level."""
        return self.wealth * self.level >= 1


def bet(
    values: Float[Tensor, " n"],
    ids: Int[Tensor, " n"],
    *,
    bound: float,
    level: float = 0.05,
    design: Design = EQUAL,
    most: float = 1.0,
) -> Bet:
    """Bet that the mean of the rows is above 0, row by row in an order that no value decides.

    Rows of a group are bet on together, by their sum, as far as the group counts: for its rows, or for `most` rows of
    its mean where it has more. `most` must not depend on these rows. No test without such a limit can hold its level: a
    group so large and so rare that no sample has one may turn the mean over all rows. With `most` of 1 the mean over
    groups is tested, in which each counts once. Weights are in units of their mean, which is taken as known.

    Args:
        values: one number a row, none below `-bound`.
        ids: of the rows; a hash of them decides the order.
        bound: above 0; infinite where there is none, and then nothing can be shown.
        level: of the test, and of the limit.
        design: weights and groups of the rows.
        most: rows that a group counts for at most, e.g. the size of the largest in other data.

    Raises:
        NumericalError: a value lies below the bound by more than rounding, or is not finite.
    """
    above = values.isfinite() & (values >= -bound - ROUNDING * max(1.0, bound))
    if not bool(above.all()):
        raise NumericalError(f"bet: expected finite values of at least {-bound:g}, got {float(values[~above][0]):g}")
    total, size, key = _sums(values.double(), ids, design)
    scale = (most / size).clamp(max=1.0) / most  # so that no group counts for more than 1
    total, size = total * scale, size * scale
    if not math.isfinite(bound) or not len(total):
        return Bet(1.0, -math.inf, bound, level, len(total), most)
    order = torch.from_numpy(np.argsort(_hash(key.numpy()), kind="stable"))
    total, size = total[order], size[order]
    wealth = math.exp(min(_log_wealth(total, size, bound, 0.0), 700.0))
    return Bet(wealth, _limit(total, size, bound, level), bound, level, len(total), most)


def _sums(
    values: Tensor, ids: Tensor, design: Design
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"], Int[Tensor, " g"]]:
    """Weighted sum of the values and of the weights of every group, and the number that its place is drawn by."""
    there = torch.ones_like(ids, dtype=torch.bool) if design.weights is None else design.weights > 0
    values, design = design.on(values)
    share = torch.ones_like(values)
    if design.weights is not None:
        share = design.weights / design.weights.mean()
    if design.groups is None:
        return share * values, share, ids[there]
    names, at = torch.unique(design.groups, return_inverse=True)
    total, size = (torch.zeros(len(names), dtype=torch.float64).index_add_(0, at, v) for v in (share * values, share))
    return total, size, names


def _log_wealth(total: Tensor, size: Tensor, bound: float, mean: float) -> float:
    """Log of the most that 1 grows to when it is bet that the mean is above `mean`: 30 stakes, a thirtieth on each.

    A stake is k/31 of the largest that cannot lose everything: no group falls below `-(bound + mean)`.
    """
    step = (total - mean * size) / (bound + mean)
    stake = torch.arange(1, STAKES + 1, dtype=torch.float64)[:, None] / (STAKES + 1)
    grown = torch.log1p(stake * step.clamp(min=-1.0)).cumsum(1)
    return max(0.0, float(torch.logsumexp(grown, 0).max()) - math.log(STAKES))


def _limit(total: Tensor, size: Tensor, bound: float, level: float) -> float:
    """The largest mean that a bet rules out; wealth falls as the mean rises, so by bisection."""
    need = -math.log(level)
    low, high = -bound, float(total.sum() / size.sum())
    if _log_wealth(total, size, bound, low + 1e-9 * bound) < need:
        return -bound
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_wealth(total, size, bound, middle) >= need else (low, middle)
    return low


def _hash(ids: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea & Flood 2014): numbers as good as random, decided by the ids alone."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

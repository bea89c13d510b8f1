"""The chance that a value of one sample lies above one of another, and how many lie above a high quantile of it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.statistics.estimate import Z95, Estimate, clopper_pearson


def below(x: Float[Tensor, " n"], y: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """For each x the proportion of y below it, ties half."""
    ranked = y.double().sort().values
    x = x.double().contiguous()
    return (torch.searchsorted(ranked, x) + torch.searchsorted(ranked, x, right=True)).double() / (2 * len(y))


def logit_interval(value: float, stderr: float, n: int) -> tuple[float, float]:
    """95 %, symmetric in the logit; the rule of three where the two samples do not overlap at all."""
    if value in (0.0, 1.0) or stderr == 0:
        return max(0.0, value - 3 / n), min(1.0, value + 3 / n)
    centre, half = math.log(value / (1 - value)), Z95 * stderr / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(centre + s * half, -700.0), 700.0))) for s in (-1, 1))
    return low, high


def auc(a: Float[Tensor, " n"], b: Float[Tensor, " m"], *, split: str, seed: int | None) -> Estimate:
    """Chance that a value of `a` lies above one of `b` (ties half): the area under the ROC curve.

    The error is that of placements (DeLong et al. 1988); the interval is symmetric in the logit.
    """
    placed, other = below(a, b), below(b, a)
    value, fewest = float(placed.mean()), min(len(a), len(b))
    var = float(placed.var()) / len(a) + float(other.var()) / len(b) if fewest > 1 else 0.0
    low, high = logit_interval(value, math.sqrt(var), fewest)
    return Estimate(value, math.sqrt(var), low, high, fewest, "chance", split, seed)


def above_quantile(
    a: Float[Tensor, " n"], b: Float[Tensor, " m"], share: float, *, split: str, seed: int | None
) -> Estimate:
    """Proportion of `a` above the value that a `share` of the population of `b` exceeds: a true-positive rate.

    The threshold is an order statistic of b. Its error is in the interval: the population's quantile lies between the
    order statistics that 95 % of the numbers of exceedances, Binomial(m, share), allow. The distances of the
    proportion at these two thresholds, and those to its Clopper-Pearson limits, are added in quadrature (the MOVER
    method, Zou & Donner 2008). The standard error is the width of the
    interval over 2 x 1.96.
    """
    from scipy.stats import binom

    ranked = b.double().sort(descending=True).values
    few, many = (int(k) for k in binom.ppf([0.025, 0.975], len(b), share))
    at = round(share * len(b))

    def hits(exceeded: int) -> int:
        return int((a.double() > ranked[min(exceeded, len(ranked) - 1)]).sum())

    middle = hits(at)
    value, (low, high) = middle / len(a), clopper_pearson(middle, len(a), 0.05)
    least, most = hits(max(few - 1, 0)) / len(a), hits(many) / len(a)
    low = max(0.0, value - math.hypot(value - low, value - least))
    high = min(1.0, value + math.hypot(high - value, most - value))
    return Estimate(value, (high - low) / (2 * Z95), low, high, len(a), "proportion of rows", split, seed)

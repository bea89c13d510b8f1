"""Maximum mean discrepancy between two samples, with a permutation p-value.

Gretton et al. 2012: the unbiased quadratic-time estimate of `MMD^2 = E k(x,x') + E k(y,y') - 2 E k(x,y)` with
the Gaussian kernel `k = exp(-|a - b|^2 / (2 h^2))`, h the median distance of the pooled sample.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.errors import UsageError
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, student95

PERMUTATIONS = 499
WIDE = 1024  # dimensions above which distances are by a matrix product


@dataclass(frozen=True)
class MMD:
    """How far two samples are apart.

    Attributes:
        squared: MMD^2 with a jackknife standard error (too large rather than too small, Efron & Stein 1981).
        p_value: proportion of the permutations of the pooled sample, the given one among them, with an MMD^2 as large.
        bandwidth: h.
        permutations: how many were drawn.
    """

    squared: Estimate
    p_value: float
    bandwidth: float
    permutations: int


def mmd(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, split: str, seed: int, permutations: int = PERMUTATIONS
) -> MMD:
    """Estimate MMD^2, and test it by permutations.

    The p-value is exact: under one distribution for both it is below a with probability a at most, whatever the size.

    Args:
        x: independent draws, e.g. one code of each held-out row.
        y: as many independent draws of the other distribution.
        split: which rows `x` belongs to.
        seed: of the permutations.
        permutations: how many.

    Raises:
        UsageError: samples of different sizes, or fewer than 3 in each.
    """
    n = len(x)
    if n != len(y) or n < 3:
        raise UsageError(f"mmd: expected two samples of one size, at least 3, got {n} and {len(y)}")
    kernel, bandwidth = gaussian_kernel(torch.cat([x, y]).double())
    given = torch.cat([torch.ones(n), -torch.ones(n)]).double()
    order = torch.rand(permutations, 2 * n, generator=stream(seed, "mmd", split)).argsort(1)
    signs = torch.cat([given[None], given[order]])
    # s^T K s is what differs between permutations, and MMD^2 grows with it
    contrast = ((signs @ kernel) * signs).sum(1)
    as_large = int((contrast[1:] >= contrast[0] - 1e-10 * contrast[0].abs()).sum())
    value, stderr = unbiased(kernel)
    half = student95(n - 1) * stderr
    return MMD(
        Estimate(value, stderr, value - half, value + half, n, "MMD squared", split, seed),
        (as_large + 1) / (permutations + 1),
        bandwidth,
        permutations,
    )


def gaussian_kernel(pooled: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k k"], float]:
    """Kernel matrix with a diagonal of zeros, and its bandwidth: the median distance between two points."""
    mode = "donot_use_mm_for_euclid_dist"
    if pooled.shape[1] > WIDE:  # it loses about 1e-15 of the squares of what it is given
        pooled, mode = pooled - pooled.mean(0), "use_mm_for_euclid_dist"
    square = torch.cdist(pooled, pooled, compute_mode=mode).square_()
    above = torch.triu_indices(len(pooled), len(pooled), 1)
    bandwidth = float(square[above[0], above[1]].median().sqrt())
    # where more than half of all points are the same, any bandwidth will do
    kernel = square.mul_(-0.5 / max(bandwidth, 1e-12) ** 2).exp_()
    return kernel.fill_diagonal_(0.0), bandwidth


def unbiased(kernel: Float[Tensor, "k k"]) -> tuple[float, float]:
    """MMD^2 of the first half against the second, and its standard error by leaving out one of each in turn."""
    n = len(kernel) // 2
    xx, yy, xy = kernel[:n, :n].sum(1), kernel[n:, n:].sum(1), kernel[:n, n:]
    within, across = xx.sum() + yy.sum(), xy.sum()
    value = within / (n * (n - 1)) - 2 * across / n**2
    less_within = within - 2 * (xx + yy)
    less_across = across - xy.sum(1) - xy.sum(0) + xy.diagonal()
    left = less_within / ((n - 1) * (n - 2)) - 2 * less_across / (n - 1) ** 2
    variance = (left - left.mean()).square().sum() * (n - 1) / n
    return float(value), float(variance.sqrt())

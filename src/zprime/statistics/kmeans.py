"""k-means: seeds by k-means++ (Arthur & Vassilvitskii 2007), and Lloyd's steps."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import WIDE, blocks

SAME = 1e-10  # of the squared lengths of two points: an expanded square of their distance below is rounding


def seeds(
    points: Float[Tensor, "n d"],
    k: int,
    *,
    first: int,
    rng: torch.Generator,
    weight: Float[Tensor, " n"] | None = None,
) -> list[int]:
    """Positions of k points: each is drawn in proportion to its squared distance from the nearest one before it.

    Args:
        points: float64.
        k: how many; at most as many as there are points.
        first: position of the first.
        rng: source of randomness, one number a seed.
        weight: of each point; the chance is in proportion to it too.

    A point that coincides with an earlier seed is taken only where all others do too; then all of them are equally
    likely.
    """
    chosen, distances = [first], _distances(points)
    nearest = distances(first)
    free = torch.ones(len(points), dtype=torch.bool)
    free[first] = False
    for _ in range(k - 1):
        chance = nearest if weight is None else nearest * weight
        if float(chance.sum()) <= 0:
            chance = free.double()
        u = torch.rand(1, generator=rng, dtype=torch.float64) * chance.sum()
        new = int(torch.searchsorted(chance.cumsum(0), u, right=True).clamp(max=len(points) - 1))
        chosen.append(new)
        free[new] = False
        nearest = torch.minimum(nearest, distances(new))
    return chosen


def _distances(points: Float[Tensor, "n d"]) -> Callable[[int], Float[Tensor, " n"]]:
    """A function that gives the squared distance of every point from the one at a position.

    Above 1,024 dimensions squares are expanded: a product with the points is many times faster than their differences,
    which are as large as the points themselves.
    """
    if points.shape[1] <= WIDE:
        return lambda at: (points - points[at]).square().sum(1)
    squares = torch.linalg.vecdot(points, points)

    def distances(at: int) -> Float[Tensor, " n"]:
        both = squares + squares[at]
        gap = both - 2 * (points @ points[at])
        return torch.where(gap > SAME * both, gap, 0.0)

    return distances


def lloyd(
    points: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], *, rounds: int, block: int = 4096
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Lloyd's algorithm: every point joins its nearest centre, every centre moves to the mean of its points.

    Args:
        points: what is clustered.
        centres: where the centres start; one that loses all points stays where it is.
        rounds: how many times, at least 1.
        block: points whose distances are in memory at once.

    Returns:
        The centres after the last round, and the centre (0 to k - 1) that every point had joined in it.
    """
    for _ in range(rounds):
        owner = torch.cat([torch.cdist(points[b], centres).argmin(1) for b in blocks(len(points), block)])
        count = torch.bincount(owner, minlength=len(centres))[:, None]
        total = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres, owner

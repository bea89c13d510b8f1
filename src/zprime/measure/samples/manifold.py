"""Precision, recall, density and coverage: proportions of rows inside balls that reach to the k-th neighbour."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.kernels import nearest
from zprime.statistics.resampling import Halves, halve

NEAREST = 5
NAMES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Neighbourhoods:
    """The nearest rows of the same sample: distances ascending, and which they are."""

    distance: Float[Tensor, "n m"]
    index: Int[Tensor, "n m"]


def neighbourhoods(x: Float[Tensor, "n f"], *, k: int = NEAREST) -> Neighbourhoods:
    """Enough neighbours for balls of k neighbours among random halves of the rows."""
    return Neighbourhoods(*nearest(x, x, min(8 * k, len(x) - 1), exclude=torch.arange(len(x), device=x.device)))


def manifold(real: Float[Tensor, "n f"], fake: Float[Tensor, "m f"], *, k: int = NEAREST) -> Float[Tensor, " 4"]:
    """Precision, recall, density and coverage of `fake` beside `real`, in the order of `NAMES`."""
    every = (torch.ones(len(x), dtype=torch.bool) for x in (real, fake))
    return _Balls(real.double(), fake.double(), k)(*every)


def manifold_replicates(
    real: Float[Tensor, "n f"],
    fake: Float[Tensor, "m f"],
    *,
    k: int = NEAREST,
    known: tuple[Neighbourhoods, Neighbourhoods] | None = None,
) -> Halves:
    """The four, in the order of `NAMES`, on all rows and on random halves.

    Precision and recall: Kynkaanniemi et al. 2019; density and coverage: Naeem et al. 2020. A row is inside a ball if
    it is nearer to the centre than the centre's k-th neighbour in its own sample. Both samples need more than 2 k rows.
    `known`: the `neighbourhoods` of both, where they were searched before.
    """
    return halve(_Balls(real.double(), fake.double(), k, known), len(real), len(fake))


class _Balls:
    """Which rows of one sample lie in balls about rows of the other; the radii of some rows from their neighbours.

    Of all pairs only those are kept that are nearer than the farthest neighbour that is known: no ball is larger.
    """

    def __init__(
        self, real: Tensor, fake: Tensor, k: int, known: tuple[Neighbourhoods, Neighbourhoods] | None = None
    ) -> None:
        self.k = k
        self.neighbourhoods = known or (neighbourhoods(real, k=k), neighbourhoods(fake, k=k))
        between = torch.cdist(real, fake)
        most, most2 = (around.distance[:, -1] for around in self.neighbourhoods)
        self.near = _Pairs.of(between, between < most[:, None])
        self.near2 = _Pairs.of(between, between < most2)

    def __call__(self, real: Bool[Tensor, " n"], fake: Bool[Tensor, " m"]) -> Float[Tensor, " 4"]:
        radius, radius2 = (_radius(n, kept, self.k) for n, kept in zip(self.neighbourhoods, (real, fake), strict=True))
        near = self.near.inside((self.near.distance < radius[self.near.real]) & fake[self.near.fake])
        balls = torch.bincount(near.fake, minlength=len(fake))[fake]
        covered = torch.bincount(near.real, minlength=len(real))[real]
        near2 = self.near2.inside((self.near2.distance < radius2[self.near2.fake]) & real[self.near2.real])
        recalled = torch.bincount(near2.real, minlength=len(real))[real]
        numbers = ((balls > 0).double(), (recalled > 0).double(), balls.double() / self.k, (covered > 0).double())
        return torch.stack([v.mean() for v in numbers])


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a real and a generated row: which rows they are, and how far from each other."""

    real: Int[Tensor, " p"]
    fake: Int[Tensor, " p"]
    distance: Float[Tensor, " p"]

    @classmethod
    def of(cls, between: Float[Tensor, "n m"], kept: Bool[Tensor, "n m"]) -> "_Pairs":
        real, fake = kept.nonzero(as_tuple=True)
        return cls(real, fake, between[real, fake])

    def inside(self, kept: Bool[Tensor, " p"]) -> "_Pairs":
        return _Pairs(self.real[kept], self.fake[kept], self.distance[kept])


def _radius(around: Neighbourhoods, keep: Tensor, k: int) -> Float[Tensor, " n"]:
    """Of every row that is kept, the k-th smallest distance to others that are; 0 of all else: empty balls."""
    rank = keep[around.index[keep]].long().cumsum(1)
    at = (rank < k).sum(1).clamp(max=rank.shape[1] - 1)
    radius = torch.zeros(len(keep), dtype=around.distance.dtype, device=keep.device)
    radius[keep] = around.distance[keep].gather(1, at[:, None])[:, 0]
    return radius

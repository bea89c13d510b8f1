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
    """All distances once; the radii of some of the rows from each row's nearest neighbours."""

    def __init__(
        self, real: Tensor, fake: Tensor, k: int, known: tuple[Neighbourhoods, Neighbourhoods] | None = None
    ) -> None:
        self.k = k
        self.between = torch.cdist(real, fake)
        self.neighbourhoods = known or (neighbourhoods(real, k=k), neighbourhoods(fake, k=k))

    def __call__(self, real: Bool[Tensor, " n"], fake: Bool[Tensor, " m"]) -> Float[Tensor, " 4"]:
        radius, radius2 = (_radius(n, kept, self.k) for n, kept in zip(self.neighbourhoods, (real, fake), strict=True))
        between = self.between if bool(real.all() & fake.all()) else self.between[real][:, fake]
        inside = between < radius[:, None]
        balls = inside.double().sum(0)
        recalled = (between < radius2).any(1)
        numbers = ((balls > 0).double(), recalled.double(), balls / self.k, inside.any(1).double())
        return torch.stack([v.mean() for v in numbers])


def _radius(around: Neighbourhoods, keep: Tensor, k: int) -> Float[Tensor, " n"]:
    """Of the rows that are kept, the k-th smallest distance to others that are."""
    distance, index = around.distance[keep], around.index[keep]
    rank = keep[index].long().cumsum(1)
    at = (rank < k).sum(1).clamp(max=distance.shape[1] - 1)
    return distance.gather(1, at[:, None])[:, 0]

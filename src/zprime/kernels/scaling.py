"""Coordinates in which float32 neither over- nor underflows, and what it can err by in them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks

LARGE = 1 << 26
"""Numbers of points, 268 MB, from which on no copy of them is made."""
SOME = 1 << 20
"""Numbers of those that decide their centre then."""


@dataclass(frozen=True)
class Scaling:
    """Rows less their centre, in a unit: distances are the same but for the unit."""

    unit: float
    centre: Float[Tensor, " d"]

    @classmethod
    def of(cls, points: Float[Tensor, "n d"], far: float) -> "Scaling":
        """Centre and unit of some points, or of queries whose largest entry is `far` where that is more."""
        largest = max(far, reach(points))
        if is_large(points):
            points = points[:: math.ceil(points.numel() / SOME)]
        # a power of two: scaling rounds nothing; of denormal numbers the reciprocal would be infinite
        unit = 2.0 ** math.ceil(math.log2(max(largest, torch.finfo(points.dtype).tiny))) if largest > 0 else 1.0
        return cls(unit, (points * (1 / unit)).mean(0))  # subtracted from both, so any centre will do

    def scaled(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """In float32; subtracted in the wider type of the two, so that the centre is the same for all."""
        wide = torch.promote_types(x.dtype, self.centre.dtype)
        return (x.to(wide) * (1 / self.unit)).sub_(self.centre).float()


def is_large(points: Tensor) -> bool:
    """Whether no copy of the points is made."""
    return points.numel() > LARGE


def reach(x: Tensor) -> float:
    """The largest entry."""
    return max(abs(float(v)) for v in x.aminmax()) if len(x) else 0.0


def rounding(d: int) -> float:
    """What |p|^2 - 2 q p may err by in float32 over `d` columns, as a multiple of (|q| + |p|)^2.

    In any order of summation that is at most d + 8 roundings (Higham 2002, 3.1), those of q and p themselves included.
    """
    return (d + 8) * 2.0**-24 * 1.01


def squares(x: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Squared lengths in float64, a few rows at a time."""
    squared = x.new_empty(len(x), dtype=torch.float64)
    for rows in blocks(len(x), 4096):
        squared[rows] = x[rows].double().square_().sum(1)
    return squared

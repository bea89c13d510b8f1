"""Ranges, means and standard deviations of rows that are looked at block by block, in float64."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.data.blocks import Chosen


@final
@dataclass(frozen=True)
class Ranges:
    """What one pass finds of each entry of a datum.

    Attributes:
        low, high: its least and its largest value.
        off: how far float32 rounds one of its values at most.
    """

    low: Float[Tensor, "*datum"]
    high: Float[Tensor, "*datum"]
    off: Float[Tensor, "*datum"]

    @classmethod
    def of(cls, rows: Chosen) -> "Ranges":
        """Those of all rows; at least one."""
        low, high, off = (torch.full(rows.shape, v, dtype=torch.float64) for v in (torch.inf, -torch.inf, 0.0))
        for part in rows.blocks():
            values = part.double()
            low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
            if part.element_size() > 2 and part.dtype != torch.float32:  # which holds the others
                off = torch.maximum(off, (values.float().double() - values).abs().amax(0))
        return cls(low, high, off)


def moments(rows: Chosen, ranges: Ranges) -> tuple[Float[Tensor, "*datum"], Float[Tensor, "*datum"]]:
    """Mean and standard deviation of each entry, of a constant one the constant and 1.

    Each is computed of differences from the first row, in units of the largest: nothing cancels, and no square over- or
    underflows. Blocks are put together by their own means and sums of squares (Chan, Golub and LeVeque).
    """
    first = rows.x[rows.ids[0]].double()
    unit = torch.maximum(ranges.high - first, first - ranges.low)
    divisor = torch.where(unit > 0, unit, 1.0)
    n, mean, squares = 0, torch.zeros_like(first), torch.zeros_like(first)
    for part in rows.blocks():
        inside = (part.double() - first) / divisor
        k, centre = len(part), inside.mean(0)
        gap = centre - mean
        squares += (inside - centre).square().sum(0) + gap.square() * (n * k / (n + k))
        mean += gap * (k / (n + k))
        n += k
    scale = unit * (squares / n).sqrt()
    return first + unit * mean, torch.where(scale > 0, scale, 1.0)

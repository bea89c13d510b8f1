"""The search for nearest neighbours among many points: part by part, so that what is packed of them stays small."""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 1 << 24
"""Numbers of the points in a part, about."""


class Search(Protocol):
    """Points that are packed to be searched in."""

    def nearest(
        self, queries: Float[Tensor, "m d"], k: int, exclude: Int[Tensor, " m"] | None
    ) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """Squared distances in the scaling's unit, ascending, equal ones by position; and positions."""


class Parts:
    """Points that are packed part by part in every search: they may lie in a file that is mapped to memory.

    Distances and positions are those of one search among all points, to the bit: every distance is computed of its two
    rows alone, and of the parts' k nearest the k nearest are kept.
    """

    def __init__(self, points: Float[Tensor, "n d"], search: Callable[[Tensor], Search]) -> None:
        self.points, self.search = points, search

    def nearest(
        self, queries: Float[Tensor, "m d"], k: int, exclude: Int[Tensor, " m"] | None
    ) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """Squared distances in the scaling's unit, ascending, and positions."""
        n, d = self.points.shape
        count = max(1, n // max(AT_ONCE // d, k + 1))  # parts of k + 1 points at least: one may be excluded
        near = torch.empty(len(queries), 0, dtype=torch.float64, device=queries.device)
        index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start, stop in pairwise(n * i // count for i in range(count + 1)):
            within = None
            if exclude is not None:
                within = torch.where((exclude >= start) & (exclude < stop), exclude - start, -1)
            found, at = self.search(self.points[start:stop]).nearest(queries, k, within)
            near, index = torch.cat([near, found], 1), torch.cat([index, at + start], 1)
            near, order = near.sort(dim=1, stable=True)  # positions ascend from part to part
            near, index = near[:, :k].contiguous(), index.gather(1, order)[:, :k].contiguous()
        return near, index

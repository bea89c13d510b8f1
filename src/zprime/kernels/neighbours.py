"""Exact k nearest neighbours: float32 finds the candidates, float64 decides between them."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import check_matrix
from zprime.errors import ArrayError
from zprime.kernels import neighbours_compiled, neighbours_torch
from zprime.kernels.neighbours_parts import Parts, Search
from zprime.kernels.scaling import Scaling, is_large, reach

FAR = 1e9  # times the points' largest entry, from which on queries need a scale of their own


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "m d"],
    points: Float[Tensor, "n d"],
    k: int,
    *,
    exclude: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """Euclidean distances to the k nearest points, ascending, and which they are: see `ExactIndex`, for one search."""
    return ExactIndex(points).nearest(queries, k, exclude=exclude)


class ExactIndex:
    """Points to search in more than once: exact, without an index.

    A sieve in float32, whose rounding error has a proven bound, finds what could be among the k nearest; that is
    compared by the direct form in float64. Equal distances go by position, so the answer does not depend on the size
    of blocks. Memory: one copy of the points in float32 (from 256 columns and 96 queries on their projections
    on 192 axes), and the queries at hand. Of more than 67 million numbers no copy is kept: each search goes through
    them part by part, so that they may be mapped from a file.
    """

    @torch.no_grad()
    def __init__(self, points: Float[Tensor, "n d"], *, far: float = 0.0) -> None:
        """Centre and scale the points to where float32 neither over- nor underflows.

        Args:
            points: what to search in.
            far: largest entry of queries that are much farther out than the points.

        Raises:
            ArrayError: not a finite matrix.
        """
        check_matrix("points", points)
        self.points = points
        self.scaling = Scaling.of(points, far)
        search: Callable[[Tensor], Search] = partial(neighbours_torch.Tiles, scaling=self.scaling)
        if neighbours_compiled.takes(points):
            axes = neighbours_compiled.Axes(points, self.scaling)
            search = partial(neighbours_compiled.Sieve, scaling=self.scaling, axes=axes)
        self._search = Parts(points, search) if is_large(points) else search(points)

    @torch.no_grad()
    def nearest(
        self, queries: Float[Tensor, "m d"], k: int, *, exclude: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """Euclidean distances to the k nearest points, ascending, and which they are.

        Args:
            queries: what to search for.
            k: how many neighbours.
            exclude: for every query the position of a point that does not count, or -1; `torch.arange(n)` where the
                queries are the points themselves.

        Returns:
            Distances (float64) and positions among the points.

        Raises:
            ArrayError: not a finite matrix, another width, or there are fewer than k points.
        """
        n, d = self.points.shape
        check_matrix("queries", queries, d=d)
        least = k if exclude is None else k + 1
        if k < 1 or n < least:
            raise ArrayError(f"k: expected 1 to {n - least + k} ({n} points), got {k}")
        if exclude is not None and exclude.shape != (len(queries),):
            raise ArrayError(f"exclude: expected {len(queries)} positions, one a query, got {list(exclude.shape)}")
        far = reach(queries)
        if far > FAR * self.scaling.unit:
            return ExactIndex(self.points, far=far).nearest(queries, k, exclude=exclude)
        distance, index = self._search.nearest(queries, k, exclude)
        return distance.sqrt_().mul_(self.scaling.unit), index

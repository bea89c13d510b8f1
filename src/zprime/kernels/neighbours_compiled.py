"""The compiled search for nearest neighbours: a sieve in float32, whatever passes it compared in float64."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.kernels import compiled
from zprime.kernels.scaling import Scaling, rounding, squares

WIDE = 256  # columns from which on a sieve of few axes may pay
AXES = 128  # of that sieve: 350 of Fashion-MNIST's 55,000 images pass, 800 with half as many axes
ASKED = 512  # queries that make up for finding the axes
SAMPLE = 4096  # points that the axes are found from
TRIED = 96  # queries that tell whether the axes spare work,
PASSED = 32  # which is where fewer than one in so many points passes
NUMBERS = 1 << 23  # of the queries in float64 that are searched for in one call


def takes(points: Tensor) -> bool:
    """Whether these points can be searched by the compiled kernel."""
    return compiled.usable(points) and points.dtype in (torch.float32, torch.float64)


class Sieve:
    """Points to search in, packed for the sieve when they are first searched."""

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling) -> None:
        self.points, self.scaling = points.contiguous(), scaling
        self.asked = 0
        self.whole: Columns | None = None
        self.few: Columns | None = None

    def nearest(
        self, queries: Float[Tensor, "m d"], k: int, exclude: Int[Tensor, " m"] | None
    ) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """Squared distances in the scaling's unit, ascending, and positions."""
        (m, d), n = queries.shape, len(self.points)
        distance = torch.empty(m, k, dtype=torch.float64)
        index = torch.empty(m, k, dtype=torch.int64)
        without = None if exclude is None else exclude.to(torch.int64).contiguous()

        def search(columns: Columns, rows: slice) -> int:
            some = None if without is None else without[rows]
            return columns.search(self.points, queries[rows], some, distance[rows], index[rows])

        self.asked += m
        columns, start = None, 0
        if d >= WIDE and self.asked >= ASKED and n > AXES:
            columns = self.few = self.few or Columns(self.points, self.scaling, _axes(self.points, self.scaling))
            start = min(TRIED, m)
            if search(columns, slice(0, start)) * PASSED > n * start:
                columns = None
        if columns is None:
            columns = self.whole = self.whole or Columns(self.points, self.scaling, None)
        step = max(TRIED, min(NUMBERS // d, compiled.WORK // (n * d)))
        for rows in blocks(m - start, step):
            search(columns, slice(start + rows.start, start + rows.stop))
        return distance, index


class Columns:
    """What is sieved by: the rows as they are scaled, or their projections on orthonormal axes.

    Distances between projections are never larger, so what fails the sieve is not among the nearest.
    """

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling, axes: Float[Tensor, "d a"] | None) -> None:
        self.scaling, self.axes = scaling, axes
        parts = [self._of(points[rows]) for rows in blocks(len(points), SAMPLE)]
        self.packed = compiled.module.Sieve(torch.cat([sieved for sieved, _ in parts]))
        self.longest = max(float(length.max()) for _, length in parts)
        self.rounding = rounding(parts[0][0].shape[1])

    def _of(self, x: Tensor) -> tuple[Float[Tensor, "m c"], Float[Tensor, " m"]]:
        """Rows as they are sieved, and their lengths before any projection."""
        scaled = self.scaling.scaled(x)
        wide = scaled.double()
        if self.axes is not None:
            scaled = (wide @ self.axes).float()
        return scaled.contiguous(), wide.square_().sum(1).sqrt()

    def search(self, points: Tensor, queries: Tensor, without: Tensor | None, distance: Tensor, index: Tensor) -> int:
        """Fill in the k nearest of some queries; how many pairs passed the sieve."""
        sieved, length = self._of(queries)
        error = self.rounding * (self.longest + length).square() + 1e-37
        base = 0.5 * (error - squares(sieved))
        work = len(queries) * len(points) * sieved.shape[1]
        threads = torch.get_num_threads() if work > compiled.SMALL else 1
        exact = queries.double().contiguous()
        inverse = 1 / self.scaling.unit
        passed: int = self.packed.search(points, inverse, exact, sieved, base, without, distance, index, threads)
        return passed


def _axes(points: Float[Tensor, "n d"], scaling: Scaling) -> Float[Tensor, "d a"]:
    """Orthonormal axes that hold most of the spread: a randomised range finder (Halko et al. 2011, algorithm 4.4)."""
    rng = torch.Generator().manual_seed(0)  # any axes are right, these are good ones
    some = scaling.scaled(points[torch.randperm(len(points), generator=rng)[:SAMPLE]]).double()
    axes = torch.randn(points.shape[1], AXES, generator=rng, dtype=torch.float64)
    for _ in range(2):
        axes = torch.linalg.qr(some.T @ (some @ axes)).Q
    return axes

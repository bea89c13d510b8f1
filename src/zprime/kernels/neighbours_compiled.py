"""The compiled search for nearest neighbours: a sieve in float32, whatever passes it compared in float64."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.kernels import compiled
from zprime.kernels.scaling import Scaling, rounding, squares

WIDE = 256  # columns from which on a sieve of few axes may pay
AXES = 192  # of that sieve: of Fashion-MNIST's 55,000 images about 100 pass
FIRST = 32  # of them that every pair is compared along
ASKED = 96  # queries that make up for finding the axes
SAMPLE = 4096  # points that the axes are found from
TRIED = 96  # queries that tell whether the axes spare work,
PASSED = 32  # which is where fewer than one in so many points passes
NUMBERS = 1 << 23  # of the queries in float64 that are searched for in one call


def takes(points: Tensor) -> bool:
    """Whether these points can be searched by the compiled kernel."""
    return compiled.usable(points) and points.dtype in (torch.float32, torch.float64)


class Sieve:
    """Points to search in, packed for the sieve when they are first searched."""

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling, axes: "Axes") -> None:
        self.points, self.scaling, self.axes = points.contiguous(), scaling, axes
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
            columns = self.few = self.few or Columns(self.points, self.scaling, self.axes.found)
            start = min(TRIED, m)
            if search(columns, slice(0, start)) * PASSED > n * start:
                columns = None
        if columns is None:
            columns = self.whole = self.whole or Columns(self.points, self.scaling, None)
        step = max(TRIED, min(NUMBERS // d, compiled.WORK // (n * d)))
        for rows in blocks(m - start, step):
            search(columns, slice(start + rows.start, start + rows.stop))
        return distance, index


class Axes:
    """Orthonormal axes that hold most of the spread of some points, found when they are first asked for."""

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling) -> None:
        self.points, self.scaling = points, scaling

    @cached_property
    def found(self) -> Float[Tensor, "d a"]:
        """In falling order of the spread along them; any are right, these are good ones."""
        return _axes(self.points, self.scaling)


class Columns:
    """What is sieved by: the rows as they are scaled, or their projections on orthonormal axes.

    Beside a projection stands the length of the rest of its row. Distances between such are never larger than between
    the rows (the triangle inequality), so what fails the sieve is not among the nearest. Of projections there are two:
    one on the first axes for every pair, and one on all axes for pairs that pass it.
    """

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling, axes: Float[Tensor, "d a"] | None) -> None:
        self.scaling, self.axes = scaling, axes
        parts = [self._of(points[rows]) for rows in blocks(len(points), SAMPLE)]
        fine = None if axes is None else torch.cat([part.fine for part in parts if part.fine is not None])
        self.packed = compiled.module.Sieve(torch.cat([part.sieved for part in parts]), fine)
        self.longest = max(float(part.length.max()) for part in parts)
        # the length of the rest is a root of a difference of float64, which errs by 1.7 sqrt(d) of float32's roundings
        d = points.shape[1]
        self.rounding = rounding(d if axes is None else axes.shape[1] + 1 + math.ceil(2 * math.sqrt(d)))

    def _of(self, x: Tensor) -> "_Sieved":
        scaled = self.scaling.scaled(x)
        wide = scaled.double()
        if self.axes is None:
            return _Sieved(scaled.contiguous(), None, wide.square_().sum(1).sqrt())
        along = wide @ self.axes
        square = wide.square_().sum(1)
        return _Sieved(_with_rest(along[:, :FIRST], square), _with_rest(along, square), square.sqrt())

    def search(self, points: Tensor, queries: Tensor, without: Tensor | None, distance: Tensor, index: Tensor) -> int:
        """Fill in the k nearest of some queries; how many pairs passed the sieve."""
        q = self._of(queries)
        error = self.rounding * (self.longest + q.length).square() + 1e-37
        base = 0.5 * (error - squares(q.sieved))
        work = len(queries) * len(points) * q.sieved.shape[1]
        threads = torch.get_num_threads() if work > compiled.SMALL else 1
        exact = queries.double().contiguous()
        inverse = 1 / self.scaling.unit
        passed: int = self.packed.search(
            points, inverse, exact, q.sieved, q.fine, base, error, without, distance, index, threads
        )
        return passed


@dataclass(frozen=True)
class _Sieved:
    """Rows as they are sieved, first and then, and their lengths before any projection."""

    sieved: Float[Tensor, "m c"]
    fine: Float[Tensor, "m f"] | None
    length: Float[Tensor, " m"]


def _with_rest(along: Float[Tensor, "m a"], square: Float[Tensor, " m"]) -> Float[Tensor, "m f"]:
    """Projections, and the length of what they leave of rows of these squared lengths; float32."""
    rest = (square - along.square().sum(1)).clamp(min=0).sqrt()
    return torch.cat([along, rest[:, None]], 1).float()


def _axes(points: Float[Tensor, "n d"], scaling: Scaling) -> Float[Tensor, "d a"]:
    """Orthonormal axes that hold most of the spread, in falling order.

    They are found by a randomised range finder (Halko et al. 2011, algorithm 4.4).
    """
    rng = torch.Generator().manual_seed(0)  # any axes are right, these are good ones
    some = scaling.scaled(points[torch.randperm(len(points), generator=rng)[:SAMPLE]]).double()
    axes = torch.randn(points.shape[1], AXES, generator=rng, dtype=torch.float64)
    for _ in range(2):
        axes = torch.linalg.qr(some.T @ (some @ axes)).Q
    along = some @ axes
    ordered: Tensor = axes @ torch.linalg.eigh(along.T @ along).eigenvectors.flip(1)
    return ordered

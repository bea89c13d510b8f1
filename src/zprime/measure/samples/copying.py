"""Copying: are generated rows nearer to the training set than unseen rows would be?

Every number comes from one exact search for the nearest training rows of every generated row. The reference are
reconstructions of unseen rows, which are as blurred as generated rows, of rows that the model has not seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.errors import ArrayError
from zprime.kernels import ExactIndex
from zprime.measure.samples.features import Entries
from zprime.results.samples import Copying
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import stream
from zprime.statistics.auc import below, logit_interval
from zprime.statistics.estimate import Z95, Estimate, mean_estimate, proportion
from zprime.statistics.kmeans import lloyd

FIFTH = 5  # the nearest training row is compared with the fifth nearest: up to four rows may be equal
CELLS = 10
CELL_ROWS = 30  # rows of the reference in a cell, on average, at least
ROUNDS = 20
ROWS = "generated rows"
UNCHANGED = Entries()


@dataclass(frozen=True)
class Neighbours:
    """Where some rows lie relative to the training set: distances to the nearest training rows, and the region.

    Attributes:
        distance: to the nearest training row, the second nearest, ..., the fifth.
        parent: position of the nearest training row.
        cell: region of the data, that of the nearest training row.
        isolation: distance of that training row from its own nearest other training row.
    """

    distance: Float[Tensor, "n k"]
    parent: Int[Tensor, " n"]
    cell: Int[Tensor, " n"]
    isolation: Float[Tensor, " n"]

    @property
    def to_one(self) -> Float[Tensor, " n"]:
        """Distance to the nearest training row over that to the fifth nearest; 1 where both are 0."""
        return (self.distance[:, 0] / self.distance[:, -1]).nan_to_num(1.0)

    def take(self, rows: Tensor | slice) -> "Neighbours":
        """Some of the rows."""
        return Neighbours(self.distance[rows], self.parent[rows], self.cell[rows], self.isolation[rows])

    def everywhere(self) -> "Neighbours":
        """The same rows with all of them in one region."""
        return replace(self, cell=torch.zeros_like(self.cell))


class TrainingSet:
    """The training rows, searched for neighbours; distances between training rows are searched once and kept.

    Args:
        x: the rows.
        codes: where regions are cut by k-means: the posteriors' means.
        reference: number of rows that regions must be large enough for.
        seed: of the regions' first centres.
        entries: how rows are compared; by default as they are.
        index: of these rows, where one was made; of others it is not taken.
    """

    def __init__(
        self,
        x: Float[Tensor, "n *datum"],
        codes: Float[Tensor, "n d"],
        *,
        reference: int,
        seed: int = 0,
        entries: Entries = UNCHANGED,
        index: ExactIndex | None = None,
    ) -> None:
        if len(x) < 3:
            raise ArrayError(f"copying: expected at least 3 training rows, got {len(x)}")
        self.entries = entries
        self.x = entries.whole(x)
        self._index = index if index is not None and _same(index.points, self.x) else ExactIndex(self.x)
        cells = max(1, min(CELLS, reference // CELL_ROWS))
        self.cells = cells_of(codes, cells, seed=seed)
        self._isolation = torch.full((len(x),), torch.nan, dtype=torch.float64)

    def neighbours(self, x: Float[Tensor, "n *datum"]) -> Neighbours:
        """Search exactly for the nearest training rows."""
        distance, index = self._index.nearest(self.entries.of(x), min(FIFTH, len(self.x)))
        parent = index[:, 0]
        return Neighbours(distance, parent, self.cells[parent], self.isolation(parent))

    def isolation(self, rows: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Distance of training rows from their nearest other training row; searched once for each."""
        new = torch.unique(rows[self._isolation[rows].isnan()])
        if len(new):
            self._isolation[new] = self._index.nearest(self.x[new], 1, exclude=new)[0][:, 0]
        return self._isolation[rows]

    def plant(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n f"]:
        """Copies for the positive control: training rows, plus noise of a tenth of `isolation`."""
        rows = torch.randint(len(self.x), (n,), generator=rng)
        noise = torch.randn(n, self.x.shape[1], generator=rng)
        size = 0.1 * self.isolation(rows)[:, None].float()
        copies = self.x[rows] + size * noise / math.sqrt(self.x.shape[1])
        return self.entries.back(copies)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices are the same numbers in memory."""
    return (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)


def cells_of(codes: Float[Tensor, "n d"], cells: int, *, seed: int) -> Int[Tensor, " n"]:
    """Cut rows into regions by k-means on their codes."""
    x = codes.float()
    centres = x[torch.randperm(len(x), generator=stream(seed, "cells"))[:cells]]
    if cells == 1:
        return torch.zeros(len(x), dtype=torch.long)
    return lloyd(x, centres, rounds=ROUNDS, block=len(x))[1]


def copying(generated: Neighbours, reference: Neighbours, *, seed: int | None = None) -> Copying:
    """Compare a sample with the reference, both searched in the same training set.

    The status is `copies` if the interval of `regional` lies above 1/2 + 0.1/2, or that of `near` above 0.05 + 0.1
    (what a generator gives that makes exact copies in one row of ten), and that of `singled` above 0.05: samples are
    nearer than they should be, and to single rows. Otherwise it is `passes`, which clears nobody:
    `Reference.judge` does. It is conditional on the training set and the model.
    """
    auc = _auc(generated.everywhere(), reference.everywhere(), seed)
    regional = _auc(generated, reference, seed)
    near = _tail([(a.distance[:, 0], b.distance[:, 0]) for a, b in _by_cell(generated, reference)], seed)
    singled = _tail([(generated.to_one, reference.to_one)], seed)
    nearer = regional.low > 0.5 + THRESHOLDS.copies / 2 or near.low > THRESHOLDS.near + THRESHOLDS.copies
    own = generated.distance[:, 0] > generated.isolation
    ratio = (generated.distance[:, 0] / generated.distance[:, 1].clamp(min=1e-300)).nan_to_num(1.0)
    return Copying(
        auc=auc,
        regional=regional,
        near=near,
        singled=singled,
        z_u=_z(auc, len(generated.cell), len(reference.cell)),
        c_t=_c_t(generated, reference, seed),
        authenticity=proportion(int(own.sum()), len(own), unit="proportion of rows", split=ROWS, seed=seed),
        ratio=mean_estimate(ratio, unit="ratio of distances", split=ROWS, seed=seed),
        status="copies" if nearer and singled.low > THRESHOLDS.near else "passes",
    )


def _auc(generated: Neighbours, reference: Neighbours, seed: int | None) -> Estimate:
    """Mean over generated rows of the proportion of the reference, in the same cell, that is farther; ties count half.

    The error is that of placements (DeLong et al. 1988) by cell; the interval is symmetric in the logit. Rows of cells
    without reference are left out.
    """
    values: list[Tensor] = []
    spread = 0.0
    kept = int(torch.isin(generated.cell, reference.cell).sum())
    for drawn, unseen in _by_cell(generated, reference):
        a, b = drawn.distance[:, 0], unseen.distance[:, 0]
        values.append(1 - below(a, b))
        if len(b) > 1:
            spread += (len(a) / kept) ** 2 * float(below(b, a).var()) / len(b)
    placed = torch.cat(values)
    n, value = len(placed), float(placed.mean())
    var = float(placed.var()) / n + spread if n > 1 else 0.0
    fewest = min(n, len(reference.cell))
    low, high = logit_interval(value, math.sqrt(var), fewest)
    return Estimate(value, math.sqrt(var), low, high, fewest, "chance", "generated and held-out rows", seed)


def _by_cell(generated: Neighbours, reference: Neighbours) -> Iterator[tuple[Neighbours, Neighbours]]:
    """The two, region by region, where both have rows."""
    for c in torch.unique(reference.cell).tolist():
        drawn, unseen = generated.take(generated.cell == c), reference.take(reference.cell == c)
        if len(drawn.cell):
            yield drawn, unseen


def _tail(pairs: list[tuple[Tensor, Tensor]], seed: int | None) -> Estimate:
    """Proportion of generated rows below the 5 % quantile of the reference, each region by itself.

    The quantile has an error of its own: half the difference between the proportions one standard error below and
    above it.
    """
    proportions: list[tuple[int, float, float]] = []
    for drawn, unseen in pairs:
        a, b = drawn.double(), unseen.double().sort().values
        place = THRESHOLDS.near * (len(b) + 1)  # an order statistic k of n has k / (n + 1) below it on average
        wobble = math.sqrt(THRESHOLDS.near * (1 - THRESHOLDS.near) * len(b))
        low, middle, high = (_proportion_below(a, b, place + w) for w in (-wobble, 0.0, wobble))
        proportions.append((len(a), middle, (high - low) / 2))
    n = sum(m for m, _, _ in proportions)
    total = sum(m * s for m, s, _ in proportions) / n
    p = (total * n + 2) / (n + 4)  # a proportion of 0 has an error too (Agresti & Coull 1998)
    stderr = math.sqrt(p * (1 - p) / n + sum((m / n * w) ** 2 for m, _, w in proportions))
    low, high = max(0.0, total - Z95 * stderr), min(1.0, total + Z95 * stderr)
    return Estimate(total, stderr, low, high, n, "proportion of rows", "generated and held-out rows", seed)


def _proportion_below(a: Float[Tensor, " n"], ranked: Float[Tensor, " m"], place: float) -> float:
    """Proportion of `a` below the value at a fractional place (from 1) of the ranked values."""
    if place <= 0:
        return 0.0
    if place < 1:  # below the least of them, in proportion
        return place * float((a < ranked[0]).double().mean())
    k = min(int(place), len(ranked)) - 1
    step = ranked[min(k + 1, len(ranked) - 1)] - ranked[k]
    return float((a < ranked[k] + (place - 1 - k) * step).double().mean())


def _z(auc: Estimate, n: int, m: int) -> Estimate:
    """Z_U: Mann and Whitney's U as a normal deviate, below 0 where generated rows are the nearer ones."""
    scale = math.sqrt(n * m / (n + m + 1) * 12)
    shift = 0.5 / math.sqrt(n * m * (n + m + 1) / 12)  # their continuity correction

    def z(value: float) -> float:
        return scale * (0.5 - value) + shift

    stderr = None if auc.stderr is None else scale * auc.stderr
    return Estimate(z(auc.value), stderr, z(auc.high), z(auc.low), n, "normal deviate", auc.split, auc.seed)


def _c_t(generated: Neighbours, reference: Neighbours, seed: int | None) -> Estimate:
    """C_T: mean of Z_U over regions that have generated rows, weighted by the reference's proportions."""
    terms: list[tuple[float, Estimate]] = []
    for drawn, unseen in _by_cell(generated, reference):
        terms.append((len(unseen.cell), _z(_auc(drawn, unseen, seed), len(drawn.cell), len(unseen.cell))))
    total = sum(w for w, _ in terms)
    value = sum(w * e.value for w, e in terms) / total
    stderr = math.sqrt(sum((w * (e.stderr or 0.0)) ** 2 for w, e in terms)) / total
    half = Z95 * stderr
    n = len(generated.cell)
    return Estimate(value, stderr, value - half, value + half, n, "normal deviate", terms[0][1].split, seed)

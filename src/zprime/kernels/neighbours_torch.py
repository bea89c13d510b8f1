"""The search for nearest neighbours in torch: float32 finds the candidates, float64 decides between them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.kernels.scaling import Scaling, rounding, squares

PAIRS = 1 << 22  # entries of a tile of float32 distances
NUMBERS = 1 << 23  # float64 numbers of the candidates that are compared at once
SPARE = 8  # candidates beyond k: with fewer, more rows have to be looked at twice
GROUPS = 32  # points whose smallest distance stands for them in the first sieve


class Tiles:
    """The search in torch: tiles of float32 distances, whose smallest entries are compared in float64."""

    def __init__(self, points: Float[Tensor, "n d"], scaling: Scaling) -> None:
        self.points, self.scaling = points, scaling
        self.near = scaling.scaled(points)
        self.square = self.near.square().sum(1)
        self.longest = float(self.square.max()) ** 0.5
        self.rounding = rounding(points.shape[1])

    def nearest(
        self, queries: Float[Tensor, "m d"], k: int, exclude: Int[Tensor, " m"] | None
    ) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """Squared distances in the scaling's unit, ascending, and positions."""
        n, d = self.points.shape
        columns = min(n, max(1 << 13, GROUPS * (k + SPARE)))
        search = _Search(self, queries, k, exclude, columns)
        distance = torch.empty(len(queries), k, dtype=torch.float64, device=queries.device)
        index = torch.empty(len(queries), k, dtype=torch.long, device=queries.device)
        rows = max(1, min(PAIRS // columns, NUMBERS // (search.wanted * d)))
        for part in blocks(len(queries), rows):
            distance[part], index[part] = search.block(torch.arange(part.start, part.stop, device=queries.device))
        return distance, index


class _Search:
    """Queries, and how to find the k nearest of each."""

    def __init__(self, among: Tiles, queries: Tensor, k: int, exclude: Tensor | None, columns: int) -> None:
        self.among, self.points, self.near, self.square = among, among.points, among.near, among.square
        self.queries, self.k, self.exclude, self.columns = queries, k, exclude, columns
        self.wanted = min(k + SPARE, len(self.points))

    def block(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours of some queries."""
        scaled = self.among.scaling.scaled(self.queries[rows])
        length = squares(scaled)
        error = self.among.rounding * (self.among.longest + length.sqrt()).square() + 1e-37
        value = torch.empty(len(rows), 0, device=rows.device)
        index = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
        for part in blocks(len(self.points), self.columns):
            values, at = _smallest(self._tile(rows, scaled, part), self.wanted)
            value, index = torch.cat([value, values], 1), torch.cat([index, at + part.start], 1)
            if value.shape[1] > self.wanted:
                value, best = value.topk(self.wanted, largest=False)
                index = index.gather(1, best)
        # by position first: equal distances then stay in that order
        index = index.sort(1).values
        exact = self._exact(rows[:, None].expand_as(index), index)
        if self.exclude is not None:
            exact = exact.masked_fill(index == self.exclude[rows, None], torch.inf)
        distance, order = exact.sort(dim=1, stable=True)
        distance, index = distance[:, : self.k], index.gather(1, order[:, : self.k])
        if self.wanted == len(self.points):
            return distance, index
        reached = distance[:, -1] - length  # as the tiles measure
        unsure = (~(reached < value.amax(1).double() - error)).nonzero().flatten()
        for few in blocks(len(unsure), max(1, PAIRS // len(self.points))):
            again = unsure[few]
            distance[again], index[again] = self._among_all(rows[again], scaled[again], (reached + error)[again])
        return distance, index

    def _tile(self, rows: Tensor, scaled: Tensor, part: slice) -> Tensor:
        """|p|^2 - 2 q p in float32, every query with some points; +inf for what is left out."""
        tile = torch.addmm(self.square[part], scaled, self.near[part].T, alpha=-2)
        if self.exclude is not None:
            at = self.exclude[rows] - part.start
            row = ((at >= 0) & (at < tile.shape[1])).nonzero().flatten()
            tile[row, at[row]] = torch.inf
        return tile

    def _exact(self, row: Tensor, index: Tensor) -> Tensor:
        """Squared distances of pairs in float64, by the direct form."""
        gap = (self.queries[row].double() - self.points[index].double()) * (1 / self.among.scaling.unit)
        return gap.square_().sum(-1)

    def _among_all(self, rows: Tensor, scaled: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours of queries among every point whose tile entry is at most `limit`, however many there are."""
        row, column = (
            (self._tile(rows, scaled, slice(0, len(self.points))).double() <= limit[:, None]).nonzero().unbind(1)
        )
        parts = [self._exact(rows[row[p]], column[p]) for p in blocks(len(row), max(1, NUMBERS // scaled.shape[1]))]
        exact, order = torch.cat(parts).sort(stable=True)  # pairs come by row and position, and stay so where equal
        row, by_row = row[order].sort(stable=True)
        order, exact = order[by_row], exact[by_row]
        first = torch.searchsorted(row, torch.arange(len(rows), device=row.device))
        take = first[:, None] + torch.arange(self.k, device=row.device)
        return exact[take], column[order[take]]


def _smallest(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest entries of each row and where they are, in no order.

    Groups of entries are sieved by their minima first: the smallest entries lie in the groups of smallest minima.
    """
    m, n = tile.shape
    group = n // GROUPS
    if group < 2 * count:
        smallest = tile.topk(min(count, n), largest=False)
        return smallest.values, smallest.indices
    body = tile[:, : group * GROUPS].view(m, GROUPS, group)
    best = body.amin(1).topk(count, largest=False).indices
    at = (best[:, None] + group * torch.arange(GROUPS, device=tile.device)[:, None]).flatten(1)
    rest = torch.arange(group * GROUPS, n, device=tile.device).expand(m, -1)
    at = torch.cat([at, rest], 1)
    values, which = tile.gather(1, at).topk(count, largest=False)
    return values, at.gather(1, which)

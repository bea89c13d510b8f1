"""How rows were sampled: what each of them counts, and which of them belong together (Cochran 1977, chapter 9)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Design:
    """Weights and groups of n rows.

    Attributes:
        weights: shape [n], what each row counts, >= 0 and in any unit; None for equal weights.
        groups: shape [n], integers: rows of one group are dependent, groups are not; None for independent rows.
    """

    weights: Float[Tensor, " n"] | None = None
    groups: Int[Tensor, " n"] | None = None

    @property
    def plain(self) -> bool:
        """Whether rows are independent and count the same."""
        return self.weights is None and self.groups is None

    def take(self, at: Tensor) -> "Design":
        """Of some of the rows, by position or by a mask."""
        return Design(*(None if t is None else t[at] for t in (self.weights, self.groups)))

    def on(self, values: Float[Tensor, " n"]) -> tuple[Float[Tensor, " m"], "Design"]:
        """The values of the rows that count, and their design in its simplest form.

        Rows of weight 0 are left out. Equal weights are None, and so are groups of one row each: an estimate is then
        the same to the last bit as without them.
        """
        weights, groups = self.weights, self.groups
        if weights is not None:
            there = weights > 0
            values, weights = values[there], weights[there].double()
            groups = None if groups is None else groups[there]
            if len(weights) and bool((weights == weights[0]).all()):
                weights = None
        if groups is not None and len(torch.unique(groups)) == len(groups):
            groups = None
        return values, Design(weights, groups)

    def shares(self, n: int) -> Float[Tensor, " n"]:
        """Weights that add up to 1, float64."""
        if self.weights is None:
            return torch.full((n,), 1 / n, dtype=torch.float64)
        return self.weights.double() / self.weights.double().sum()

    def effective(self, n: int) -> int:
        """Effective number of rows, rounded; all n where they count the same."""
        return n if self.weights is None else round(kish(self.shares(n)))

    def units(self, n: int) -> int:
        """How many groups, or independent rows, have any weight."""
        return int((self.totals(self.shares(n)) > 0).sum())

    def largest(self, n: int) -> float:
        """What the group (or independent row) of the most weight counts for, in rows of mean weight."""
        return 1.0 if self.plain else n * float(self.totals(self.shares(n)).max())

    def totals(self, values: Float[Tensor, " n"]) -> Float[Tensor, " g"]:
        """Sums over each group; the values themselves where rows are independent."""
        if self.groups is None:
            return values
        codes = torch.unique(self.groups, return_inverse=True)[1]
        return values.new_zeros(int(codes.max()) + 1).index_add(0, codes, values)

    def mean(self, values: Float[Tensor, " n"] | Bool[Tensor, " n"]) -> float:
        """Weighted mean, or the weighted proportion of what is true; infinite where a row that counts is."""
        values, design = self.on(values.double())
        return float(values.mean() if design.weights is None else design.shares(len(values)) @ values)

    def median(self, values: Float[Tensor, " n"]) -> float:
        """The least value that half of the weight is at or below."""
        values, design = self.on(values.double())
        if design.weights is None:
            return float(values.median())
        ordered, order = values.sort()
        below = design.shares(len(values))[order].cumsum(0)
        return float(ordered[min(int((below < 0.5 - 1e-12).sum()), len(ordered) - 1)])

    def independent(self, n: int, rng: torch.Generator) -> Int[Tensor, " m"]:
        """Positions of independent rows of the weighted population: for tests that know neither weights nor groups.

        A group is kept with a chance in proportion to its weight, and one row of it is drawn in proportion to the
        weights. All rows, and no random number, where rows are independent and count the same.
        """
        if self.on(torch.zeros(n))[1].plain and self.weights is None:
            return torch.arange(n)
        weights = self.shares(n)
        codes = torch.arange(n) if self.groups is None else torch.unique(self.groups, return_inverse=True)[1]
        total = torch.zeros(int(codes.max()) + 1, dtype=torch.float64).index_add(0, codes, weights)
        kept = torch.rand(len(total), generator=rng, dtype=torch.float64) < total / total.max()
        # of independent exponential times with these rates, each row's is the first of its group with the chance wanted
        time = -torch.rand(n, generator=rng, dtype=torch.float64).log() / weights
        first = torch.full_like(total, torch.inf).scatter_reduce(0, codes, time, "amin")
        return ((time == first[codes]) & kept[codes] & (weights > 0)).nonzero().flatten()


EQUAL = Design()
"""Independent rows that count the same."""


def kish(shares: Float[Tensor, " n"]) -> float:
    """Effective sample size of rows whose weights add up to 1 (Kish 1965): 1 / sum of squares."""
    return float(1 / shares.square().sum())

"""Draws of posteriors whose density there is known, joined by datum: importance sampling with q itself as proposal.

Nothing is drawn: the draws are those that were brought. A log of a mean over them is too small in expectation, as with
any other proposal, and as unsure where q is narrower than what it stands for.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.family import log_sums
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.statistics.design import Design
from zprime.statistics.pareto import pareto_khat

FLAT = 1e-4  # nats: weights that are as close have no tail, for their mean is known as well; what is left is rounding


@dataclass(frozen=True, eq=False)
class ByDatum:
    """Draws and the data that they belong to; data in ascending order of their number in the posteriors.

    Attributes:
        index: shape [n], the datum of each draw, from 0 on.
        log_weight: shape [n], float64: log of what each draw counts.
    """

    index: Int[Tensor, " n"]
    log_weight: Float[Tensor, " n"]

    @classmethod
    def of(cls, draws: MemoryPosteriors) -> "ByDatum":
        """The draws of posteriors; each its own datum where they do not say otherwise."""
        datum = torch.arange(draws.n) if draws.datum is None else draws.datum
        return cls(torch.unique(datum, return_inverse=True)[1], draws.log_weights)

    @cached_property
    def count(self) -> Int[Tensor, " u"]:
        """Draws of each datum."""
        return torch.bincount(self.index)

    @cached_property
    def order(self) -> Int[Tensor, " n"]:
        """Positions of the draws: those of a datum side by side, in the order in which they are there."""
        return self.index.argsort(stable=True)

    @cached_property
    def first(self) -> Int[Tensor, " u"]:
        """Position of the first draw of each datum."""
        return self.order[self.count.cumsum(0) - self.count]

    @cached_property
    def place(self) -> Int[Tensor, " n"]:
        """The number of each draw among those of its datum, from 0 on."""
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order)) - (self.count.cumsum(0) - self.count)[self.index[self.order]]
        return place

    @cached_property
    def early(self) -> Bool[Tensor, " n"]:
        """Which draws are of the first quarter of their datum's, at least one."""
        return self.place < (self.count // 4).clamp(min=1)[self.index]

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, " u"]:
        """Mean over the draws of each datum, float64."""
        weight = self.log_weight.exp()
        sums = torch.zeros(len(self.count), dtype=torch.float64).index_add_(0, self.index, weight * values.double())
        return sums / torch.bincount(self.index, weight)

    def log_mean(self, log_values: Float[Tensor, " n"]) -> Float[Tensor, " u"]:
        """Log of the mean of exp over the draws of each datum, float64."""
        weight = self.log_weight
        return log_sums(log_values.double() + weight, self.index) - log_sums(weight, self.index)

    def log_means(self, log_values: Float[Tensor, " n"]) -> tuple[Float[Tensor, " u"], Float[Tensor, " u"]]:
        """The same from all draws, and from the first quarter of them."""
        few = ByDatum(self.index[self.early], self.log_weight[self.early])
        return self.log_mean(log_values), few.log_mean(log_values[self.early])

    def khat(self, log_values: Float[Tensor, " n"]) -> Float[Tensor, " u"]:
        """Pareto k-hat of the weights of each datum's draws; -inf where these are equal."""
        ordered = (log_values.double() + self.log_weight)[self.order]
        start = self.count.cumsum(0) - self.count
        found = torch.empty(len(self.count), dtype=torch.float64)
        for k in torch.unique(self.count).tolist():
            some = (self.count == k).nonzero().flatten()
            weights = ordered[start[some][:, None] + torch.arange(k)]
            flat = weights.amax(1) - weights.amin(1) < FLAT
            found[some] = torch.where(flat, -torch.inf, pareto_khat(weights))
        return found

    @staticmethod
    def fewer(split: Split, draws: int) -> Split:
        """The split with the first `draws` draws of each datum, or all where these are fewer."""
        by = ByDatum.of(split.posteriors)
        return split.take((by.place < draws).nonzero().flatten())

    @staticmethod
    def centred(draws: MemoryPosteriors) -> MemoryPosteriors:
        """The mean of the draws of each datum as its code, in the order of their rows; others as they are."""
        if draws.form != "points" or draws.datum is None:
            return draws
        first = ByDatum.of(draws).first.sort().values
        labels = None if draws.labels is None else draws.labels[first]
        mean = draws.centres[first].to(draws.mean)
        return MemoryPosteriors(mean, None, row_ids=draws.row_ids[first], labels=labels)

    def design(self, split: Split) -> Design:
        """Weights and groups of the data: a datum counts what its draws count together."""
        total = torch.bincount(self.index, self.log_weight.exp())
        groups = None if split.groups is None else split.groups[self.first]
        equal = split.weights is None and bool((self.count == self.count[0]).all())
        alone = groups is None or len(torch.unique(groups)) == len(groups)
        return Design(None if equal else total, None if alone else groups)

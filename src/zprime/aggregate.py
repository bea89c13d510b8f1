"""The aggregated posterior: the mixture of N Gaussians, streamed over shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import distributed
from zprime.arrays import check_matrix, variances
from zprime.components import ancestral, choose
from zprime.errors import ArrayError
from zprime.kernels import DiagonalMixture, FullMixture, LabelledMixture
from zprime.memory import size
from zprime.tables import facts, to_html

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Some consecutive rows of posteriors: their first position, means, and standard deviations or factors."""

    start: int
    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]

    @property
    def rows(self) -> slice:
        """Their positions."""
        return slice(self.start, self.start + len(self.mean))


Form = Literal["diagonal", "full", "points"]
"""What rows are: Gaussians with standard deviations, with full covariances, or points without a density."""


WORDS: Mapping[Form, str] = {
    "diagonal": "Gaussians with standard deviations",
    "full": "Gaussians with full covariances",
    "points": "draws or codes without a density",
}
"""What to call each form in a message."""


class Aggregate(ABC):
    """The mixture of N Gaussians, the aggregated posterior.

    Attributes:
        n: number of rows.
        d: latent dimension.
        form: what the rows are.
        row_ids: shape [n], the rows of the data set that they belong to.
        weights: shape [n], adding up to 1, or None for 1/n each.
        labels: shape [n], or None.
        log_q: shape [n], float64: log q(z|x) of the datum of each row, in nats, where rows are draws of which it is
            known; else None.
    """

    n: int
    d: int
    form: Form = "diagonal"
    row_ids: Int[Tensor, " n"]
    weights: Float[Tensor, " n"] | None
    labels: Int[Tensor, " n"] | None
    log_q: Float[Tensor, " n"] | None = None

    @cached_property
    def datum(self) -> Int[Tensor, " n"] | None:
        """From 0 on: rows with the same number are parts of one datum's posterior; None where every row is a datum."""
        found, index = torch.unique(self.row_ids, return_inverse=True)
        return None if len(found) == self.n else index

    @cached_property
    def _index(self) -> Int[Tensor, " n"]:
        """The data that are here, numbered without gaps: after `take` some of `datum` may be missing."""
        index: Tensor = torch.unique(torch.arange(self.n) if self.datum is None else self.datum, return_inverse=True)[1]
        return index

    @property
    def data(self) -> int:
        """Number of data: of rows, or of those that they are parts of."""
        return self.n if self.datum is None else int(self._index.max()) + 1

    @property
    def row_of(self) -> Int[Tensor, " n"]:
        """Position of the row of the data set that each row belongs to, where those of a datum lie side by side."""
        position: Tensor = torch.unique_consecutive(self.row_ids, return_inverse=True)[1]
        return position

    def one_each(self, *, rng: torch.Generator) -> Int[Tensor, " u"]:
        """Positions of one row of every datum, ascending: a part at random, by its weight within the datum."""
        if self.datum is None:
            return torch.arange(self.n)
        index = self._index
        chance = torch.rand(self.n, generator=rng, dtype=torch.float64).clamp(min=1e-300)
        score = self.log_weights - (-chance.log()).log()  # the largest is drawn by weight (Gumbel)
        best = torch.full((self.data,), -torch.inf, dtype=torch.float64).scatter_reduce(0, index, score, "amax")
        return (score == best[index]).nonzero().flatten()

    def pick(self, n: int, *, rng: torch.Generator) -> Int[Tensor, " m"]:
        """Positions of `n` rows at random, ascending; where rows are parts of data, of all parts of `n` data."""
        if self.datum is None:
            return torch.randperm(self.n, generator=rng)[:n].sort().values
        data, index = torch.unique(self.datum, return_inverse=True)
        kept = torch.randperm(len(data), generator=rng)[:n]
        return torch.isin(index, kept).nonzero().flatten()

    @abstractmethod
    def shards(self) -> Iterator[Shard]:
        """All rows in order, some at a time."""

    def each(self, work: Callable[..., T], *args: Any) -> list[T]:
        """`work(self, shard, *args)` of every shard, in order; the processes of a job share shards that are stored."""
        return [work(self, s, *args) for s in self.shards()]

    def total(self, work: Callable[..., Sequence[Tensor]], *args: Any) -> list[Tensor]:
        """The sums over shards of the tensors that `work(self, shard, *args)` gives, added up in order."""
        return distributed.added(work(self, s, *args) for s in self.shards())

    @property
    def bytes(self) -> int:
        """What it takes to keep means, and standard deviations or Cholesky factors."""
        numbers = self.d * {"diagonal": 2, "full": 1 + self.d, "points": 1}[self.form]
        return self.n * numbers * next(iter(self.shards())).mean.element_size()

    def _repr_html_(self) -> str:
        """How many, how wide, how far apart, in a notebook; in shards, of the first shard."""
        first = next(iter(self.shards()))
        scale, mean = variances(first.mean, first.scale).double().sqrt(), first.mean.double()
        spread = mean.std(0, correction=0)
        parts = "" if self.datum is None else f", parts of the posteriors of {self.data:,} data"
        widths = f"median {scale.median():.3g}, from {scale.min():.3g} to {scale.max():.3g}"
        of_points = ("log q(z|x)", "not known" if self.log_q is None else "known at every row")
        return to_html(
            facts(
                f"{self.n:,} posteriors in {self.d} dimensions",
                [
                    ("rows", f"{WORDS[self.form]}{parts}"),
                    ("stored", size(self.bytes)),
                    of_points if self.form == "points" else ("standard deviations", widths),
                    ("their means' standard deviations", f"from {spread.min():.3g} to {spread.max():.3g}"),
                    ("labels", "no" if self.labels is None else f"{len(set(self.labels.tolist()))} different"),
                    ("weights", "equal" if self.weights is None else "given"),
                ],
            )
        )

    @property
    def log_weights(self) -> Float[Tensor, " n"]:
        """Log w_i, float64."""
        return self.log_weights_of(slice(0, self.n))

    def log_weights_of(self, rows: slice) -> Float[Tensor, " m"]:
        """Log w_i of some rows, e.g. those of a shard, float64.

        All of them for every shard would take time in proportion to the square of n.
        """
        if self.weights is None:
            n, device = rows.stop - rows.start, self.row_ids.device
            return torch.full((n,), 1 / self.n, dtype=torch.float64, device=device).log()
        return self.weights[rows].double().log()

    @property
    def effective_rows(self) -> float:
        """Kish's effective number of data, `1 / sum_i w_i^2` with the weight of all parts of a datum together."""
        if self.datum is not None:
            return 1 / float(torch.bincount(self.datum, self.log_weights.exp()).square().sum())
        return float(self.n) if self.weights is None else 1 / float(self.weights.double().square().sum())

    def log_prob(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, " m"]:
        """Exact log-density of the aggregated posterior in nats, float64, streamed over shards.

        Args:
            z: points.
            leave_out: one row id for every point: the mixture of all *other* rows, renormalised by 1 - w_i (masked,
                never subtracted). It leaves out all parts of its datum. An id that is not among `row_ids` leaves
                nothing out.
            tolerance: nats that the answer may be too small, for speed; see `zprime.kernels.mixture_log_prob`.

        Raises:
            ArrayError: `z` is not a finite [m, d] matrix, leaving out would leave nothing, or the rows are points.
        """
        check_matrix("z", z, d=self.d)
        self.need_density("the density of the aggregated posterior")
        position, weight = (None, None) if leave_out is None else self._left_out(leave_out, len(z))
        parts = self._each_mixture(type(self)._shard_log_prob, z, position, tolerance)
        log_density = torch.logsumexp(torch.stack(parts), 0) if len(parts) > 1 else parts[0]
        return log_density if weight is None else log_density - torch.log1p(-weight)

    def _each_mixture(self, work: Callable[..., T], *args: Any) -> list[T]:
        """The same as `each`, of as many rows at a time as are one mixture for the kernels."""
        return self.each(work, *args)

    @property
    def _datum_weights(self) -> Float[Tensor, " n"]:
        """Weight of the datum of each row: of all its parts."""
        weight = self.log_weights.exp()
        return weight if self.datum is None else torch.bincount(self.datum, weight)[self.datum]

    def _left_out(self, ids: Int[Tensor, " m"], points: int) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
        """Position of a row of the datum that each point leaves out, and the weight of that datum; or -1, and 0.

        Raises:
            ArrayError: not one id a point, or leaving out would leave nothing.
        """
        if ids.shape != (points,):
            raise ArrayError(f"leave_out: expected {points} row ids, one a point, got {list(ids.shape)}")
        position = self.positions(ids)
        weight = torch.where(position >= 0, self._datum_weights[position.clamp(min=0)], 0.0)
        alone = weight > 1 - 1e-12
        if bool(alone.any()):
            raise ArrayError(
                f"leave_out: row {int(ids[alone][0])} has all the weight of {self.n} posteriors: nothing would be left"
            )
        return position, weight

    def _shard_log_prob(
        self, shard: Shard, z: Float[Tensor, "m d"], position: Int[Tensor, " m"] | None, tolerance: float
    ) -> Float[Tensor, " m"]:
        """Log of what the rows of a shard add at each point, without those of the datum of the row at its position."""
        mixture = self._mixture(shard)
        if position is None or self.datum is None:
            out = None if position is None else torch.where(position >= shard.start, position - shard.start, -1)
            return mixture.log_prob(z, leave_out=out, tolerance=tolerance)
        datum, own = torch.where(position >= 0, self.datum[position], -1), self.datum[shard.rows]
        here = torch.isin(datum, own)
        log_density = torch.full((len(z),), -torch.inf, dtype=torch.float64, device=z.device)
        log_density[~here] = mixture.log_prob(z[~here], tolerance=tolerance)
        for one in torch.unique(datum[here]).tolist():
            at, kept = datum == one, own != one
            if bool(kept.any()):
                log_density[at] = self._part(shard, kept).log_prob(z[at], tolerance=tolerance)
        return log_density

    def label_log_prob(
        self, z: Float[Tensor, "m d"], *, tolerance: float = 0.0
    ) -> tuple[Float[Tensor, "m l"], Int[Tensor, " l"]]:
        """Log of what the rows of each label add to the aggregated posterior, in nats, float64, and which labels.

        `logsumexp` over labels is `log_prob(z)`; `softmax` over them the probability of each label given z.

        Args:
            z: points.
            tolerance: nats that each label's answer may be too small, for speed.

        Raises:
            ArrayError: `z` is not a finite [m, d] matrix, or the posteriors carry no labels.
        """
        check_matrix("z", z, d=self.d)
        if self.form != "diagonal":
            raise ArrayError(f"labels: expected posteriors with standard deviations, got {self.form} ones")
        if self.labels is None:
            raise ArrayError("labels: these posteriors carry none; give them as MemoryPosteriors(..., labels=...)")
        labels: Tensor = torch.unique(self.labels)
        log_joint = torch.full((len(z), len(labels)), -torch.inf, dtype=torch.float64, device=z.device)
        weight = self.log_weights
        for s in self.shards():
            part = LabelledMixture(s.mean, s.scale, weight[s.rows], self.labels[s.rows])
            at = torch.searchsorted(labels, part.labels)
            log_joint[:, at] = torch.logaddexp(log_joint[:, at], part.log_prob(z, tolerance=tolerance))
        return log_joint, labels

    def _mixture(self, shard: Shard) -> DiagonalMixture | FullMixture:
        """What evaluates the mixture of a shard's rows."""
        return self._part(shard, slice(None))

    def _part(self, shard: Shard, kept: Tensor | slice) -> DiagonalMixture | FullMixture:
        """What evaluates the mixture of some of a shard's rows."""
        form: type[DiagonalMixture] | type[FullMixture] = FullMixture if self.form == "full" else DiagonalMixture
        return form(shard.mean[kept], shard.scale[kept], self.log_weights_of(shard.rows)[kept])

    def need_density(self, what: str) -> None:
        """Refuse points, for what needs the density of q(z|x).

        Raises:
            ArrayError: the rows are points.
        """
        if self.form == "points":
            raise ArrayError(f"{what}: needs Gaussian posteriors, and these are draws or codes, without a density")

    def positions(self, ids: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Where each row id stands in `row_ids`, or -1."""
        order = self.row_ids.argsort()
        ranked = self.row_ids[order]
        at = torch.searchsorted(ranked, ids.contiguous()).clamp(max=self.n - 1)
        return torch.where(ranked[at] == ids, order[at], -1)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """The aggregated posterior by ancestral sampling: a datum at random, then z' from its posterior."""
        which = choose(self.log_weights.to(rng.device), n, rng)
        one = next(iter(self.shards()))
        noise = torch.randn(n, self.d, generator=rng, dtype=one.mean.dtype, device=rng.device)
        out, which = noise.to(one.mean.device), which.to(one.mean.device)
        if len(one.mean) == self.n:
            return ancestral(out, which, one.mean, one.scale)
        order = which.argsort()
        ranked = which[order]
        for s in self.shards():
            at = order[among(ranked, s.rows)]
            out[at] = ancestral(out[at], which[at] - s.start, s.mean, s.scale)
        return out


def among(ranked: Int[Tensor, " m"], rows: slice) -> slice:
    """Where the positions that lie in `rows` stand among ascending ones."""
    ends = torch.tensor([rows.start, rows.stop], device=ranked.device)
    return slice(*torch.searchsorted(ranked, ends).tolist())

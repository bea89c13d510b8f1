"""Posteriors: the Gaussians q(z|x_i), the encoder's answer for a data set.

Their mixture is the aggregated posterior. In memory or in shards on disk, the same methods. A Gaussian has standard
deviations, or the Cholesky factor of a full covariance. Rows with the same id are the components of one datum's
posterior. A row may also be a point: a draw from a posterior of which at most log q there is known, or a code.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import chain, memory, shards
from zprime.aggregate import WORDS, Aggregate, Form, Shard, T, among
from zprime.arrays import blocks, check_finite, check_matrix, gaussian_log_prob, variances
from zprime.artifact import Artifact
from zprime.errors import ArrayError
from zprime.family import LEFT_OUT, Family, check_log_q, check_scale, log_sums
from zprime.kernels import DiagonalMixture, FullMixture
from zprime.schema.kinds import check

__all__ = ["WORDS", "Form", "MemoryPosteriors", "Posteriors", "Shard", "ShardedPosteriors", "load"]

LEAST, NUMBERS = 1 << 16, 1 << 22  # rows of a shard in memory, and numbers of its means, at least and about
FEWER = "train with fewer latents, or on fewer rows (--limit)"


class Posteriors(Aggregate):
    """N Gaussians, one or several a datum, and their mixture, the aggregated posterior; attributes as `Aggregate`."""

    def gather(self) -> "MemoryPosteriors":
        """All rows as one pair of tensors.

        Raises:
            UsageError: they do not fit into memory.
        """
        return self._held(None)

    def some(self, n: int, *, rng: torch.Generator) -> "MemoryPosteriors":
        """At most `n` data at random, with all of their rows, in order; only these are held in memory.

        Raises:
            UsageError: they do not fit into memory.
        """
        return self._held(self.pick(n, rng=rng))

    def _held(self, at: Int[Tensor, " m"] | None) -> "MemoryPosteriors":
        """Rows at these positions, ascending, or all, filled in shard by shard."""
        n, mean, scale = self.n if at is None else len(at), torch.empty(0), torch.empty(0)
        for s in self.shards():
            if s.start == 0:
                size = s.mean.element_size() * n * self.d * (1 + self.d if self.form == "full" else 2)
                memory.need(size, f"posteriors: {n:,} rows of {self.d:,} dimensions", FEWER)
                mean, scale = (t.new_empty(n, *t.shape[1:]) for t in (s.mean, s.scale))
            if at is None:
                mean[s.rows], scale[s.rows] = s.mean, s.scale
                continue
            here = among(at, s.rows)
            mean[here], scale[here] = (t[at[here] - s.start] for t in (s.mean, s.scale))
        known = {"row_ids": self.row_ids, "weights": self.weights, "labels": self.labels, "log_q": self.log_q}
        if at is not None:
            known = {name: None if t is None else t[at] for name, t in known.items()}
            if (weights := known["weights"]) is not None:
                known["weights"] = weights / weights.sum()
        return MemoryPosteriors(mean, None if self.form == "points" else scale, **known)

    def save(self, path: str | Path, *, key: str = "", seed: int | None = None, **inputs: str) -> Artifact:
        """Write the artefact folder of these posteriors, of whatever form: `zprime.load_posteriors` opens it.

        They are written in shards, with row ids, weights, labels and log q; those that lie in shards themselves are
        never in memory as a whole. What was read gives the same numbers.

        Args:
            path: the folder to make; an older artefact there is replaced, in one step.
            key: for the manifest.
            seed: of what made them, for the manifest.
            inputs: name -> hash of what they were made from, for the manifest.

        Raises:
            ArrayError: numbers that no artefact has, such as means in float16, or rows whose ids do not say which of
                them are parts of one datum.
            UsageError: `path` cannot be written, or holds files that are not an artefact.
        """
        self._check_parts()
        return shards.write(Path(path), self, key=key, seed=seed, inputs=inputs)

    def _check_parts(self) -> None:
        """Raise `ArrayError` unless rows are parts of one datum if, and only if, they have one row id."""
        ids, datum = torch.unique(self.row_ids, return_inverse=True)
        known = datum if self.datum is None else torch.unique(self.datum, return_inverse=True)[1]
        if self.datum is None and len(ids) < self.n:
            raise ArrayError(
                f"row_ids: expected each once, as each row is a datum of its own, got {len(ids)} for {self.n} rows; "
                "give every row another one"
            )
        if self.datum is not None and (len(ids) == self.n or not torch.equal(known, datum)):
            raise ArrayError(LEFT_OUT)

    def draw(self, *, rng: torch.Generator, draws: int = 1) -> Float[Tensor, "m d"]:
        """`draws` codes of every row in order, shape [n * draws, d]: draw 0 of all rows, then draw 1 of all rows."""
        z = torch.empty(0)
        for s in self.shards():
            if s.start == 0:
                z = torch.randn(draws, self.n, self.d, generator=rng, dtype=s.mean.dtype, device=rng.device)
                z = z.to(s.mean.device)
            noise = z[:, s.rows]
            spread = torch.einsum("nij,knj->kni", s.scale, noise) if self.form == "full" else s.scale * noise
            z[:, s.rows] = s.mean + spread
        return z.reshape(-1, self.d)

    def by_datum(self, log_values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Log of the weighted mean of exp over the rows of each datum, at each of its rows; float64."""
        if self.datum is None:
            return log_values
        index, weight = self._index, self.log_weights
        return (log_sums(log_values.double() + weight, index) - log_sums(weight, index))[index]


class MemoryPosteriors(Posteriors):
    """Posteriors held as two tensors; the other attributes as `Aggregate`.

    Attributes:
        mean: shape [n, d].
        scale: standard deviations, shape [n, d]; lower triangular factors of full covariances, shape [n, d, d]; zeros
            where the rows are points.
    """

    def __init__(
        self,
        mean: Float[Tensor, "n d"],
        scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"] | None,
        *,
        row_ids: Int[Tensor, " n"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
        labels: Int[Tensor, " n"] | None = None,
        log_q: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Take means, and standard deviations or lower triangular Cholesky factors; None for points.

        Rows with the same id are components of one datum's posterior, with weights that say what each counts.

        Raises:
            ArrayError: shapes differ, something is not finite, a scale is not above 0, weights do not add up to 1, or
                log_q beside a scale.
        """
        check_matrix("mean", mean)
        n, d = mean.shape
        if scale is None:
            self.form, scale = "points", torch.zeros_like(mean)
        else:
            self.form = "full" if scale.ndim == 3 else "diagonal"
            check_scale(mean, scale)
        if weights is not None and (
            weights.shape != (n,) or not bool((weights >= 0).all()) or abs(float(weights.double().sum()) - 1) > 1e-6
        ):
            raise ArrayError(
                f"weights: expected {n} numbers >= 0 that add up to 1, got shape {list(weights.shape)}, "
                f"smallest {float(weights.min()):g}, sum {float(weights.double().sum()):g}"
            )
        if weights is not None and bool((weights == weights[0]).all()):
            weights = None  # the same numbers to the last bit as without weights
        self.n, self.d = n, d
        self.mean, self.scale = mean.detach(), scale.detach()
        self.row_ids = (torch.arange(n, device=mean.device) if row_ids is None else row_ids).to(mean.device)
        self.weights = None if weights is None else weights.to(mean.device)
        self.labels = None if labels is None else labels.to(mean.device)
        self.log_q = check_log_q(log_q, mean, points=self.form == "points")
        if self.row_ids.shape != (n,) or (labels is not None and labels.shape != (n,)):
            got = [list(t.shape) for t in (self.row_ids, labels) if t is not None]
            raise ArrayError(f"row_ids and labels: expected {n} each, as mean has rows, got shapes {got}")

    @cached_property
    def centres(self) -> Float[Tensor, "n d"]:
        """Mean of q(z|x) of the datum of each row, float64: of all its parts."""
        mean = self.mean.double()
        if self.datum is None:
            return mean
        index, weight = self._index, self.log_weights.exp()
        sums = torch.zeros(self.data, self.d, dtype=torch.float64).index_add_(0, index, weight[:, None] * mean)
        return (sums / torch.bincount(index, weight)[:, None])[index]

    @cached_property
    def family(self) -> Family | None:
        """The components of each datum, where some have more than one; also those of rows that `take` left out."""
        if self.datum is None or self.form == "points":
            return None
        return Family.of(self.mean, self.scale, self.log_weights, self.datum)

    def own_log_prob(self, z: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """Log q(z|x) at the draws of each row, in nats, float64: draw 0 of all rows, then draw 1, as `draw` gives them.

        Where the posterior of a datum has several components, it is the density of all of them.

        Raises:
            ArrayError: the rows are points.
        """
        self.need_density("log q(z|x)")
        family = self.family
        if family is not None and self.datum is not None:
            return family.log_prob(self.datum.repeat(len(z) // self.n), z)
        mean, scale = self.mean.double(), self.scale.double()
        return torch.cat([gaussian_log_prob(part.double(), mean, scale) for part in z.reshape(-1, self.n, self.d)])

    @property
    def variance(self) -> Float[Tensor, "n d"]:
        """Variance of each row in every dimension, float64."""
        return variances(self.mean, self.scale.double())

    @property
    def deviation(self) -> Float[Tensor, "n d"]:
        """Standard deviation of each row in every dimension, in the dtype of the means."""
        return self.variance.sqrt().to(self.mean) if self.form == "full" else self.scale

    def restrict(self, dims: list[int]) -> "MemoryPosteriors":
        """The marginal posteriors of some dimensions."""
        if self.form == "full":
            rows = self.scale[:, dims].double()
            scale = torch.linalg.cholesky(rows @ rows.mT).to(self.scale)
        else:
            scale = self.scale[:, dims]
        some = MemoryPosteriors(
            self.mean[:, dims],
            None if self.form == "points" else scale,
            row_ids=self.row_ids,
            weights=self.weights,
            labels=self.labels,
        )
        some.__dict__["datum"] = self.datum
        return some

    def alone(self) -> "MemoryPosteriors":
        """The same rows, each a datum of its own that counts as much as any other."""
        return self._some(slice(None), datum=None)

    def _some(self, rows: Tensor | slice, *, datum: Tensor | None) -> "MemoryPosteriors":
        """Some rows, which count the same; `datum` is what they are parts of."""
        some = MemoryPosteriors(
            self.mean[rows],
            None if self.form == "points" else self.scale[rows],
            row_ids=self.row_ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            log_q=None if self.log_q is None else self.log_q[rows],
        )
        some.__dict__["datum"] = datum  # ids may be there twice where rows are drawn with replacement
        some.__dict__["family"] = None if datum is None else self.family
        return some

    def _check_parts(self) -> None:
        """The same, and none of the components of a datum is left out."""
        super()._check_parts()
        if self.datum is not None and self.family is not None:
            there = torch.bincount(self.datum, minlength=len(self.family.count))
            if bool(((there > 0) & (there < self.family.count)).any()):
                raise ArrayError(LEFT_OUT)

    def shards(self) -> Iterator[Shard]:
        """One shard, or several of so many rows that sums over them in float64 take little memory beside all."""
        for rows in blocks(self.n, max(LEAST, NUMBERS // self.d)):
            yield Shard(rows.start, self.mean[rows], self.scale[rows])

    def _each_mixture(self, work: Callable[..., T], *args: Any) -> list[T]:
        return [work(self, Shard(0, self.mean, self.scale), *args)]

    def gather(self) -> "MemoryPosteriors":
        """Itself."""
        return self

    @cached_property
    def _prepared(self) -> DiagonalMixture | FullMixture:
        return super()._mixture(Shard(0, self.mean, self.scale))

    def _mixture(self, shard: Shard) -> DiagonalMixture | FullMixture:
        return self._prepared

    def take(self, rows: Int[Tensor, " m"]) -> "MemoryPosteriors":
        """Some rows, by position; their weights are normalised again.

        Raises:
            ArrayError: these rows have no weight at all.
        """
        weights = None if self.weights is None else self.weights[rows]
        if weights is not None:
            total = weights.double().sum()
            if not float(total) > 0:
                raise ArrayError(f"weights: expected one above 0 among the rows that are taken, got {len(rows)} zeros")
            weights = (weights.double() / total).to(weights.dtype)
        taken = self._some(rows, datum=None if self.datum is None else self.datum[rows])
        if weights is not None:
            taken.weights = None if bool((weights == weights[0]).all()) else weights
        return taken

    def weighted(self, weights: Float[Tensor, " n"]) -> "MemoryPosteriors":
        """The same rows as another population: with these weights, normalised.

        Raises:
            ArrayError: not one weight a row, one below 0 or not finite, or none above 0.
        """
        if weights.shape != (self.n,):
            raise ArrayError(f"weights: expected {self.n}, one a row, got shape {list(weights.shape)}")
        check_finite("weights", weights)
        total = float(weights.double().sum())
        if not (bool((weights >= 0).all()) and total > 0):
            raise ArrayError(
                f"weights: expected numbers >= 0, one above 0, got smallest {float(weights.min()):g}, sum {total:g}"
            )
        normalised = weights.double() / total
        scale = None if self.form == "points" else self.scale
        other = MemoryPosteriors(
            self.mean, scale, row_ids=self.row_ids, weights=normalised, labels=self.labels, log_q=self.log_q
        )
        other.__dict__["datum"] = self.datum
        return other


class ShardedPosteriors(shards.Stored, Posteriors):
    """Posteriors in an artefact folder, read a shard at a time; `gather` reads all."""

    def __init__(self, path: str | Path) -> None:
        """Open the folder that `encode` or `save` wrote.

        Raises:
            ArtifactError: missing, altered, or of another kind.
        """
        self.artifact = chain.read(path, shards.KIND)
        config, index = self.artifact.config, self.artifact.tensors(shards.INDEX)
        check(path, shards.KIND, config, index)
        self.n, self.d, self.form = config["n"], config["d"], shards.form_of(self.artifact)
        self.row_ids, self.labels, self.weights = index["row_ids"], index.get("labels"), index.get("weights")
        self.log_q = index["log_q"].double() if "log_q" in index else None
        self.read = {name: getattr(self, name) for name in ("row_ids", "labels", "weights", "log_q")}


def load(path: str | Path) -> ShardedPosteriors:
    """Open posteriors that `encode` or `Posteriors.save` wrote. They are read when they are needed, shard by shard.

    Raises:
        ArtifactError: missing, altered, or of another kind.
    """
    return ShardedPosteriors(path)

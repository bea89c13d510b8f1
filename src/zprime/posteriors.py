"""Posteriors: N diagonal Gaussians q(z|x_i), the encoder's answer for a data set.

Their mixture is the aggregated posterior. In memory or in shards on disk, the same four methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import chain, memory
from zprime.arrays import check_finite, check_matrix
from zprime.components import ancestral, choose
from zprime.errors import ArrayError
from zprime.kernels import DiagonalMixture, LabelledMixture
from zprime.memory import size
from zprime.schema import guarded
from zprime.schema.kinds import SHARD, check
from zprime.tables import facts, to_html


@dataclass(frozen=True)
class Shard:
    """Some consecutive rows of `Posteriors`: their first position, means and standard deviations."""

    start: int
    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"]

    @property
    def rows(self) -> slice:
        """Their positions."""
        return slice(self.start, self.start + len(self.mean))


class Posteriors(ABC):
    """N diagonal Gaussians and their mixture, the aggregated posterior.

    Attributes:
        n: number of rows.
        d: latent dimension.
        row_ids: shape [n], the rows of the data set that they belong to.
        weights: shape [n], adding up to 1, or None for 1/n each.
        labels: shape [n], or None.
    """

    n: int
    d: int
    row_ids: Int[Tensor, " n"]
    weights: Float[Tensor, " n"] | None
    labels: Int[Tensor, " n"] | None

    @abstractmethod
    def shards(self) -> Iterator[Shard]:
        """All rows in order, some at a time."""

    @property
    def bytes(self) -> int:
        """What it takes to keep the means and standard deviations."""
        return 2 * self.n * self.d * next(iter(self.shards())).mean.element_size()

    def _repr_html_(self) -> str:
        """How many, how wide, how far apart, in a notebook; in shards, of the first shard."""
        first = next(iter(self.shards()))
        scale, mean = first.scale.double(), first.mean.double()
        spread = mean.std(0, correction=0)
        return to_html(
            facts(
                f"{self.n:,} posteriors in {self.d} dimensions",
                [
                    ("stored", size(self.bytes)),
                    (
                        "standard deviations",
                        f"median {scale.median():.3g}, from {scale.min():.3g} to {scale.max():.3g}",
                    ),
                    ("their means' standard deviations", f"from {spread.min():.3g} to {spread.max():.3g}"),
                    ("labels", "no" if self.labels is None else f"{len(set(self.labels.tolist()))} different"),
                    ("weights", "equal" if self.weights is None else "given"),
                ],
            )
        )

    @property
    def log_weights(self) -> Float[Tensor, " n"]:
        """Log w_i, float64."""
        if self.weights is None:
            return torch.full((self.n,), 1 / self.n, dtype=torch.float64, device=self.row_ids.device).log()
        return self.weights.double().log()

    @property
    def effective_rows(self) -> float:
        """Kish's effective number of rows, `1 / sum_i w_i^2`: N for equal weights."""
        return float(self.n) if self.weights is None else 1 / float(self.weights.double().square().sum())

    def gather(self) -> "MemoryPosteriors":
        """All rows as one pair of tensors.

        Raises:
            UsageError: they do not fit into memory.
        """
        memory.need(  # the shards, and these joined
            16 * self.n * self.d,
            f"posteriors: {self.n:,} rows of {self.d:,} dimensions",
            "train with fewer latents, or on fewer rows (--limit)",
        )
        shards = list(self.shards())
        return MemoryPosteriors(
            torch.cat([s.mean for s in shards]),
            torch.cat([s.scale for s in shards]),
            row_ids=self.row_ids,
            weights=self.weights,
            labels=self.labels,
        )

    def log_prob(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, " m"]:
        """Exact log-density of the aggregated posterior in nats, float64, streamed over shards.

        Args:
            z: points.
            leave_out: one row id for every point: the mixture of all *other* rows, renormalised by 1 - w_i (masked,
                never subtracted). An id that is not among `row_ids` leaves nothing out.
            tolerance: nats that the answer may be too small, for speed; see `zprime.kernels.mixture_log_prob`.

        Raises:
            ArrayError: `z` is not a finite [m, d] matrix, or leaving out would leave nothing.
        """
        check_matrix("z", z, d=self.d)
        position: Tensor | None = None
        if leave_out is not None:
            if leave_out.shape != (len(z),):
                raise ArrayError(f"leave_out: expected {len(z)} row ids, one a point, got {list(leave_out.shape)}")
            position = self.positions(leave_out)
        log_weights = self.log_weights
        if leave_out is not None and position is not None:
            alone = (position >= 0) & (log_weights[position.clamp(min=0)] > -1e-12)
            if bool(alone.any()):
                raise ArrayError(
                    f"leave_out: row {int(leave_out[alone][0])} has all the weight of {self.n} posteriors: "
                    "nothing would be left"
                )
        parts = [
            self._mixture(s).log_prob(
                z,
                leave_out=None if position is None else torch.where(position >= s.start, position - s.start, -1),
                tolerance=tolerance,
            )
            for s in self.shards()
        ]
        log_density = torch.logsumexp(torch.stack(parts), 0) if len(parts) > 1 else parts[0]
        if position is not None:
            w = log_weights.exp()[position.clamp(min=0)]
            log_density = log_density - torch.where(position >= 0, torch.log1p(-w), 0.0)
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

    def _mixture(self, shard: Shard) -> DiagonalMixture:
        """What evaluates the mixture of a shard's rows."""
        return DiagonalMixture(shard.mean, shard.scale, self.log_weights[shard.rows])

    def positions(self, ids: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Where each row id stands in `row_ids`, or -1."""
        order = self.row_ids.argsort()
        ranked = self.row_ids[order]
        at = torch.searchsorted(ranked, ids.contiguous()).clamp(max=self.n - 1)
        return torch.where(ranked[at] == ids, order[at], -1)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """The aggregated posterior by ancestral sampling: a datum at random, then z' from its posterior."""
        which = choose(self.log_weights.to(rng.device), n, rng)
        first = next(iter(self.shards())).mean
        noise = torch.randn(n, self.d, generator=rng, dtype=first.dtype, device=rng.device)
        out, which = noise.to(first.device), which.to(first.device)
        for s in self.shards():
            k = which - s.start
            mine = (k >= 0) & (k < len(s.mean))
            if bool(mine.all()):
                return ancestral(out, k, s.mean, s.scale)
            out[mine] = ancestral(out[mine], k[mine], s.mean, s.scale)
        return out

    def draw(self, *, rng: torch.Generator, draws: int = 1) -> Float[Tensor, "m d"]:
        """`draws` codes of every row in order, shape [n * draws, d]: draw 0 of all rows, then draw 1 of all rows."""
        all_ = self.gather()
        noise = torch.randn(draws, self.n, self.d, generator=rng, dtype=all_.mean.dtype, device=rng.device)
        return (all_.mean + all_.scale * noise.to(all_.mean.device)).reshape(-1, self.d)


class MemoryPosteriors(Posteriors):
    """Posteriors held as two tensors."""

    def __init__(
        self,
        mean: Float[Tensor, "n d"],
        scale: Float[Tensor, "n d"],
        *,
        row_ids: Int[Tensor, " n"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
        labels: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Take means and standard deviations.

        Raises:
            ArrayError: shapes differ, something is not finite, a scale is not above 0, weights do not add up to 1.
        """
        check_matrix("mean", mean)
        check_matrix("scale", scale, d=mean.shape[1])
        n, d = mean.shape
        if scale.shape != mean.shape:
            raise ArrayError(f"scale: expected shape {[n, d]} as mean has, got {list(scale.shape)}")
        if scale.dtype != mean.dtype:
            raise ArrayError(f"scale: expected {mean.dtype} as mean is, got {scale.dtype}")
        if not bool((scale > 0).all()):
            row, column = (scale <= 0).nonzero()[0].tolist()
            raise ArrayError(
                f"scale: expected standard deviations above 0, got {scale[row, column].item():g} in row {row}, "
                f"dimension {column}; a log-variance must be turned into exp(log_var / 2) first"
            )
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
        if self.row_ids.shape != (n,) or (labels is not None and labels.shape != (n,)):
            got = [list(t.shape) for t in (self.row_ids, labels) if t is not None]
            raise ArrayError(f"row_ids and labels: expected {n} each, as mean has rows, got shapes {got}")

    def shards(self) -> Iterator[Shard]:
        """One shard."""
        yield Shard(0, self.mean, self.scale)

    def gather(self) -> "MemoryPosteriors":
        """Itself."""
        return self

    @cached_property
    def _prepared(self) -> DiagonalMixture:
        return DiagonalMixture(self.mean, self.scale, self.log_weights)

    def _mixture(self, shard: Shard) -> DiagonalMixture:
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
        return MemoryPosteriors(
            self.mean[rows],
            self.scale[rows],
            row_ids=self.row_ids[rows],
            weights=weights,
            labels=None if self.labels is None else self.labels[rows],
        )

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
        return MemoryPosteriors(self.mean, self.scale, row_ids=self.row_ids, weights=normalised, labels=self.labels)


class ShardedPosteriors(Posteriors):
    """Posteriors in an artefact folder, read a shard at a time."""

    def __init__(self, path: Path) -> None:
        """Open the folder that `encode` wrote.

        Raises:
            ArtifactError: missing, altered, or of another kind.
        """
        self.artifact = chain.read(path, "posteriors")
        config, index = self.artifact.config, self.artifact.tensors("index.safetensors")
        check(path, "posteriors", config, index)
        self.names: list[str] = config["shards"]
        self.sizes: list[int] = config["sizes"]
        self.n, self.d = config["n"], config["d"]
        self.row_ids, self.labels, self.weights = index["row_ids"], index.get("labels"), index.get("weights")

    def shards(self) -> Iterator[Shard]:
        """Each shard file, verified as it is read.

        Raises:
            ArtifactError: one is missing, altered, or holds something else than the settings say.
        """
        start = 0
        for name, rows in zip(self.names, self.sizes, strict=True):
            tensors = self.artifact.tensors(name)
            with guarded(self.artifact.path / name):
                SHARD.check({"rows": rows, "d": self.d}, tensors)
            yield Shard(start, tensors["mean"], tensors["scale"])
            start += rows

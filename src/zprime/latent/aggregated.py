"""aggregated: the exact aggregated posterior, all N posteriors kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.posteriors import Form, Posteriors
from zprime.schema import FACTOR, FINITE, POSITIVE, WEIGHTS, Array, Schema


@final
@dataclass(frozen=True, repr=False, eq=False)
class Aggregated(GaussianDistribution):
    """The equal-weight (or weighted) mixture of all q(z|x_i): sampling draws a datum, then z' from its posterior."""

    kind: ClassVar[str] = "aggregated"
    schema: ClassVar[Schema] = Schema(
        {},
        {
            "mean": Array({"n d": FINITE}),
            "scale": Array({"n d": POSITIVE, "n d d": FACTOR}),
            "weights": Array({"n": WEIGHTS}, "real", optional=True),
        },
    )
    stores_rows: ClassVar[bool] = True
    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    weights: Float[Tensor, " n"] | None = None

    @cached_property
    def components(self) -> Diagonal | Full:
        """The N posteriors."""
        n = len(self.mean)
        weights = torch.full((n,), 1 / n, dtype=torch.float64) if self.weights is None else self.weights.double()
        form: type[Diagonal] | type[Full] = Full if self.scale.ndim == 3 else Diagonal
        return form(weights.log().to(self.mean.device), self.mean, self.scale)

    @property
    def label(self) -> str:
        """With the number of posteriors."""
        return f"aggregated({len(self.mean)})"

    def tensors(self) -> dict[str, Tensor]:
        """Means, and standard deviations or Cholesky factors, of all N posteriors; weights where they differ."""
        tensors = {"mean": self.mean, "scale": self.scale}
        return tensors if self.weights is None else {**tensors, "weights": self.weights}

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale"], tensors.get("weights"))


@final
@dataclass(frozen=True)
class AggregatedSettings(Settings):
    """Nothing to set: the minimiser of the mean of KL(q_i || r) over all r is the mixture itself."""

    kind: ClassVar[str] = Aggregated.kind
    about: ClassVar[About] = About(
        "2 N d numbers, rows", "none", "the other extreme, as a reference: all rows, exactly"
    )
    quick: ClassVar[bool] = True
    takes: ClassVar[frozenset[Form]] = frozenset({"diagonal", "full"})
    parts: ClassVar[bool] = True

    def fit(self, task: Task) -> Fit[Aggregated]:
        """Keep every posterior."""
        all_ = task.train.gather()
        return Fit(Aggregated(all_.mean, all_.scale, all_.weights), Outcome(message="exact, nothing to fit"))


@final
@dataclass(frozen=True, repr=False, eq=False)
class OnDemand(LatentDistribution):
    """The aggregated posterior over posteriors that need not be in memory: shards on disk, or rows encoded on demand.

    For use where the posteriors are. It cannot be saved: it is a view of posteriors that are stored elsewhere.
    """

    kind: ClassVar[str] = "aggregated-on-demand"
    stores_rows: ClassVar[bool] = True
    posteriors: Posteriors

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.posteriors.d

    @property
    def bytes(self) -> int:
        """What the posteriors take where they are kept."""
        return self.posteriors.bytes

    @property
    def label(self) -> str:
        """With the number of posteriors."""
        return f"aggregated({self.posteriors.n}) on demand"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log-density in nats, streamed, float64."""
        return self.posteriors.log_prob(z)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """A datum at random, then z' from its posterior."""
        return self.posteriors.sample(n, rng=rng)

    def tensors(self) -> dict[str, Tensor]:
        """None to save.

        Raises:
            UsageError: always: save the posteriors, or fit `aggregated`.
        """
        raise UsageError(
            "aggregated on demand: a view of posteriors kept elsewhere; to save it, fit the kind aggregated"
        )

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """Not possible.

        Raises:
            UsageError: always.
        """
        raise UsageError("aggregated on demand: nothing was saved that it could be rebuilt from")

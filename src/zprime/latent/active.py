"""active: another kind on the dimensions that the encoder uses, and the prior N(0, I) on the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.arrays import check_matrix, standard_log_prob, variances
from zprime.components import Tilted
from zprime.distribution import LatentDistribution
from zprime.latent.gaussian import marginal_moments
from zprime.latent.wrapper import Wrapper
from zprime.posteriors import MemoryPosteriors, Posteriors, Shard
from zprime.results.thresholds import THRESHOLDS
from zprime.schema import ANY, LATENTS, Array, Items, Part, Schema, Whole, need

THRESHOLD = THRESHOLDS.active
"""A dimension is active if the variance of its posterior mean over the data is above this (Burda et al. 2016)."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Active(Wrapper):
    """r(z) = base(z_A) N(z_C; 0, I): `base` on the active dimensions A, the prior on the collapsed ones C.

    A collapsed dimension has posterior = prior for every datum: whatever a fit sees there is noise, and it costs
    parameters. Keeping the prior there is exact where the collapse is.
    """

    kind: ClassVar[str] = "active"
    schema: ClassVar[Schema] = Schema(
        {"dims": Items(Whole(0, LATENTS), 1), "dim": Whole(1, LATENTS), "base": Part()},
        {"base.*": Array({"*": ANY}, "any")},
    )
    dims: tuple[int, ...]
    dim: int

    @property
    def d(self) -> int:
        """Latent dimension, collapsed ones included."""
        return self.dim

    @property
    def rest(self) -> list[int]:
        """The collapsed dimensions."""
        return [j for j in range(self.dim) if j not in self.dims]

    @property
    def label(self) -> str:
        """The base's label with the number of active dimensions."""
        return f"{self.base.label} on {len(self.dims)} of {self.dim}"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log base(z_A) + log N(z_C; 0, I) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.dim)
        return self.base.log_prob(z[:, list(self.dims)]) + standard_log_prob(z[:, self.rest])

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws from both, put together."""
        inner = self.base.sample(n, rng=rng)
        z = torch.randn(n, self.dim, generator=rng, dtype=inner.dtype, device=inner.device)
        z[:, list(self.dims)] = inner
        return z

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """The base's tilt on A; on C the ratio r/p is 1, so q_r = q there."""
        dims = list(self.dims)
        inner = self.base.tilt(mean[:, dims], scale[:, dims], draws=draws, rng=rng)
        if inner is None:
            return None
        noise = torch.randn(len(mean), draws, self.dim, generator=rng, dtype=mean.dtype, device=mean.device)
        z = (mean[:, None] + scale[:, None] * noise).to(inner.draws.dtype)
        z[..., dims] = inner.draws
        return Tilted(inner.log_ratio, z)

    def tensors(self) -> dict[str, Tensor]:
        """The base's."""
        return {f"base.{k}": v for k, v in self.base.tensors().items()}

    def config(self) -> dict[str, Any]:
        """The active dimensions, and the base."""
        return {
            "dims": list(self.dims),
            "dim": self.dim,
            "base": {"kind": self.base.kind, "config": self.base.config()},
        }

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the base's parts."""
        base, dims, dim = distribution.part("base", config["base"], tensors), config["dims"], config["dim"]
        known = len(set(dims)) == len(dims) and max(dims) < dim
        need("dims", known, f"different dimensions below {dim}", dims)
        need("base", base.d == len(dims), f"{len(dims)} dimensions, as many as dims has", base.d)
        return cls(base, tuple(dims), dim)


def active_dimensions(posteriors: Posteriors, threshold: float = THRESHOLD) -> list[int]:
    """Dimensions in which the posterior mean varies over the data by more than `threshold` (a variance)."""
    _, variance = marginal_moments(posteriors)
    if posteriors.datum is not None:  # the spread between parts of one datum says nothing of x
        data = posteriors.gather()
        weights = data.log_weights.exp()
        between = weights @ (data.centres - weights @ data.centres).square()
        return [j for j, v in enumerate(between.tolist()) if v > threshold]
    (noise,) = posteriors.total(_noise)
    return [j for j, v in enumerate((variance - noise).tolist()) if v > threshold]


def _noise(posteriors: Posteriors, s: Shard) -> list[Tensor]:
    return [posteriors.log_weights_of(s.rows).exp() @ variances(s.mean, s.scale.double())]


def restrict(posteriors: Posteriors, dims: list[int]) -> MemoryPosteriors:
    """The posteriors of some dimensions."""
    return posteriors.gather().restrict(dims)

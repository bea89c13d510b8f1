"""defensive: (1 - e) r + e p, so that no held-out datum is worse off than log e (docs/theory.md, section 3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.components import Tilted
from zprime.distribution import LatentDistribution, Prior, is_standard
from zprime.errors import UsageError
from zprime.latent.wrapper import Wrapper
from zprime.schema import ANY, Array, Maybe, Part, Real, Schema, need


def has_candidate(r: LatentDistribution, prior: LatentDistribution) -> bool:
    """Whether a verdict may choose `r` with a share of the prior: not the prior itself, nor what has no density."""
    return r.eligible and r.density != "none" and not is_prior(r, prior)


def is_prior(r: LatentDistribution, prior: LatentDistribution) -> bool:
    """Whether `r` is the prior."""
    return r is prior or (is_standard(r) and is_standard(prior))


def defended(r: LatentDistribution, epsilon: float, prior: LatentDistribution) -> "Defensive":
    """The candidate made of a latent distribution: (1 - epsilon) r + epsilon p."""
    return Defensive(r, epsilon, None if is_standard(prior) else prior)


@final
@dataclass(frozen=True, repr=False, eq=False)
class Defensive(Wrapper):
    """The mixture of another latent distribution with weight 1 - epsilon, and the prior with weight epsilon.

    Attributes:
        base: the other distribution.
        epsilon: weight of the prior, above 0 and below 1.
        other_prior: the prior where it is not N(0, I).
    """

    kind: ClassVar[str] = "defensive"
    schema: ClassVar[Schema] = Schema(
        {"epsilon": Real(0, 1, inside=True), "base": Part(), "prior": Maybe(Part())},
        {"base.*": Array({"*": ANY}, "any"), "prior.*": Array({"*": ANY}, "any")},
    )
    epsilon: float
    other_prior: LatentDistribution | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for a weight that leaves nothing of one of the two."""
        if not 0 < self.epsilon < 1:
            raise UsageError(f"epsilon: expected a weight of the prior above 0 and below 1, got {self.epsilon:g}")

    @property
    def prior(self) -> LatentDistribution:
        """What is mixed in."""
        return Prior(self.d) if self.other_prior is None else self.other_prior

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.base.d

    @property
    def least_rows(self) -> float | None:
        """The fewer of the base's and the prior's: a prior that was learned may store single rows too."""
        counted = [r.least_rows for r in (self.base, self.prior)]
        return min((n for n in counted if n is not None), default=None)

    @property
    def bytes(self) -> int:
        """Of the base and of the prior, as they count them: a view of posteriors kept elsewhere has no arrays."""
        return self.base.bytes + (0 if self.other_prior is None else self.other_prior.bytes)

    @property
    def label(self) -> str:
        """The base's label with the weight of the prior."""
        return f"{self.base.label} + {100 * self.epsilon:g} % p"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log[(1 - e) r(z) + e p(z)] in nats, float64."""
        return torch.logaddexp(
            self.base.log_prob(z) + math.log1p(-self.epsilon), self.prior.log_prob(z) + math.log(self.epsilon)
        )

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws from either, in random order."""
        coin = torch.rand(n, generator=rng, device=rng.device) < self.epsilon
        from_base = self.base.sample(n, rng=rng)
        if self.other_prior is None:
            from_prior = torch.randn(from_base.shape, generator=rng, dtype=from_base.dtype, device=from_base.device)
        else:
            from_prior = self.other_prior.sample(n, rng=rng).to(from_base)
        return torch.where(coin[:, None], from_prior, from_base)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form where the base has one and N(0, I) is mixed in: E_q[p/p] = 1, and q_p = q."""
        if self.other_prior is not None:
            return None
        tilted = self.base.tilt(mean, scale, draws=draws, rng=rng)
        if tilted is None:
            return None
        of_base = tilted.log_ratio + math.log1p(-self.epsilon)
        both = torch.logaddexp(of_base, torch.full_like(of_base, math.log(self.epsilon)))
        weight = torch.exp(of_base - both).nan_to_num(1.0)  # of the base in q_r; 1 where its ratio diverges
        coin = torch.rand(len(mean), draws, generator=rng, dtype=torch.float64, device=mean.device) < weight[:, None]
        noise = torch.randn(len(mean), draws, self.d, generator=rng, dtype=mean.dtype, device=mean.device)
        of_q = mean[:, None] + scale[:, None] * noise
        return Tilted(both, torch.where(coin[..., None], tilted.draws, of_q.to(tilted.draws.dtype)))

    def tensors(self) -> dict[str, Tensor]:
        """The base's, and those of a prior that is not N(0, I)."""
        parts = {"base": self.base} if self.other_prior is None else {"base": self.base, "prior": self.other_prior}
        return {f"{name}.{k}": v for name, part in parts.items() for k, v in part.tensors().items()}

    def config(self) -> dict[str, Any]:
        """The weight of the prior, the base, and a prior that is not N(0, I)."""
        config = {"epsilon": self.epsilon, "base": {"kind": self.base.kind, "config": self.base.config()}}
        p = self.other_prior
        return config if p is None else {**config, "prior": {"kind": p.kind, "config": p.config()}}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the parts of the base and of the prior."""
        base = distribution.part("base", config["base"], tensors)
        if config.get("prior") is None:
            return cls(base, float(config["epsilon"]))
        prior = distribution.part("prior", config["prior"], tensors)
        need("prior", prior.d == base.d, f"{base.d} dimensions, as the base has", prior.d)
        return cls(base, float(config["epsilon"]), prior)

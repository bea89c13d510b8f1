"""defensive: (1 - e) r + e p, so that no held-out datum is worse off than log e (docs/theory.md, section 3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.arrays import standard_log_prob
from zprime.components import Tilted
from zprime.distribution import Density, LatentDistribution
from zprime.errors import UsageError


@final
@dataclass(frozen=True, repr=False, eq=False)
class Defensive(LatentDistribution):
    """The mixture of another latent distribution `base` with weight 1 - epsilon, and N(0, I) with weight epsilon."""

    kind: ClassVar[str] = "defensive"
    base: LatentDistribution
    epsilon: float

    def __post_init__(self) -> None:
        """Raise `UsageError` for a share that leaves nothing of one of the two."""
        if not 0 < self.epsilon < 1:
            raise UsageError(f"epsilon: expected a share of the prior above 0 and below 1, got {self.epsilon:g}")

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.base.d

    @property
    def density(self) -> Density:
        """As the base's."""
        return self.base.density

    @property
    def holds_rows(self) -> bool:
        """As the base does."""
        return self.base.holds_rows

    @property
    def label(self) -> str:
        """The base's label with the prior's share."""
        return f"{self.base.label} + {100 * self.epsilon:g} % p"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log[(1 - e) r(z) + e p(z)] in nats, float64."""
        return torch.logaddexp(
            self.base.log_prob(z) + math.log1p(-self.epsilon), standard_log_prob(z) + math.log(self.epsilon)
        )

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws from either, in random order."""
        coin = torch.rand(n, generator=rng, device=rng.device) < self.epsilon
        out = self.base.sample(n, rng=rng)
        noise = torch.randn(out.shape, generator=rng, dtype=out.dtype, device=out.device)
        return torch.where(coin[:, None], noise, out)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form where the base has one: E_q[p/p] = 1, and q_p = q."""
        tilted = self.base.tilt(mean, scale, draws=draws, rng=rng)
        if tilted is None:
            return None
        mine = tilted.log_ratio + math.log1p(-self.epsilon)
        both = torch.logaddexp(mine, torch.full_like(mine, math.log(self.epsilon)))
        share = torch.exp(mine - both).nan_to_num(1.0)  # the base's share of q_r; all of it where it diverges
        coin = torch.rand(len(mean), draws, generator=rng, dtype=torch.float64, device=mean.device) < share[:, None]
        noise = torch.randn(len(mean), draws, self.d, generator=rng, dtype=mean.dtype, device=mean.device)
        plain = mean[:, None] + scale[:, None] * noise
        return Tilted(both, torch.where(coin[..., None], tilted.draws, plain.to(tilted.draws.dtype)))

    def tensors(self) -> dict[str, Tensor]:
        """The base's."""
        return {f"base.{k}": v for k, v in self.base.tensors().items()}

    def config(self) -> dict[str, Any]:
        """The share of the prior, and the base."""
        return {"epsilon": self.epsilon, "base": {"kind": self.base.kind, "config": self.base.config()}}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the base's parts."""
        inner = {k.removeprefix("base."): v for k, v in tensors.items()}
        base = distribution.rebuild(config["base"]["kind"], config["base"]["config"], inner)
        return cls(base, float(config["epsilon"]))

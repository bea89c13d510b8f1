"""pool: the normalised geometric mean of all posteriors, closest to them in reverse KL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution, Outcome, Progress, silent
from zprime.posteriors import Posteriors


@final
@dataclass(frozen=True, repr=False, eq=False)
class Pool(GaussianDistribution):
    """One diagonal Gaussian, about as narrow as a single posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "pool"
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @property
    def components(self) -> Diagonal:
        """A mixture of one."""
        one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
        return Diagonal(one, self.mean[None], self.scale[None])

    def tensors(self) -> dict[str, Tensor]:
        """Mean and standard deviations."""
        return {"mean": self.mean, "scale": self.scale}

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale"])


@dataclass(frozen=True)
class PoolSettings:
    """Nothing to set: the minimiser of `sum w_i KL(r || q_i)` over all r, the logarithmic opinion pool.

    r is proportional to `prod q_i^w_i` (Genest & Zidek 1986): for diagonal Gaussians the one of precision
    `L = sum w_i s_i^-2` and mean `L^-1 sum w_i s_i^-2 mu_i` (theory page, section 1).
    """

    kind: ClassVar[str] = "pool"
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[Pool]:
        """Add up precisions, shard by shard."""
        weights = train.log_weights.exp()
        precision = torch.zeros(train.d, dtype=torch.float64)
        shift = torch.zeros(train.d, dtype=torch.float64)
        dtype = torch.float32
        for s in train.shards():
            dtype = s.mean.dtype
            mine = s.scale.double().pow(-2)
            precision = precision + weights[s.rows] @ mine
            shift = shift + weights[s.rows] @ (mine * s.mean.double())
        pool = Pool((shift / precision).to(dtype), precision.rsqrt().to(dtype))
        return Fit(pool, Outcome(message="exact, in closed form"))

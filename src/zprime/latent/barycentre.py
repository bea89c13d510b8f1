"""barycentre: the Wasserstein-2 mean of all posteriors."""

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
class Barycentre(GaussianDistribution):
    """One diagonal Gaussian, as narrow as the average posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "barycentre"
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
class BarycentreSettings:
    """Nothing to set: the minimiser of `sum w_i W2^2(r, q_i)` over all r (Agueh & Carlier 2011).

    For diagonal Gaussians `W2^2 = |mu - mu'|^2 + |s - s'|^2`, so r has mean `sum w_i mu_i` and standard deviations
    `sum w_i s_i` (theory page, section 1).
    """

    kind: ClassVar[str] = "barycentre"
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[Barycentre]:
        """Average means and standard deviations, shard by shard."""
        weights = train.log_weights.exp()
        mean = torch.zeros(train.d, dtype=torch.float64)
        scale = torch.zeros(train.d, dtype=torch.float64)
        dtype = torch.float32
        for s in train.shards():
            dtype = s.mean.dtype
            mean = mean + weights[s.rows] @ s.mean.double()
            scale = scale + weights[s.rows] @ s.scale.double()
        return Fit(Barycentre(mean.to(dtype), scale.to(dtype)), Outcome(message="exact, in closed form"))

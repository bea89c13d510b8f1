"""gaussian: the one Gaussian closest in forward KL to every posterior, by matching moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution, Outcome, Progress, silent
from zprime.errors import UsageError
from zprime.posteriors import Posteriors


@final
@dataclass(frozen=True, repr=False)
class Gaussian(GaussianDistribution):
    """N(mean, L L^T); a diagonal one keeps `scale_tril` as a vector, shape [d]."""

    kind: ClassVar[str] = "gaussian"
    mean: Float[Tensor, " d"]
    scale_tril: Float[Tensor, "d d"] | Float[Tensor, " d"]

    @property
    def components(self) -> Diagonal | Full:
        """A mixture of one."""
        one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
        shape: type[Diagonal] | type[Full] = Diagonal if self.scale_tril.ndim == 1 else Full
        return shape(one, self.mean[None], self.scale_tril[None])

    @property
    def label(self) -> str:
        """With its covariance."""
        return "gaussian (diagonal)" if self.scale_tril.ndim == 1 else "gaussian"

    def tensors(self) -> dict[str, Tensor]:
        """Mean and Cholesky factor (or standard deviations)."""
        return {"mean": self.mean, "scale_tril": self.scale_tril}

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale_tril"])


def moments(posteriors: Posteriors) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of the aggregated posterior, float64, as sums over shards.

    `m = sum w_i mu_i`, `S = sum w_i (diag(s_i^2) + (mu_i - m)(mu_i - m)^T)`, in two passes so that nothing cancels.
    """
    weights = posteriors.log_weights.exp()
    mean = torch.zeros(posteriors.d, dtype=torch.float64)
    for s in posteriors.shards():
        mean = mean + weights[s.rows] @ s.mean.double()
    covariance = torch.zeros(posteriors.d, posteriors.d, dtype=torch.float64)
    for s in posteriors.shards():
        w, gap = weights[s.rows], s.mean.double() - mean
        covariance += (gap * w[:, None]).T @ gap + torch.diag(w @ s.scale.double().square())
    return mean, covariance


@dataclass(frozen=True)
class GaussianSettings:
    """Moment match: the minimiser of the mean of KL(q_i || r) over Gaussians r (theory page, section 1).

    Attributes:
        covariance: `full` or `diagonal`.
    """

    kind: ClassVar[str] = "gaussian"
    needs: ClassVar[frozenset[str]] = frozenset()
    covariance: str = "full"

    def fit(
        self, train: Posteriors, *, selection: Posteriors, context: Any, rng: torch.Generator, progress: Progress = silent
    ) -> Fit[Gaussian]:
        """Match mean and covariance of the aggregated posterior, exactly.

        Raises:
            UsageError: unknown covariance.
        """
        if self.covariance not in ("full", "diagonal"):
            raise UsageError(f"covariance: expected full or diagonal, got {self.covariance!r}")
        mean, covariance = moments(train)
        if self.covariance == "diagonal":
            factor = covariance.diagonal().sqrt()
        else:
            factor = torch.linalg.cholesky(covariance)
        dtype = next(iter(train.shards())).mean.dtype
        return Fit(Gaussian(mean.to(dtype), factor.to(dtype)), Outcome(message="exact, in closed form"))

"""prior: N(0, tau^2 I); at tau = 1 what the VAE was trained with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import check_matrix, standard_log_prob
from zprime.components import Diagonal
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent


@final
@dataclass(frozen=True, repr=False)
class Prior(GaussianDistribution):
    """N(0, tau^2 I) in `dim` dimensions: nothing is stored.

    Raises:
        UsageError: tau is not above 0.
    """

    kind: ClassVar[str] = "prior"
    dim: int
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise UsageError(f"tau: expected a standard deviation above 0, got {self.tau:g}; 1 is the VAE's own prior")

    @property
    def components(self) -> Diagonal:
        """One Gaussian."""
        return Diagonal(torch.zeros(1), torch.zeros(1, self.dim), torch.full((1, self.dim), float(self.tau)))

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        return standard_log_prob(check_matrix("z", z, d=self.dim).double() / self.tau) - self.dim * math.log(self.tau)

    @property
    def label(self) -> str:
        """With tau where it is not 1."""
        return "prior" if self.tau == 1 else f"prior({self.tau:g})"

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def config(self) -> dict[str, Any]:
        """The dimension and tau."""
        return {"dim": self.dim, "tau": self.tau}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the dimension and tau."""
        return cls(int(config["dim"]), float(config.get("tau", 1.0)))


@dataclass(frozen=True)
class PriorSettings:
    """The prior itself, or one narrower (tau < 1: fewer odd samples, less variety) or wider; nothing is fitted.

    Attributes:
        tau: standard deviation of every dimension.
    """

    kind: ClassVar[str] = "prior"
    needs: ClassVar[frozenset[str]] = frozenset()
    tau: float = 1.0

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[Prior]:
        """The prior of this latent space, scaled.

        Raises:
            UsageError: tau is not above 0.
        """
        return Fit(Prior(train.d, self.tau))

"""prior: N(0, I), what the VAE was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from zprime.components import Diagonal
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution, Progress, silent
from zprime.posteriors import Posteriors


@final
@dataclass(frozen=True, repr=False)
class Prior(GaussianDistribution):
    """N(0, I) in `dim` dimensions: nothing is stored."""

    kind: ClassVar[str] = "prior"
    dim: int

    @property
    def components(self) -> Diagonal:
        """One standard Gaussian."""
        one = torch.zeros(1)
        return Diagonal(one, torch.zeros(1, self.dim), torch.ones(1, self.dim))

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def config(self) -> dict[str, Any]:
        """The dimension."""
        return {"dim": self.dim}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the dimension."""
        return cls(int(config["dim"]))


@dataclass(frozen=True)
class PriorSettings:
    """Nothing to set, nothing to fit."""

    kind: ClassVar[str] = "prior"
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(
        self, train: Posteriors, *, selection: Posteriors, context: Any, rng: torch.Generator, progress: Progress = silent
    ) -> Fit[Prior]:
        """The prior of this latent space."""
        return Fit(Prior(train.d))

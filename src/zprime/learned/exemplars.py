"""exemplars: a Gaussian of one shared, learned width at the code of every training row (Norouzi et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.distribution import LatentDistribution
from zprime.latent.exemplars import Exemplars
from zprime.learned.rows import LearnedRows, RowsPrior
from zprime.learned.settings import cannot_go_on
from zprime.trainable_prior import TrainablePrior


@final
class TrainableExemplars(RowsPrior):
    """The codes of all rows, and one width.

    Attributes:
        log_width: the logarithm of the standard deviation that all have in every dimension.
    """

    def start(self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> None:
        """The width of the encoder's posteriors, by the mean of their variances."""
        self.log_width = nn.Parameter(0.5 * scale.square().mean().log())

    def widths(self, scale: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """The shared width."""
        return self.log_width.exp().expand_as(scale)

    def frozen(self) -> Exemplars:
        """Components of bandwidth 0, which are as they are stored: N(mean(x_j), width^2 I)."""
        mean = self._mean.clone()
        width = self.log_width.detach().exp().to(mean)
        return Exemplars(mean, width.expand_as(mean).clone(), mean.mean(0), torch.ones_like(mean[0]), 0.0)


@final
@dataclass(frozen=True)
class ExemplarsPrior(LearnedRows):
    """`p(z) = 1/N sum_j N(mean(x_j), width^2 I)`, in training without the row that z belongs to.

    Attributes:
        near, again: see `LearnedRows`.
    """

    kind: ClassVar[str] = Exemplars.kind
    trained: ClassVar[type[RowsPrior]] = TrainableExemplars

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """Not possible.

        Raises:
            UsageError: always: what is fitted is smoothed in another way than what is trained.
        """
        raise cannot_go_on(r, "is smoothed in another way than the exemplars that are trained")

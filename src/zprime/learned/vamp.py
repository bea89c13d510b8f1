"""vamp: the encoder's posteriors at K pseudo-inputs, which are trained with it (Tomczak & Welling 2018, eq. 10)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import is_full
from zprime.distribution import LatentDistribution
from zprime.kernels import trainable_full_mixture_log_prob, trainable_mixture_log_prob
from zprime.latent.vamp import Vamp
from zprime.learned.inputs import InputsPrior
from zprime.learned.settings import LearnedPrior, at_least, cannot_go_on
from zprime.trainable_prior import TrainablePrior


@final
@dataclass(frozen=True)
class VampPrior(LearnedPrior):
    """`p(z) = sum_k w_k q(z|u_k)`: pseudo-inputs u_k and weights w_k are trained, and the encoder that both pass.

    Attributes:
        components: K; at most as many as there are training rows. Every step encodes K rows more than its batch.
    """

    kind: ClassVar[str] = Vamp.kind
    components: int = 50

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        at_least("components", self.components, 1)

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return TrainableVamp(self.components)

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """Not possible.

        Raises:
            UsageError: always: a `Vamp` keeps no pseudo-inputs, and other ones would begin at a worse ELBO.
        """
        raise cannot_go_on(r, "keeps no pseudo-inputs")


@final
class TrainableVamp(InputsPrior):
    """Pseudo-inputs and weights, both trained by the objective."""

    kind: ClassVar[str] = Vamp.kind

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Of a code; pseudo-inputs belong to no row."""
        mean, scale = self.at(self.free)
        density = trainable_full_mixture_log_prob if is_full(mean, scale) else trainable_mixture_log_prob
        return density(z, mean, scale, self.logits.log_softmax(0))

    def frozen(self) -> Vamp:
        """The K Gaussians and their weights, without the pseudo-inputs; `learned` if each of these has left its row."""
        with torch.no_grad():
            mean, scale = self.at(self.free)
            learned = self.moved(self.codes().mean)
            return Vamp(self.logits.log_softmax(0).to(mean), mean.clone(), scale.clone(), learned)

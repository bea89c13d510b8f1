"""vamp: the encoder's posteriors at K pseudo-inputs, which are trained with it (Tomczak & Welling 2018, eq. 10)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zprime.arrays import is_full
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.kernels import trainable_full_mixture_log_prob, trainable_mixture_log_prob
from zprime.latent.vamp import PseudoInputs, Vamp, medoids
from zprime.learned.rows import encoded
from zprime.learned.settings import LearnedPrior, at_least, cannot_go_on
from zprime.rng import fork
from zprime.trainable_prior import Encode, TrainablePrior


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
class TrainableVamp(TrainablePrior):
    """Pseudo-inputs and weights.

    Attributes:
        free: shape [k, *datum]; 0 is an entry's smallest value over the training rows, 1 its largest, and what lies
            outside counts as the nearer of the two.
        logits: shape [k], of the weights.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        self.components = components

    def extra_repr(self) -> str:
        """What is not among its modules."""
        return f"components={self.components}"

    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """Pseudo-inputs are the training rows nearest to k-means centres of the codes, with equal weights.

        Raises:
            UsageError: the encoder's answer has no gradient in its input, so that they would stay these rows.
        """
        chosen = medoids(encoded(encode, x), min(self.components, len(x)), rng=fork(rng, "start"))
        self.encode, self.inputs = encode, PseudoInputs(x, chosen)
        self.free = nn.Parameter(self.inputs.free.detach().clone())
        self.logits = nn.Parameter(torch.zeros(len(chosen), device=x.device))
        if not self._moves():
            raise UsageError(
                "prior: vamp trains inputs of the encoder, and the encoder's answer has no gradient in its input (as "
                "where it sees codes as ones and zeros, with the categorical likelihood); take mixture or flow"
            )

    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Back into the box, where the step before left it."""
        with torch.no_grad():
            self.free.clamp_(0, 1)

    @torch.enable_grad()
    def _moves(self) -> bool:
        mean, scale = self.posteriors()
        answer = mean.sum() + scale.sum()
        return answer.requires_grad and torch.autograd.grad(answer, self.free, allow_unused=True)[0] is not None

    def posteriors(self) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z|u_k)."""
        return self.encode(self.inputs.low + self.free.clamp(0, 1) * self.inputs.range)

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Of a code; pseudo-inputs belong to no row."""
        mean, scale = self.posteriors()
        density = trainable_full_mixture_log_prob if is_full(mean, scale) else trainable_mixture_log_prob
        return density(z, mean, scale, self.logits.log_softmax(0))

    def frozen(self) -> Vamp:
        """The K Gaussians and their weights, without the pseudo-inputs; `learned` if each of these has moved."""
        with torch.no_grad():
            mean, scale = self.posteriors()
            moved = (self.free.clamp(0, 1) != self.inputs.free).flatten(1).any(1)
            return Vamp(self.logits.log_softmax(0).to(mean), mean.clone(), scale.clone(), bool(moved.all()))

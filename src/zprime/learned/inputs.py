"""Priors made of the encoder's answers at K pseudo-inputs, which begin at training rows and are trained."""

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zprime.encoding import encoded
from zprime.errors import UsageError
from zprime.latent.vamp import PseudoInputs, all_left, medoids
from zprime.posteriors import MemoryPosteriors
from zprime.rng import fork
from zprime.trainable_prior import Encode, TrainablePrior


class InputsPrior(TrainablePrior):
    """Pseudo-inputs and weights.

    Attributes:
        free: shape [k, *datum]; 0 is an entry's smallest value over the training rows, 1 its largest, and what lies
            outside counts as the nearer of the two.
        logits: shape [k], of the weights.
    """

    kind: ClassVar[str]
    """What it is called."""

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
        data = encoded(encode, x)
        chosen = medoids(data, min(self.components, len(x)), rng=fork(rng, "start"))
        self.encode, self.inputs, self.codes = encode, PseudoInputs(x, chosen), partial(encoded, encode, x)
        self._chosen = chosen
        """The training rows that pseudo-inputs began at."""
        self.free = nn.Parameter(self.inputs.free.detach().clone())
        self.logits = nn.Parameter(torch.zeros(len(chosen), device=x.device))
        self.start(data)
        if not self._moves():
            raise UsageError(
                f"prior: {self.kind} trains inputs of the encoder, and the encoder's answer has no gradient in its "
                "input (as where it sees codes as ones and zeros, with the categorical likelihood); take mixture or "
                "flow"
            )

    def start(self, data: MemoryPosteriors) -> None:
        """Set the first values of further parameters, if there are any, from the posteriors of all rows."""
        return

    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Back into the box, where the step before left it."""
        with torch.no_grad():
            self.free.clamp_(0, 1)

    def at(self, free: Float[Tensor, "k *datum"]) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z|u_k), at pseudo-inputs in units of the box."""
        return self.encode(self.inputs.low + free.clamp(0, 1) * self.inputs.range)

    @torch.no_grad()
    def moved(self, codes: Float[Tensor, "n d"]) -> bool:
        """Whether every pseudo-input has left the training row that it began at: `zprime.latent.vamp.all_left`.

        Args:
            codes: means of all training rows, by the encoder as it is now.
        """
        return all_left(codes, self._chosen, self.at(self.free)[0])

    @torch.enable_grad()
    def _moves(self) -> bool:
        answer = self.at(self.free)[0].sum()
        return answer.requires_grad and torch.autograd.grad(answer, self.free, allow_unused=True)[0] is not None

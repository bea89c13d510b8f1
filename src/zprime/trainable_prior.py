"""The contract of a prior that is trained together with encoder and decoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zprime.distribution import LatentDistribution

Encode = Callable[[Float[Tensor, "n *datum"]], tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]]
"""Mean and standard deviation of q(z|x), with gradients in the encoder's parameters."""


class TrainablePrior(nn.Module, ABC):
    """p(z) with parameters of its own, or a function of the encoder, while a VAE is being trained.

    It lives as long as the training does: then `frozen` takes its place in the VAE. Its parameters, and what it keeps
    beside them, begin in `begin`. What it keeps of the encoder's answers is made again in `refresh`.
    """

    @abstractmethod
    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """Set the first values, from the training rows and the encoder as it is.

        Args:
            encode: the encoder of the VAE, which is called again whenever its answers are needed.
            x: the training rows.
            rng: source of every random number.

        Raises:
            UsageError: the rows cannot give such a prior.
        """

    def refresh(self) -> None:
        """Make again what is kept of the encoder's answers: before an epoch, and before an ELBO is measured."""
        return  # nothing is kept by most

    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Choose what the next step looks at, given the training rows of the whole batch.

        In a job of several processes all of them call it with the same rows and the same stream.
        """
        return  # most look at everything

    def own_loss(self, x: Float[Tensor, "b *datum"], rows: Int[Tensor, " b"]) -> Float[Tensor, ""] | None:
        """What the prior goes down beside the objective: a sum over these rows, nats; None for nothing.

        It is called after `before_batch`, once a step, with the batch or a process's part of it, and has no weight. Its
        gradients are in parameters of the prior alone.

        Args:
            x: rows as the encoder sees them.
            rows: which training rows these are.
        """
        return None  # most are trained by the objective alone

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Log p(z) in nats, with gradients in z, in the parameters and through the encoder.

        Args:
            z: codes.
            rows: the training row that each code belongs to, which priors made of rows leave out; None leaves nothing
                out.
        """

    @abstractmethod
    def frozen(self) -> LatentDistribution:
        """What p(z) is now, as an ordinary latent distribution: nothing in it moves with later steps."""

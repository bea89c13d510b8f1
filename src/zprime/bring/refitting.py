"""An encoder for a decoder that has none: fitted to it by the ELBO, the decoder as it is."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime.data import Rows
from zprime.networks import MLPEncoder
from zprime.rng import stream
from zprime.train_settings import TrainSettings
from zprime.training import train
from zprime.vae import VAE


class Whole(nn.Module):
    """A decoder that answers with p(x|z) at once; the optimiser leaves its parameters as they are."""

    def __init__(self, decode: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z)."""
        return self.decode(z)


def refit(
    decode: Callable[[Tensor], Distribution],
    rows: Mapping[str, Rows],
    latents: int,
    *,
    hidden: Sequence[int],
    settings: TrainSettings,
    seed: int,
) -> nn.Module:
    """Fit q(z|x), a diagonal Gaussian by hidden layers, to raise the ELBO under a frozen decoder and N(0, I).

    Args:
        decode: p(x|z); differentiable in z.
        rows: `train`, what it is fitted to, and `selection`, what it is stopped by.
        latents: d.
        hidden: widths of the hidden layers.
        settings: of the training.
        seed: of weights, order and noise.

    Raises:
        NumericalError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "refit").initial_seed())
        encoder = MLPEncoder(rows["train"].x.shape[1:], latents, hidden)
    whole = VAE(encoder, nn.Identity(), Whole(decode), latents=latents)
    return train(whole, rows["train"], rows["selection"], settings, seed=seed).vae.encoder

"""A VAE whose posterior has two modes, of which the encoder finds one: x = (|z1|, z2, ...) + 0.1 noise."""

import math

import torch
from torch import Tensor, nn

from zprime import likelihoods
from zprime.data import Rows
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.vae import VAE

NOISE = 0.1
VAR = NOISE**2 / (1 + NOISE**2)


class OneMode(nn.Module):
    """The exact posterior near z1 > 0."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x / (1 + NOISE**2), torch.full_like(x, math.sqrt(VAR))


class Folded(nn.Module):
    """z -> (|z1|, z2, ...)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z[:, :1].abs(), z[:, 1:]], 1)


def vae(d: int) -> VAE:
    likelihood = likelihoods.Gaussian(scale=1.0)
    likelihood.log_scale = torch.tensor(math.log(NOISE), dtype=torch.float64)
    return VAE(OneMode(), Folded(), likelihood, latents=d)


def data(seed: int, d: int, **sizes: int) -> tuple[dict[str, Rows], dict[str, MemoryPosteriors]]:
    """Rows of the model itself, and what the encoder makes of them."""
    rows, posteriors = {}, {}
    for split, n in sizes.items():
        rng = stream(seed, "bimodal", split)
        z = torch.randn(n, d, generator=rng, dtype=torch.float64)
        x = Folded()(z) + NOISE * torch.randn(n, d, generator=rng, dtype=torch.float64)
        rows[split] = Rows(split, x, torch.arange(n))
        mean, scale = OneMode()(x)
        posteriors[split] = MemoryPosteriors(mean.contiguous(), scale.contiguous())
    return rows, posteriors


def exact_gain(x: Tensor, log_weight: Tensor, mean: Tensor, var: Tensor, share: float) -> Tensor:
    """Log p_r(x) - log p_p(x) for r a mixture of diagonal Gaussians with a share of N(0, I): by quadrature in z1.

    The other latents are Gaussian given the component, so only z1 needs a grid.
    """
    z = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    step = float(z[1] - z[0])
    fits = -0.5 * ((x[:, :1] - z.abs()) / NOISE).square() - math.log(NOISE * math.sqrt(2 * math.pi))

    def log_evidence(m: Tensor, v: Tensor) -> Tensor:
        first = torch.logsumexp(fits - 0.5 * (z - m[0]).square() / v[0] - 0.5 * torch.log(2 * math.pi * v[0]), 1)
        total = v[1:] + NOISE**2
        rest = -0.5 * ((x[:, 1:] - m[1:]).square() / total + torch.log(2 * math.pi * total)).sum(1)
        return first + math.log(step) + rest

    of_r = torch.stack([w + log_evidence(m, v) for w, m, v in zip(log_weight, mean, var, strict=True)]).logsumexp(0)
    of_p = log_evidence(torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double())
    return torch.logaddexp(of_r + math.log1p(-share), of_p + math.log(share)) - of_p

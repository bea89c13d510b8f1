"""A VAE whose decoder is not linear, in two dimensions; its posterior by quadrature."""

import math

import torch
from torch import Tensor, nn

from oracles import grid
from zprime import likelihoods
from zprime.vae import VAE

NOISE = 0.3
POINTS, _ = grid(6.0, 241)


class Bent(nn.Module):
    """z -> (z1, z2 + z1^2 / 2, sin 2 z1, z1 z2)."""

    def forward(self, z: Tensor) -> Tensor:
        a, b = z[:, :1], z[:, 1:]
        return torch.cat([a, b + a.square() / 2, (2 * a).sin(), a * b], 1)


class Matched(nn.Module):
    """The mean and the standard deviations of the exact posterior, by quadrature."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.softmax(log_joint(x), 1)
        mean = weight @ POINTS
        return mean, (weight @ POINTS.square() - mean.square()).clamp(min=1e-6).sqrt()


def log_joint(x: Tensor) -> Tensor:
    """Log p(x|z) at the points of the grid, and log p(z), up to a constant of neither."""
    means = Bent()(POINTS)
    square = (x.square().sum(1)[:, None] - 2 * x @ means.T + means.square().sum(1)) / NOISE**2
    return -0.5 * (square + POINTS.square().sum(1))


def bent() -> VAE:
    """The model, with its noise."""
    likelihood = likelihoods.Gaussian(scale=1.0)
    likelihood.log_scale = torch.tensor(math.log(NOISE), dtype=torch.float64)
    return VAE(Matched(), Bent(), likelihood, latents=2)

"""What several benchmarks share: where data come from, candidates, and a model that is not linear with its exact gains.

Truths over a data distribution are means over `SOBOL` scrambled Sobol points, each with its exact gain by quadrature.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from oracles import grid
from zprime import likelihoods
from zprime.arrays import standard_log_prob
from zprime.distribution import LatentDistribution
from zprime.latent import Gaussian, Mixture
from zprime.vae import VAE

CENTRE = torch.tensor([0.4, -0.2], dtype=torch.float64)
SPREAD = torch.tensor([[0.85, 0.0], [0.25, 0.7]], dtype=torch.float64)
"""The data's z are N(CENTRE, SPREAD SPREAD^T), neither N(0, I) nor a candidate: there is something to gain."""
SOBOL = 2**15

R = Gaussian(torch.tensor([0.5, 0.0]).double(), torch.tensor([[0.8, 0.0], [0.2, 0.8]]).double())
MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(),
    torch.tensor([[0.8, 0.2], [-0.5, -0.9], [0.3, 0.9]], dtype=torch.float64),
    torch.tensor([[0.5, 0.6], [0.6, 0.4], [0.3, 0.5]], dtype=torch.float64),
)

NOISE = 0.3
FINE = grid(6.0, 241)
COARSE = grid(5.0, 81)
"""Steps of 0.125: posteriors are 0.09 wide or wider wherever the data's z are, so integrals are right to 1e-4."""


class Bent(nn.Module):
    """z -> (z1, z2 + z1^2 / 2, sin 2 z1, z1 z2)."""

    def forward(self, z: Tensor) -> Tensor:
        a, b = z[:, :1], z[:, 1:]
        return torch.cat([a, b + a.square() / 2, (2 * a).sin(), a * b], 1)


class Matched(nn.Module):
    """The mean and the standard deviations of the exact posterior, by quadrature on these points."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = points

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.softmax(_log_joint(x, self.points), 1)
        mean = weight @ self.points
        return mean, (weight @ self.points.square() - mean.square()).clamp(min=1e-6).sqrt()


def _log_joint(x: Tensor, z: Tensor) -> Tensor:
    """Log p(x|z) + log p(z) at every point z, nats."""
    means = Bent()(z)
    square = (x.square().sum(1)[:, None] - 2 * x @ means.T + means.square().sum(1)) / NOISE**2
    return -0.5 * square - x.shape[1] * math.log(NOISE * math.sqrt(2 * math.pi)) + standard_log_prob(z)


def bent(points: Tensor = FINE[0]) -> VAE:
    """A decoder that is not linear, in two dimensions."""
    likelihood = likelihoods.Gaussian(scale=1.0)
    likelihood.log_scale = torch.tensor(math.log(NOISE), dtype=torch.float64)
    return VAE(Matched(points), Bent(), likelihood, latents=2)


def bent_gain(x: Tensor, r: LatentDistribution, points: Tensor = FINE[0]) -> Tensor:
    """Exact log p_r(x) - log p_p(x), by quadrature."""
    joint = _log_joint(x, points)
    return torch.logsumexp(joint + r.log_prob(points) - standard_log_prob(points), 1) - torch.logsumexp(joint, 1)


def bent_log_prob(x: Tensor) -> Tensor:
    """Exact log p(x) under the prior, by quadrature."""
    points, area = COARSE
    return torch.logsumexp(_log_joint(x, points), 1) + math.log(area)


def latents(noise: Tensor) -> Tensor:
    """The data's z from standard normal numbers [n, 2]."""
    return CENTRE + noise @ SPREAD.T


def bent_rows(noise: Tensor) -> Tensor:
    """Rows of the model that is not linear, from standard normal numbers [n, 6]: two for z, four for the noise of x."""
    return Bent()(latents(noise[:, :2])) + NOISE * noise[:, 2:]


def folded_rows(noise: Tensor) -> Tensor:
    """Rows of the model whose posterior has two modes (`tests/bimodal.py`), from standard normal numbers [n, 4]."""
    import bimodal

    return bimodal.Folded()(latents(noise[:, :2])) + bimodal.NOISE * noise[:, 2:]


def sobol(d: int, *, seed: int = 0) -> Tensor:
    """Scrambled Sobol points of N(0, I) in d dimensions."""
    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(SOBOL, dtype=torch.float64)
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))

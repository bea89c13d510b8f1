"""Mixtures of diagonal Gaussians, and how people would evaluate them."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from zprime.kernels import DiagonalMixture, compiled, mixture_compiled
from zprime.rng import stream

N = 60_000
FLOATS = 1 << 23  # of one temporary of MixtureSameFamily, at which it is fastest (tried: 1 to 64 points at once)
Mixture = tuple[Tensor, Tensor, Tensor]


def made(d: int, n: int = N, seed: int = 0) -> Mixture:
    """Posteriors as VAEs have them: scales from 0.05 to 0.4, spread so that their mixture has about unit variance."""
    rng = stream(seed, "made", d)
    scale = torch.empty(n, d).uniform_(math.log(0.05), math.log(0.4), generator=rng).exp()
    return torch.randn(n, d, generator=rng), scale, torch.full((n,), -math.log(n), dtype=torch.float64)


def draw(mixture: Mixture, m: int) -> Tensor:
    mean, scale, _ = mixture
    rng = stream(0, "draw", m)
    i = torch.randint(len(mean), (m,), generator=rng)
    return mean[i] + scale[i] * torch.randn(m, mean.shape[1], generator=rng)


def torchs(mixture: Mixture) -> MixtureSameFamily:
    mean, scale, log_weight = mixture
    parts = Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
    return MixtureSameFamily(Categorical(logits=log_weight.float()), parts, validate_args=False)


def torch_log_prob(mixture: Mixture, z: Tensor) -> Tensor:
    """In chunks of points that it is fastest with."""
    density = torchs(mixture)
    return torch.cat([density.log_prob(b) for b in z.split(max(1, FLOATS // mixture[0].numel()))])


def scikits(mixture: Mixture) -> GaussianMixture:
    mean, scale, log_weight = (t.double().numpy() for t in mixture)
    out = GaussianMixture(len(mean), covariance_type="diag")
    out.weights_, out.means_, out.covariances_ = np.exp(log_weight), mean, scale**2
    out.precisions_cholesky_ = 1 / scale
    return out


def brute(mixture: Mixture) -> DiagonalMixture:
    """Every pair of point and component, in the order given."""

    class Brute(DiagonalMixture):
        def log_prob(self, z: Tensor, **given: object) -> Tensor:
            before, mixture_compiled.SORTED = mixture_compiled.SORTED, 1 << 62
            try:
                return super().log_prob(z, **given)
            finally:
                mixture_compiled.SORTED = before

    return Brute(*mixture)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """The kernels in torch, as without a compiler."""
    before, compiled.module = compiled.module, None
    try:
        yield
    finally:
        compiled.module = before


def in_torch(mixture: Mixture, z: Tensor) -> Tensor:
    with uncompiled():
        return DiagonalMixture(*mixture).log_prob(z)

"""Mixtures of diagonal Gaussians, and how people would evaluate them."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from timing import Task, fastest
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from zprime.kernels import DiagonalMixture, compiled, mixture_compiled
from zprime.rng import stream

N = 60_000
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


def in_blocks(f: Callable[[Any], Any], rows: Any, size: int) -> list[Any]:
    """`f` of so many rows at a time."""
    return [f(rows[i : i + size]) for i in range(0, len(rows), size)]


def at_its_best(f: Callable[[Any], Any], rows: Any, sizes: Sequence[int], m: int) -> Task:
    """`f` on some of the rows, in blocks of the size that is fastest; the whole is `m` rows."""

    def in_size(size: int) -> Task:
        few = min(len(rows), max(size, sizes[-1]))
        return Task(partial(in_blocks, f, rows[:few], size), m / few)

    tasks = {f"{size}": in_size(size) for size in sizes}
    return tasks[fastest(tasks)]


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

"""Posteriors on a ring, a hole that no Gaussian can follow, and checks that every kind fitted by steps has to pass."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import grid
from tasks import task
from zprime import distribution
from zprime.distribution import LatentDistribution
from zprime.latent import gradient
from zprime.latent.gaussian import GaussianSettings
from zprime.latent.kind import Fit, Settings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

GRID, AREA = grid(5.0, 101)


def ring(n: int = 200, name: str = "train", dtype: torch.dtype = torch.float64) -> MemoryPosteriors:
    """Means on a circle of radius 2, scales of 0.3."""
    angle = 2 * math.pi * torch.rand(n, generator=stream(0, "ring", name), dtype=torch.float64)
    mean = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return MemoryPosteriors(mean.to(dtype), torch.full_like(mean, 0.3).to(dtype))


def cloud(name: str = "train") -> MemoryPosteriors:
    """One posterior: N((1, -2), diag(0.5^2, 2^2))."""
    return MemoryPosteriors(
        torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    )


def fit(
    settings: Settings, train: MemoryPosteriors, selection: MemoryPosteriors | None = None, **extra: Any
) -> Fit[Any]:
    """With the ring's own selection split unless another is given."""
    rng = stream(extra.pop("seed", 0), "fit")
    return settings.fit(task(train, selection=selection or train, context=extra.pop("context", None), rng=rng, **extra))


def mass(r: LatentDistribution) -> float:
    """Integral of exp(log_prob) over the grid."""
    return float(r.log_prob(GRID).exp().sum()) * AREA


def kl(p: MemoryPosteriors, r: LatentDistribution) -> float:
    """KL(qbar || r) by quadrature, nats."""
    log_q = p.log_prob(GRID)
    return float((log_q.exp() * (log_q - r.log_prob(GRID))).sum()) * AREA


def gaussian_kl(p: MemoryPosteriors) -> float:
    """KL(qbar || its moment match): what a kind has to beat."""
    return kl(p, fit(GaussianSettings(), p).distribution)


def draws_agree(r: LatentDistribution, n: int = 4000, bound: float = 4.5) -> None:
    """Means of log r, of every coordinate's square and of their products over draws, against quadrature."""
    log_r = r.log_prob(GRID)
    share = torch.softmax(log_r, 0)
    drawn = r.sample(n, rng=stream(3, "draws"))
    pairs = [(log_r, r.log_prob(drawn))]
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z.square().sum(1), lambda z: z.prod(1)):
        pairs.append((f(GRID), f(drawn).double()))
    for on_grid, on_draws in pairs:
        mean = float(share @ on_grid)
        stderr = math.sqrt(float(share @ (on_grid - mean).square()) / n)
        assert abs(float(on_draws.mean()) - mean) < bound * stderr


def same_bits_twice(settings: Settings, train: MemoryPosteriors, make: Callable[..., Fit[Any]] = fit) -> None:
    """The generator decides everything, and torch's own does not move."""
    before = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "STEPS", 10)
        a, b, c = (make(settings, train, seed=s).distribution for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert a.config() == b.config()
    for name, value in a.tensors().items():
        assert torch.equal(value, b.tensors()[name]), name
    assert any(not torch.equal(value, c.tensors()[name]) for name, value in a.tensors().items())


def saved_bits(r: LatentDistribution, folder: Path) -> None:
    """Saved, loaded and rebuilt from parts: the same densities and draws, bit for bit; in both precisions."""
    found = r.save(folder)
    back = distribution.rebuild(r.kind, found.config, found.tensors())
    assert type(back) is type(r)
    assert (back.label, back.bytes, back.config()) == (r.label, r.bytes, r.config())
    for z in (GRID[::50], GRID[::50].float()):
        assert torch.equal(back.log_prob(z), r.log_prob(z))
    assert torch.equal(back.sample(50, rng=stream(0)), r.sample(50, rng=stream(0)))


def company_does_not_matter(r: LatentDistribution) -> None:
    """A point's log-density is the same alone, in another order, or among many; float32 keeps close to float64."""
    z: Tensor = GRID[::97]
    whole = r.log_prob(z)
    assert whole.dtype == torch.float64
    pieces = torch.cat([r.log_prob(part) for part in z.split(13)])
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(r.log_prob(z.flip(0)).flip(0), whole, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(r.log_prob(z.float()), whole, rtol=1e-4, atol=1e-3)

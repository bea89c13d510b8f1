"""One line a kind: name -> constructor of a latent distribution in `d` dimensions, stored as `dtype`.

Every law in test_latent_laws.py is tested on every entry: a new kind is one new line here.
"""

from collections.abc import Callable

import torch

from zprime.distribution import LatentDistribution, Settings
from zprime.latent import (
    AggregatedSettings,
    Defensive,
    GaussianSettings,
    MixtureSettings,
    Prior,
)
from zprime.posteriors import InMemory
from zprime.rng import generator


def posteriors(d: int, dtype: torch.dtype = torch.float64, n: int = 24, seed: int = 0) -> InMemory:
    """Posteriors in three clumps, with scales from 0.3 to 0.8: far from a Gaussian, and easy to integrate."""
    rng = generator(seed, "zoo", d, n)
    clump = torch.randint(3, (n,), generator=rng) - 1.0
    mean = 0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64) + 1.6 * clump[:, None]
    scale = 0.3 + 0.5 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    return InMemory(mean.to(dtype), scale.to(dtype))


def weighted(d: int, dtype: torch.dtype) -> InMemory:
    """The same with weights of their own, some of them zero."""
    p = posteriors(d, dtype)
    weights = (torch.arange(p.n) % 4).to(dtype)
    return InMemory(p.mean, p.scale, weights=weights / weights.sum())


def fitted(settings: Settings, p: InMemory) -> LatentDistribution:
    """What the settings make of posteriors."""
    return settings.fit(p, selection=p, context=None, rng=generator(0, "zoo fit")).distribution


Make = Callable[[int, torch.dtype], LatentDistribution]

ZOO: dict[str, Make] = {
    "prior": lambda d, t: Prior(d),
    "prior(0.8)": lambda d, t: Prior(d, 0.8),
    "gaussian": lambda d, t: fitted(GaussianSettings(), posteriors(d, t)),
    "gaussian diagonal": lambda d, t: fitted(GaussianSettings("diagonal"), posteriors(d, t)),
    "gaussian low-rank": lambda d, t: fitted(GaussianSettings("low-rank", rank=1), posteriors(d, t)),
    "mixture": lambda d, t: fitted(MixtureSettings(components=3), posteriors(d, t)),
    "mixture diagonal": lambda d, t: fitted(MixtureSettings(components=4, covariance="diagonal"), posteriors(d, t)),
    "aggregated": lambda d, t: fitted(AggregatedSettings(), posteriors(d, t)),
    "aggregated weighted": lambda d, t: fitted(AggregatedSettings(), weighted(d, t)),
    "defensive mixture": lambda d, t: Defensive(ZOO["mixture"](d, t), 0.1),
    "defensive aggregated": lambda d, t: Defensive(ZOO["aggregated"](d, t), 0.01),
}

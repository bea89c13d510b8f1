"""One line a kind: name -> constructor of a latent distribution in `d` dimensions, stored as `dtype`.

Every law in test_latent_laws.py is tested on every entry: a new kind is one new line here.
"""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from tasks import task
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent.active import Active
from zprime.latent.affine import Affine
from zprime.latent.aggregated import AggregatedSettings
from zprime.latent.barycentre import BarycentreSettings
from zprime.latent.conditional import ConditionalSettings
from zprime.latent.coreset import Coreset
from zprime.latent.defensive import Defensive
from zprime.latent.exemplars import ExemplarsSettings
from zprime.latent.flow import FlowSettings
from zprime.latent.flow_matching import FlowMatchingSettings
from zprime.latent.gaussian import GaussianSettings
from zprime.latent.kind import Context, Settings
from zprime.latent.kronecker import KroneckerSettings
from zprime.latent.log_pool import LogPoolSettings
from zprime.latent.mixture import MixtureSettings
from zprime.latent.nuts import SharedNUTS
from zprime.latent.prior import Prior
from zprime.latent.priors import StandardNormal
from zprime.latent.product_of_experts import ProductOfExpertsSettings
from zprime.latent.resampled import ResampledSettings
from zprime.latent.two_stage import TwoStageSettings
from zprime.latent.vamp import Vamp
from zprime.posteriors import MemoryPosteriors, ShardedPosteriors
from zprime.rng import stream


def posteriors(d: int, dtype: torch.dtype = torch.float64, n: int = 24, seed: int = 0) -> MemoryPosteriors:
    """Posteriors in three labelled clumps, with scales from 0.3 to 0.8: far from a Gaussian, and easy to integrate."""
    rng = stream(seed, "zoo", d, n)
    clump = torch.randint(3, (n,), generator=rng) - 1.0
    mean = 0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64) + 1.6 * clump[:, None]
    scale = 0.3 + 0.5 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean.to(dtype), scale.to(dtype), labels=clump.long())


def weighted(d: int, dtype: torch.dtype) -> MemoryPosteriors:
    """The same with weights of their own, some of them zero."""
    p = posteriors(d, dtype)
    weights = (torch.arange(p.n) % 4).to(dtype)
    return MemoryPosteriors(p.mean, p.scale, weights=weights / weights.sum())


def sharded(p: MemoryPosteriors, path: Path, size: int) -> ShardedPosteriors:
    """The same on disk, with shards of `size` rows."""
    with patch("zprime.shards.ROWS", size):
        p.save(path)
    return ShardedPosteriors(path)


def apart(d: int, dtype: torch.dtype) -> MemoryPosteriors:
    """The same with a larger hole, so that a few steps of a fit leave the moment match behind."""
    p = posteriors(d, dtype)
    return MemoryPosteriors(1.7 * p.mean, 0.7 * p.scale)


class Reader:
    """A row is (means, log scales): the encoder has only to read it."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        d = x.shape[1] // 2
        return x[:, :d], x[:, d:].exp()

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(z, torch.ones_like(z)), 1)


def context(p: MemoryPosteriors) -> Context:
    rows = Rows("train", torch.cat([p.mean, p.scale.log()], 1), p.row_ids, labels=p.labels)
    return Context(Reader(), rows, rows)


def moved(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A shift, and scales."""
    return torch.linspace(0.1, 0.2, d, dtype=torch.float64), torch.linspace(0.8, 1.1, d, dtype=torch.float64)


def turned(d: int) -> torch.Tensor:
    """A lower triangular matrix that stretches like those scales."""
    return torch.diag(moved(d)[1]) + 0.3 * torch.ones(d, d, dtype=torch.float64).tril(-1)


def fitted(settings: Settings, p: MemoryPosteriors) -> LatentDistribution:
    """What the settings make of posteriors."""
    with patch("zprime.latent.gradient.STEPS", 60):  # laws hold for bad fits too
        return settings.fit(task(p, selection=p, rng=stream(0, "zoo fit"))).distribution


SHORT = {"hidden": (32, 32), "epochs": 4, "batch": 128, "lr": 0.02}

Make = Callable[[int, torch.dtype], LatentDistribution]

ZOO: dict[str, Make] = {
    "prior": lambda d, t: Prior(d),
    "prior-0.8": lambda d, t: Prior(d, 0.8),
    "standard-normal": lambda d, t: StandardNormal(d),
    "gaussian": lambda d, t: fitted(GaussianSettings(), posteriors(d, t)),
    "gaussian-diagonal": lambda d, t: fitted(GaussianSettings("diagonal"), posteriors(d, t)),
    "gaussian-low-rank": lambda d, t: fitted(GaussianSettings("low-rank", rank=1), posteriors(d, t)),
    "kronecker": lambda d, t: fitted(KroneckerSettings((2, d // 2) if d % 2 == 0 else (d, 1)), posteriors(d, t)),
    "log-pool": lambda d, t: fitted(LogPoolSettings(), posteriors(d, t)),
    "barycentre": lambda d, t: fitted(BarycentreSettings(), posteriors(d, t)),
    "product-of-experts": lambda d, t: fitted(ProductOfExpertsSettings(group=(0, 1, 2)), posteriors(d, t)),
    "mixture": lambda d, t: fitted(MixtureSettings(components=3, least_rows=0.0), posteriors(d, t)),
    "mixture-diagonal": lambda d, t: fitted(MixtureSettings(4, "diagonal", least_rows=0.0), posteriors(d, t)),
    "aggregated": lambda d, t: fitted(AggregatedSettings(), posteriors(d, t)),
    "aggregated-weighted": lambda d, t: fitted(AggregatedSettings(), weighted(d, t)),
    "exemplars": lambda d, t: fitted(ExemplarsSettings(bandwidth=0.4), posteriors(d, t)),
    "exemplars-full": lambda d, t: fitted(ExemplarsSettings(bandwidth=0.4, covariance="full"), posteriors(d, t)),
    "conditional": lambda d, t: fitted(ConditionalSettings(MixtureSettings(2, least_rows=0.0)), posteriors(d, t, n=70)),
    "vamp": lambda d, t: Vamp(torch.full((24,), 1 / 24, dtype=t).log(), posteriors(d, t).mean, posteriors(d, t).scale),
    "coreset": lambda d, t: Coreset(
        torch.tensor([0.5, 0.3, 0.2], dtype=t).log(), posteriors(d, t).mean[:3], torch.tensor(0.6, dtype=t), 8.0
    ),
    "flow": lambda d, t: fitted(FlowSettings("nsf", 2, (16,), epochs=2, batch=128, lr=0.01), apart(d, t)),
    "flow-maf": lambda d, t: fitted(FlowSettings("maf", 2, (16,), epochs=2, batch=128, lr=0.01), apart(d, t)),
    "flow-matching": lambda d, t: fitted(FlowMatchingSettings(64, 8, epochs=4, batch=128, lr=0.02), apart(d, t)),
    "resampled-energy": lambda d, t: fitted(ResampledSettings("energy", **SHORT), apart(d, t)),
    "resampled-rejection": lambda d, t: fitted(ResampledSettings("rejection", **SHORT), apart(d, t)),
    "two-stage": lambda d, t: fitted(TwoStageSettings(**SHORT), apart(d, t)),
    "shared-nuts": lambda d, t: SharedNUTS(posteriors(d, t).mean, 3),
    "active-mixture": lambda d, t: Active(ZOO["mixture"](d - 1, t), tuple(range(1, d)), d),
    "affine-mixture": lambda d, t: Affine(ZOO["mixture"](d, t), *moved(d)),
    "affine-gaussian": lambda d, t: Affine(ZOO["gaussian"](d, t), *moved(d)),
    "affine-full": lambda d, t: Affine(ZOO["mixture"](d, t), moved(d)[0], turned(d)),
    "defensive-mixture": lambda d, t: Defensive(ZOO["mixture"](d, t), 0.1),
    "defensive-aggregated": lambda d, t: Defensive(ZOO["aggregated"](d, t), 0.01),
}

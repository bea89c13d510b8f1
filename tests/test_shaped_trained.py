"""Autoencoders with latents of a shape, trained here and audited: with a distribution, with codes, and of sequences."""

import copy
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from zprime import audit, fit
from zprime.bring import Latents, diffusers
from zprime.latent import GaussianSettings, Prior
from zprime.results.audit import AuditSettings
from zprime.rng import stream

SMALL = AuditSettings(rows=150, draws=0, simulated=0)
CHANNELS, STEPS, BATCH = 4, 150, 64


@cache
def digits() -> dict[str, Tensor]:
    x = torch.from_numpy(load_digits().images).float()[torch.randperm(1797, generator=stream(0, "digits"))] / 8 - 1
    return {"train": x[:1000], "selection": x[1000:1300], "heldout": x[1300:]}


class Posterior:
    """What AutoencoderKL answers: half of the channels are means, half log-variances."""

    def __init__(self, parameters: Tensor, dim: int) -> None:
        self.mean, self.logvar = parameters.chunk(2, dim)
        self.std = (0.5 * self.logvar.clamp(-30, 20)).exp()

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def kl(self) -> Tensor:
        return 0.5 * (self.mean.square() + self.std.square() - 1 - self.logvar).flatten(1).sum(1)


class Config(nn.Module):
    """`register_to_config` and `config`, as models of diffusers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"scaling_factor": 0.18215}

    def register_to_config(self, **fields: Any) -> None:
        self.config.update(fields)


class Images(Config):
    """Latents of 4 x 8 x 8, of a distribution (AutoencoderKL) or codes alone (AutoencoderTiny)."""

    def __init__(self, *, codes: bool) -> None:
        super().__init__()
        self.codes = codes
        out = CHANNELS if codes else 2 * CHANNELS
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, out, 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(CHANNELS, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))

    def encode(self, x: Tensor) -> SimpleNamespace:
        h = self.encoder(x)
        return SimpleNamespace(latents=h) if self.codes else SimpleNamespace(latent_dist=Posterior(h, 1))


class Sequences(Config):
    """A row of 8 steps with 8 numbers each -> latents [n, 8, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(8, 16, batch_first=True, bidirectional=True)
        self.head, self.outer, self.out = nn.Linear(32, 6), nn.GRU(3, 32, batch_first=True), nn.Linear(32, 8)

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=Posterior(self.head(self.inner(x)[0]), 2))

    def decoder(self, z: Tensor) -> Tensor:
        return self.out(self.outer(z)[0])


def trained(make: Callable[[], Config], x: Tensor, weight: float) -> tuple[Any, float]:
    """By squared error and `weight` times the KL term; and the error that is left, over the variance of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae: Any = make()
        adam = torch.optim.Adam(vae.parameters(), 5e-3)
        for step in range(STEPS):
            batch = x[torch.randint(len(x), (BATCH,), generator=stream(0, "batch", step))]
            q = vae.encode(batch)
            dist = getattr(q, "latent_dist", None)
            z = q.latents if dist is None else dist.sample()
            loss = (vae.decoder(z) - batch).square().mean()
            if dist is not None:
                loss = loss + weight * dist.kl().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return vae, float(loss.detach() / x.var())


def bringing(vae: Any, x: dict[str, Tensor], **how: Any) -> Latents:
    before = dict(vae.config)
    latents = diffusers(vae, x, **how)
    assert vae.config == before
    assert vae.training  # as it was
    with torch.no_grad():
        answer = vae.encode(x["train"])
    z = getattr(answer, "latents", None)
    mean, var = (answer.latent_dist.mean, answer.latent_dist.std**2) if z is None else (z, torch.zeros_like(z))
    others = [a for a in range(mean.ndim) if a != how.get("channels", 1) % mean.ndim]
    want = (mean.double().var(others, correction=0) + var.double().mean(others)).sqrt()
    torch.testing.assert_close(torch.tensor(latents.std).double(), want, rtol=1e-4, atol=1e-6)
    return latents


@cache
def with_posteriors() -> tuple[Any, dict[str, Tensor], Latents]:
    x = {s: v[:, None] for s, v in digits().items()}
    vae, left = trained(lambda: Images(codes=False), x["train"], 1e-5)
    assert left < 0.1
    return vae, x, bringing(vae, x, unit="both")


def test_an_autoencoder_with_posteriors_is_scaled_as_measured() -> None:
    vae, x, latents = with_posteriors()
    vae = copy.deepcopy(vae)
    assert repr(latents) == "<Latents: [4, 8, 8], posteriors of positions and of whole grids>"
    # the config of another model, as many saved autoencoders have it
    assert latents.comparison.off.value > 0.1
    assert "Your config says scaling_factor 0.18215 and no shift" in latents.scaling
    latents.register(vae)
    after = diffusers(vae, x)
    assert after.comparison.agrees
    assert abs(after.comparison.off.value) < 0.01


def test_an_autoencoder_with_posteriors_is_audited_by_position() -> None:
    _, _, latents = with_posteriors()
    # empty corners have one code: these are no copies
    assert "give both keep_duplicates=True" in latents.position.says[0]
    full = fit(GaussianSettings(), **latents.position.splits, keep_duplicates=True)
    verdict = audit({"full": full}, latents.position.posteriors, settings=SMALL, keep_duplicates=True).verdict
    said = latents.sentence(verdict)
    assert said.startswith("One Gaussian a channel")
    assert "Draws of single positions make no image" in said
    gain = latents.joint_gain()
    assert gain.estimate.low > 5


def test_an_autoencoder_with_posteriors_is_audited_whole() -> None:
    vae, x, latents = with_posteriors()
    low = fit(GaussianSettings(covariance="low-rank", rank=16), **latents.whole.splits)
    found = audit({"low": low, "flat": Prior(CHANNELS * 64)}, latents.whole.posteriors, settings=SMALL)
    assert found.verdict.best.startswith("low")
    z = latents.unscaled(low.distribution.sample(200, rng=stream(0, "draws")))
    alone = latents.unscaled(torch.randn(200, CHANNELS * 64, generator=stream(0, "alone")))
    with torch.no_grad():
        images, noise = vae.decoder(z), vae.decoder(alone)
    # pixels of drawn grids hang together as those of digits do; those of independent positions do not
    assert neighbours(images) > 0.5 * neighbours(x["heldout"])
    assert neighbours(noise) < 0.5 * neighbours(x["heldout"])


def neighbours(x: Tensor) -> float:
    """Correlation of pixels with what lies below them, around the mean image."""
    x = x - x.mean(0)
    a, b = x[..., :-1, :].flatten(), x[..., 1:, :].flatten()
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_an_autoencoder_with_codes_alone_is_measured_and_joined() -> None:
    x = {s: v[:, None] for s, v in digits().items()}
    vae, left = trained(lambda: Images(codes=True), x["train"], 0.0)
    assert left < 0.1
    latents = bringing(vae, x)
    mine = latents.brought
    r = fit(GaussianSettings(), keep_duplicates=True, **mine.splits)  # corners of images are alike
    found = audit({"full": r}, mine.posteriors, settings=SMALL, keep_duplicates=True)
    assert found.surgery == {}
    assert found.entry("full+p1").heldout.elbo.gain.low > 0
    assert found.entry("full+p1").heldout.likelihood is None
    assert "One Gaussian a channel (latents_mean, latents_std)" in latents.sentence(found.verdict)
    assert latents.measured.std == latents.measured.std_of_means
    assert latents.joint_gain().joined
    assert "Draws of single positions make no image" in latents.sentence()
    latents.register(vae)
    assert diffusers(vae, x).comparison.agrees


@pytest.mark.parametrize("unit", ["position", "whole"])
def test_a_vae_of_sequences_is_audited(unit: str) -> None:
    vae, left = trained(Sequences, digits()["train"], 1e-4)
    assert left < 0.8
    latents = bringing(vae, digits(), channels=-1, unit=unit)
    assert latents.layout.positions == 8
    assert latents.layout.width == 3
    mine = latents.brought
    found = audit({"full": fit(GaussianSettings(), **mine.splits)}, mine.posteriors, settings=SMALL)
    assert {r.name for r in found.verdict.chosen.ranking} >= {"prior", "full+p1"}
    if unit == "position":
        assert "Joint gain" in latents.sentence(found.verdict)

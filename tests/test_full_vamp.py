"""vamp with an encoder that gives full covariances."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

import zprime
from ring import fit
from zprime import latent
from zprime.data import Rows
from zprime.errors import UsageError
from zprime.kernels import trainable_full_mixture_log_prob, trainable_mixture_log_prob
from zprime.latent.kind import Context, Fit
from zprime.latent.vamp import Vamp, VampSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


class Encoder:
    """q(z|x) = N(x[:2] / 2, L L^T), L with the width and the slant that x says; without slant `plain` gives widths."""

    def __init__(self, *, slant: float = 1.0, plain: bool = False) -> None:
        self.slant, self.plain = slant, plain

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        width = (0.2 + 0.2 * torch.sigmoid(x[:, 2:])).expand(-1, 2)
        if self.plain:
            return 0.5 * x[:, :2], width
        return 0.5 * x[:, :2], torch.diag_embed(width) + self.slant * torch.diag_embed(0.2 * x[:, :1].tanh(), -1)

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(z, 1.0), 1)


def rows(n: int, name: str) -> Rows:
    rng = stream(0, "full vamp", name)
    angle = 2 * math.pi * torch.rand(n, generator=rng, dtype=torch.float64)
    width = torch.randn(n, generator=rng, dtype=torch.float64)
    return Rows(name, torch.stack([4 * angle.cos(), 4 * angle.sin(), width], 1), torch.arange(n))


TRAIN, SELECTION = rows(120, "train"), rows(60, "selection")


def fitted(encoder: Encoder) -> Fit[Vamp]:
    train, selection = (MemoryPosteriors(*encoder.encode(x.x)) for x in (TRAIN, SELECTION))
    settings = VampSettings(components=8, epochs=3, batch=64, lr=1e-2)
    return fit(settings, train, selection, context=Context(encoder, TRAIN, SELECTION))


def test_components_are_the_encoders_answers_with_their_covariances(tmp_path: Path) -> None:
    found = fitted(Encoder())
    r = found.distribution
    assert r.scale.shape == (8, 2, 2)
    z = torch.randn(20, 2, generator=stream(0, "z"), dtype=torch.float64)
    want = MixtureSameFamily(Categorical(r.log_weight.exp()), MultivariateNormal(r.mean, scale_tril=r.scale))
    torch.testing.assert_close(r.log_prob(z), want.log_prob(z))
    assert float(r.scale[:, 1, 0].abs().max()) > 0.1
    r.save(tmp_path / "r")
    again = latent.load(tmp_path / "r")
    assert bool((again.log_prob(z) == r.log_prob(z)).all())
    assert r.sample(5, rng=stream(0)).shape == (5, 2)


def test_an_encoder_that_writes_widths_as_factors_gives_the_same_fit() -> None:
    one, other = fitted(Encoder(plain=True)), fitted(Encoder(slant=0.0))
    assert other.chosen == one.chosen
    assert one.distribution.learned
    z = torch.randn(20, 2, generator=stream(0, "z"), dtype=torch.float64)
    torch.testing.assert_close(other.distribution.log_prob(z), one.distribution.log_prob(z), rtol=0, atol=1e-6)


def test_the_density_that_is_trained_is_torchs_with_its_gradient() -> None:
    rng = stream(0, "density")
    z, mean = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (7, 4))
    a = torch.randn(4, 3, 3, generator=rng, dtype=torch.float64)
    tril = torch.linalg.cholesky(a @ a.mT + torch.eye(3)).requires_grad_()
    weight = torch.randn(4, generator=rng, dtype=torch.float64).log_softmax(0)
    want = MixtureSameFamily(Categorical(weight.exp()), MultivariateNormal(mean, scale_tril=tril)).log_prob(z)
    found = trainable_full_mixture_log_prob(z, mean, tril, weight)
    torch.testing.assert_close(found, want)
    gradients = [torch.autograd.grad(f.sum(), tril)[0].tril() for f in (found, want)]
    torch.testing.assert_close(*gradients)
    width = tril.detach().diagonal(dim1=1, dim2=2)
    plain = trainable_mixture_log_prob(z, mean, width, weight)
    torch.testing.assert_close(trainable_full_mixture_log_prob(z, mean, torch.diag_embed(width), weight), plain)


def test_several_components_a_datum_are_refused() -> None:
    p = MemoryPosteriors(*Encoder().encode(TRAIN.x), row_ids=torch.arange(120) // 2)
    with pytest.raises(UsageError, match="kind vamp: .* several parts; an encoder gives one Gaussian a datum"):
        zprime.fit(VampSettings(), p, selection=p, context=Context(Encoder(), TRAIN, TRAIN), keep_duplicates=True)

"""The VAE: shapes in and out, its terms against closed forms, and its artefact."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from zprime import artifact, likelihoods, networks, vae
from zprime.errors import ArtifactError, UsageError
from zprime.rng import stream
from zprime.vae import VAE, Model, VAESettings

X = torch.rand(5, 1, 17, 19, generator=stream(0, "x"))

BUILDS = {
    "mlp": ((7,), VAESettings(latents=3, hidden=(16,))),
    "mlp on images": ((1, 5, 6), VAESettings(latents=3, hidden=(16, 8))),
    "linear": ((7,), VAESettings(latents=3, hidden=())),
    "conv": ((1, 17, 19), VAESettings(latents=3, network="conv", width=4)),
    "gated": ((7,), VAESettings(latents=3, network="gated-mlp", hidden=(16, 8))),
    "residual": ((1, 17, 19), VAESettings(latents=3, network="residual", width=4)),
    "residual in colour": ((3, 8, 9), VAESettings(latents=2, network="residual", width=6, likelihood="bernoulli")),
    "full": ((7,), VAESettings(latents=3, hidden=(16,), posterior="full", log_variance=(-6.0, 2.0))),
    "conv in colour": ((3, 28, 28), VAESettings(latents=2, width=4, likelihood="bernoulli")),
}


@pytest.mark.parametrize(("shape", "settings"), BUILDS.values(), ids=BUILDS)
def test_every_architecture_answers_for_every_row_alone(shape: tuple[int, ...], settings: VAESettings) -> None:
    """No row's answer depends on its batch, and decoding gives the datum's shape and one log-density a row."""
    model = VAE.build(shape, settings, seed=1).eval()
    assert isinstance(model, Model)
    x = torch.rand(6, *shape, generator=stream(0, "x"))
    mean, scale = model.encode(x)
    full = settings.posterior == "full"
    assert mean.shape == (6, settings.latents)
    assert scale.shape == ((6, settings.latents, settings.latents) if full else mean.shape)
    assert ((scale.diagonal(dim1=1, dim2=2) if full else scale) > 0).all()
    alone = torch.cat([model.encode(row)[0] for row in x.split(1)])
    torch.testing.assert_close(alone, mean, rtol=1e-4, atol=1e-5)
    p = model.decode(mean)
    assert p.event_shape == shape
    assert p.log_prob(x.round()).shape == (6,)
    assert isinstance(VAESettings().resolve((1, 28, 28)).network, str)


def test_auto_takes_conv_for_images_of_16_pixels_and_more() -> None:
    kinds = {
        shape: VAESettings().resolve(shape).network
        for shape in [(1, 16, 16), (3, 28, 40), (1, 15, 16), (12,), (16, 16)]
    }
    assert list(kinds.values()) == ["conv", "conv", "mlp", "mlp", "mlp"]


def test_weights_are_decided_by_the_seed_alone() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(7)
    a = VAE.build((4,), VAESettings(), seed=3).state_dict()
    torch.manual_seed(8)
    b, c = (VAE.build((4,), VAESettings(), seed=s).state_dict() for s in (3, 4))
    assert torch.random.initial_seed() == 8
    torch.set_rng_state(before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_elbo_terms_are_the_two_terms_of_the_elbo() -> None:
    """KL against torch's own; log p(x|z) at the z that the given stream draws."""
    model = VAE.build((4,), VAESettings(latents=3, hidden=(8,))).eval()
    x = torch.randn(6, 4, generator=stream(0))
    log_likelihood, kl = model.elbo_terms(x, rng=stream(1))
    mean, scale = model.encode(x)
    normal = torch.distributions.Normal
    torch.testing.assert_close(
        kl, torch.distributions.kl_divergence(normal(mean, scale), normal(0.0, 1.0)).sum(1), rtol=1e-5, atol=1e-5
    )
    z = mean + scale * torch.randn(6, 3, generator=stream(1))
    expected = normal(model.decoder(z), model.likelihood.log_scale.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-5, atol=1e-5)


def test_elbo_terms_carry_gradients_to_every_parameter() -> None:
    model = VAE.build((4,), VAESettings(latents=3, hidden=(8,)))
    a, b = model.elbo_terms(torch.randn(6, 4, generator=stream(0)), rng=stream(1))
    (b - a).mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert {k for k, p in model.named_parameters() if not p.grad.any()} == set()


@pytest.mark.parametrize("fixed", [None, 0.2])
def test_the_scale_of_the_gaussian_likelihood_is_learned_or_fixed(fixed: float | None) -> None:
    likelihood = likelihoods.build("gaussian", scale=fixed)
    assert [k for k, _ in likelihood.named_parameters()] == ([] if fixed else ["log_scale"])
    out = torch.zeros(2, 3)
    p = likelihood(out)
    assert p.stddev.unique().item() == pytest.approx(fixed or 0.3)
    assert p.log_prob(out).tolist() == pytest.approx(
        [-3 * math.log((fixed or 0.3) * math.sqrt(2 * math.pi))] * 2, abs=1e-5
    )


@pytest.mark.parametrize("log_scale", [-3.0, 0.0, 2.0])
def test_the_gaussian_likelihood_is_torchs_normal_with_its_gradients(log_scale: float) -> None:
    rng = stream(5, "gaussian")
    x, mean = torch.randn(6, 2, 5, 4, generator=rng).double(), torch.randn(6, 2, 5, 4, generator=rng).double()
    ours = likelihoods.Gaussian().double()
    with torch.no_grad():
        ours.log_scale.fill_(log_scale)
    mean.requires_grad_()
    scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    theirs = torch.distributions.Normal(mean, scale.exp()).log_prob(x).sum((1, 2, 3))
    p = ours(mean)
    torch.testing.assert_close(p.log_prob(x), theirs)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, torch.full_like(mean, math.exp(2 * log_scale)))
    torch.testing.assert_close(p.expand([3, 6]).log_prob(x), theirs.expand(3, 6))
    weight = torch.randn(6, generator=rng).double()
    found = torch.autograd.grad((weight * p.log_prob(x)).sum(), [mean, ours.log_scale])
    torch.testing.assert_close(found, torch.autograd.grad((weight * theirs).sum(), [mean, scale]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [(2, 3), (7, 7)])
def test_the_last_layer_of_a_decoder_is_torchs_transposed_convolution(channels: int, side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = networks.build("conv", (channels, 4 * side[0], 4 * side[1]), 2, hidden=(), width=8)[1].conv[-1].double()
    theirs = nn.ConvTranspose2d(8, channels, 4, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 8, *side, dtype=torch.float64, requires_grad=True)
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b)
    weight = torch.randn_like(a)
    torch.testing.assert_close(
        torch.autograd.grad((weight * a).sum(), [x, ours.weight, ours.bias]),
        torch.autograd.grad((weight * b).sum(), [x, theirs.weight, theirs.bias]),
    )


def test_bernoulli_takes_logits() -> None:
    p = likelihoods.build("bernoulli")(torch.full((1, 2), math.log(3.0)))
    assert p.log_prob(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(math.log(0.75 * 0.25), abs=1e-6)


def saved(path: Path, model: VAE) -> artifact.Artifact:
    return artifact.write(path, artifact.Manifest("model", {"vae": vae.describe(model)}), tensors=model.state_dict())


@pytest.mark.parametrize(("shape", "settings"), BUILDS.values(), ids=BUILDS)
def test_saved_and_loaded_it_gives_the_same_bits(tmp_path: Path, shape: tuple[int, ...], settings: VAESettings) -> None:
    model = VAE.build(shape, settings, seed=2).eval()
    saved(tmp_path / "m", model)
    back = vae.load(tmp_path / "m")
    x = torch.rand(6, *shape, generator=stream(0))
    assert back.settings == model.settings
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())
    for a, b in zip(model.encode(x), back.encode(x), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.decoder(model.encode(x)[0]), back.decoder(back.encode(x)[0]))


def test_a_decoder_can_be_rebuilt_without_its_encoder_and_says_so() -> None:
    model = VAE.build((4,), VAESettings(latents=3, hidden=(8,)), seed=2).eval()
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    back = vae.rebuild_decoder(vae.describe(model), weights, where="here")
    z = torch.randn(3, 3, generator=stream(0))
    assert torch.equal(back.decode(z).mean, model.decode(z).mean)
    with pytest.raises(
        UsageError, match="encode: this model was shipped without its encoder; use the trained model's artefact"
    ):
        back.encode(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda c: c["vae"]["settings"].update(latents=5),
            r"encoder.head.mean.weight: expected shape \[5, 8\], got \[3, 8\]",
        ),
        (
            lambda c: c["vae"]["settings"].update(network="transformer"),
            "vae.settings.network: expected one of mlp, gated-mlp, conv, residual, got 'transformer'",
        ),
        (lambda c: c["vae"]["settings"].update(depth=3), "what it holds does not fit together .*'depth'"),
        (
            lambda c: c["vae"]["settings"].update(latents=0),
            "vae.settings.latents: expected a whole number from 1 to 1048576, got 0",
        ),
        (lambda c: c["vae"].pop("shape"), "vae.shape: expected a value, got none"),
        (lambda c: c.pop("vae"), "vae.shape: expected a value, got none"),
    ],
    ids=["other size", "unknown network", "unknown setting", "bad value", "no shape", "nothing"],
)
def test_settings_and_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, change, why: str) -> None:
    model = VAE.build((4,), VAESettings(latents=3, hidden=(8,)))
    config = {"vae": vae.describe(model)}
    change(config)
    artifact.write(tmp_path / "m", artifact.Manifest("model", config), tensors=model.state_dict())
    with pytest.raises(ArtifactError, match=f"/m: weights and settings: {why}"):
        vae.load(tmp_path / "m")


def test_a_vae_of_other_peoples_modules_cannot_be_described() -> None:
    own = VAE(nn.Identity(), nn.Identity(), nn.Identity(), latents=2)
    with pytest.raises(UsageError, match="this VAE was put together from modules of your own: save it yourself"):
        vae.describe(own)


@pytest.mark.parametrize(
    ("shape", "settings", "text"),
    [
        ((4,), VAESettings(latents=0), "latents: expected at least 1, got 0"),
        ((4,), VAESettings(hidden=(8, 0)), r"hidden and width: expected at least 1, got \(8, 0\) and 24"),
        ((4,), VAESettings(width=0), r"hidden and width: expected at least 1, got \(256, 256\) and 0"),
        ((4,), VAESettings(network="resnet"), "network: expected mlp, gated-mlp, conv or residual, got 'resnet'"),
        (
            (4,),
            VAESettings(network="conv"),
            r"network: conv needs images \[channels, height, width\] of at least 8 x 8, got \[4\]; use mlp",
        ),
        ((1, 8, 7), VAESettings(network="conv"), r"of at least 8 x 8, got \[1, 8, 7\]"),
        ((4,), VAESettings(likelihood="student"), "likelihood: expected one of gaussian, .*, got 'student'"),
        ((4,), VAESettings(scale=-0.5), "scale: expected a standard deviation above 0, got -0.5"),
        ((4,), VAESettings(scale=float("nan")), "scale: expected a standard deviation above 0, got nan"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(shape: tuple[int, ...], settings: VAESettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        VAE.build(shape, settings)


def test_convolutions_bring_back_any_image_size() -> None:
    for h, w in [(8, 8), (9, 11), (17, 30)]:
        encoder, decoder = networks.build("conv", (2, h, w), 3, hidden=(), width=4)
        mean, _ = encoder(torch.zeros(2, 2, h, w))
        assert decoder(mean).shape == (2, 2, h, w)

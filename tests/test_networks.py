"""Networks and forms of q(z|x) that a VAE may be built of: by hand, counted, trained, saved and audited."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zprime import networks, vae
from zprime.data import DataSettings
from zprime.errors import UsageError
from zprime.heads import Ends, FullHead, Head, PointHead
from zprime.networks import _ToImage
from zprime.residual import Block, GatedDense
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.running import Run
from zprime.train_settings import TrainSettings
from zprime.vae import VAE, VAESettings

FAST = TrainSettings(epochs=2, batch=32, patience=0)
AUDIT = AuditSettings(rows=12, draws=120, grid=4, map=20, samples=60)


def test_a_gated_layer_is_an_affine_one_times_the_sigmoid_of_another() -> None:
    layer, x = GatedDense(3, 4), torch.randn(5, 3, generator=stream(0))
    h, g = (x @ m.weight.T + m.bias for m in (layer.h, layer.g))
    torch.testing.assert_close(layer(x), h / (1 + (-g).exp()))


@pytest.mark.parametrize(("a", "b", "stride"), [(4, 4, 1), (6, 12, 2), (7, 7, 2)])
def test_a_residual_block_is_its_input_plus_what_it_adds(a: int, b: int, stride: int) -> None:
    block, x = Block(a, b, stride=stride), torch.randn(3, a, 9, 8, generator=stream(0))
    torch.nn.init.zeros_(block.second[-1].weight)
    torch.nn.init.zeros_(block.second[-1].bias)
    out = block(x)
    assert out.shape == (3, b, -(-9 // stride), 8 // stride)
    torch.testing.assert_close(out, block.around(x))


@pytest.mark.parametrize("name", ["mlp", "gated-mlp", "conv", "residual"])
@pytest.mark.parametrize("ends", [Ends(), Ends("full", (-6.0, 2.0), 3), Ends("points")])
def test_weights_are_counted_without_making_them(name: str, ends: Ends) -> None:
    size = {"hidden": (8, 6), "width": 6, "ends": ends}
    made = networks.build(name, (3, 9, 10), 4, **size)
    assert networks.count(name, (3, 9, 10), 4, **size) == sum(p.numel() for m in made for p in m.parameters())
    output = made[1](torch.zeros(2, 4))
    assert output.shape == ((2, 3, 3, 9, 10) if ends.outputs == 3 else (2, 3, 9, 10))


def test_a_residual_network_takes_images_only() -> None:
    with pytest.raises(UsageError, match=r"network: residual needs images .* of at least 8 x 8, got \[7\]; use mlp"):
        networks.build("residual", (7,), 2, hidden=(), width=4)


def test_heads_answer_what_q_is_made_of() -> None:
    h = torch.randn(6, 5, generator=stream(0))
    mean, factor = FullHead(5, 3)(h)
    assert mean.shape == (6, 3)
    assert torch.equal(factor, factor.tril())
    assert (factor.diagonal(dim1=1, dim2=2) > 0).all()
    assert float(factor.detach().tril(-1).abs().max()) < 0.05  # it begins without correlations
    z, zero = PointHead(5, 3)(h)
    assert z.shape == (6, 3)
    assert not zero.any()
    one = FullHead(5, 1)(h)[1]
    assert one.shape == (6, 1, 1)
    assert Head(5, 3)(h)[1].shape == (6, 3)


def test_a_full_posterior_closes_the_inference_gap_of_a_model_with_correlated_ones() -> None:
    """x = A z + noise with A far from orthogonal: the exact q is correlated, and a diagonal one loses nats."""
    from zprime.data import Rows
    from zprime.training import evaluate, train

    rng = stream(0, "correlated")
    mixing = torch.tensor([[1.0, 0.9], [0.9, 1.0], [1.0, 1.0]])
    x = torch.randn(600, 2, generator=rng) @ mixing.T + 0.3 * torch.randn(600, 3, generator=rng)
    rows = Rows("train", x, torch.arange(600))
    elbos = {}
    for form in ("diagonal", "full"):
        model = VAE.build((3,), VAESettings(latents=2, hidden=(), posterior=form, scale=0.3), seed=0)
        with torch.no_grad():
            model.decoder.out.weight.copy_(mixing)
        model.decoder.requires_grad_(requires_grad=False)
        settings = TrainSettings(epochs=60, batch=100, lr=0.03, warmup=0.0, patience=0)
        elbos[form] = evaluate(train(model, rows, rows, settings).vae, rows)
    assert elbos["full"] > elbos["diagonal"] + 0.2


SETTINGS = {
    "gated": VAESettings(latents=2, network="gated-mlp", hidden=(12,)),
    "residual": VAESettings(latents=2, network="residual", width=4),
    "full": VAESettings(latents=2, hidden=(12,), posterior="full"),
    "bounded": VAESettings(latents=2, hidden=(12,), log_variance=(-6.0, 2.0)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_of_each_is_saved_loaded_and_audited(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (1, 8, 8) if name == "residual" else (5,)
    x = rng.uniform(size=(150, *shape))
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    job = Run.create(tmp_path / "run")
    trained = job.train(DataSettings(str(tmp_path / "x.npz")), SETTINGS[name], FAST, seed=0)
    back, rows = vae.load(tmp_path / "run" / "model"), job.folder.rows["train"]
    assert back.settings == replace(SETTINGS[name], network=back.settings.network)
    for a, b in zip(back.encode(rows.x), trained.encode(rows.x), strict=True):
        torch.testing.assert_close(a, b)
    posteriors = job.encode()["train"]
    assert posteriors.form == ("full" if name == "full" else "diagonal")
    job.fit(("gaussian", "mixture"), seed=0)
    audit = job.audit(AUDIT, seed=0)
    assert audit.surgery is not None
    assert audit.verdict
    assert not job.folder.of_model.says


@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 5), (1, 2)])
def test_images_without_a_gradient_have_the_bits_of_those_with_one(height: int, width: int) -> None:
    last = _ToImage(8, 1)
    x = torch.randn(5, 8, height, width, generator=torch.Generator().manual_seed(0))
    for features in (x, x.contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            found = last(features)
        assert torch.equal(found, last(features).detach())
        torch.testing.assert_close(found, nn.ConvTranspose2d.forward(last, features))

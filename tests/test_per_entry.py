"""Likelihoods of independent entries: against scipy, direct sums, and in a run from the command line's settings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from zprime import likelihoods, vae
from zprime.data import DataSettings, Rows
from zprime.errors import ArrayError, UsageError
from zprime.likelihoods import draw
from zprime.per_entry import Log1p, OneHot
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.running import Run
from zprime.train_settings import TrainSettings
from zprime.training import train
from zprime.vae import VAE, VAESettings

FAST = TrainSettings(epochs=2, batch=32, patience=0)
AUDIT = AuditSettings(rows=12, draws=120, grid=4, map=20, samples=60)
NAMES = ("laplace", "gaussian-per-entry", "logistic", "mixture", "categorical", "poisson", "negative-binomial")


def built(name: str):
    more = {"mixture": {"components": 3}, "categorical": {"classes": 5}}.get(name, {})
    return likelihoods.build("logistic" if name == "mixture" else name, **more)


def output(module, shape: tuple[int, ...] = (2, 3), n: int = 4) -> torch.Tensor:
    several = (module.outputs,) if module.outputs > 1 else ()
    return torch.randn(n, *several, *shape, generator=stream(0, "output"), dtype=torch.float64)


def values(name: str, shape: tuple[int, ...] = (2, 3), n: int = 4) -> torch.Tensor:
    rng = stream(0, "values", name)
    if name in ("laplace", "gaussian-per-entry"):
        return torch.randn(n, *shape, generator=rng, dtype=torch.float64)
    if name in ("logistic", "mixture"):
        return torch.randint(256, (n, *shape), generator=rng).double() / 255
    return torch.randint(5, (n, *shape), generator=rng).double()


def by_scipy(name: str, out: np.ndarray, x: np.ndarray) -> np.ndarray:
    if name == "laplace":
        each = stats.laplace(out, 0.3).logpdf(x)
    elif name == "gaussian-per-entry":
        each = stats.norm(out[:, 0], np.maximum(np.exp(out[:, 1]), 1e-3)).logpdf(x)
    elif name == "poisson":
        each = stats.poisson(np.exp(out)).logpmf(x)
    elif name == "negative-binomial":
        mean, total = np.exp(out[:, 0]), np.exp(out[:, 1])
        each = stats.nbinom(total, total / (total + mean)).logpmf(x)
    elif name == "categorical":
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        each = np.log(np.take_along_axis(p, x[:, None].astype(int), 1)[:, 0])
    else:
        k = 1 if name == "logistic" else 3
        weight = np.exp(out[:, :k]) / np.exp(out[:, :k]).sum(1, keepdims=True) if k > 1 else np.ones_like(out[:, :1])
        p = stats.logistic(out[:, -2 * k : -k], np.exp(out[:, -k:]))
        up = np.where(x[:, None] > 0.999, np.inf, x[:, None] + 0.5 / 255)
        down = np.where(x[:, None] < 0.001, -np.inf, x[:, None] - 0.5 / 255)
        each = np.log((weight * (p.cdf(up) - p.cdf(down))).sum(1))
    return each.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_is_scipys(name: str) -> None:
    module = built(name).double()
    out, x = output(module), values(name)
    if name in ("logistic", "mixture"):
        x[0, 0, :2] = torch.tensor([0.0, 1.0])
    p = module(out)
    assert p.event_shape == (2, 3)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), by_scipy(name, out.numpy(), x.numpy()), rtol=1e-6)


@pytest.mark.parametrize(("log_total", "counted"), [(-10.0, -10.0), (6.0, 6.0), (10.0, 10.0), (18.0, 10.0)])
def test_a_negative_binomial_of_large_total_counts_is_scipys_in_float32(log_total: float, counted: float) -> None:
    out, x = output(built("negative-binomial")).float(), values("negative-binomial").float()
    out[:, 0] += 3
    out[:, 1] = log_total
    log_p = built("negative-binomial")(out).log_prob(x)
    assert log_p.dtype == torch.float32
    out[:, 1] = counted
    want = by_scipy("negative-binomial", out.double().numpy(), x.numpy())
    np.testing.assert_allclose(log_p.numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    module = built(name).double()
    out, x = output(module).requires_grad_(), values(name)
    assert torch.autograd.gradcheck(lambda t: module(t).log_prob(x), [out], eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", ["logistic", "mixture"])
@pytest.mark.parametrize("log_scale", [-6.9, -3.0, 1.0])
def test_the_levels_have_probabilities_that_sum_to_1(name: str, log_scale: float) -> None:
    module = built(name)
    out = output(module, (1,), 1).float()
    out[:, -module.components :] = log_scale
    x = torch.arange(256.0)[:, None] / 255
    log_p = module(out.expand(256, -1, -1)).log_prob(x)
    assert float(log_p.double().logsumexp(0)) == pytest.approx(0, abs=1e-4)
    assert torch.isfinite(log_p).all()
    mean = (log_p.double().exp() * x[:, 0]).sum()
    assert float(module(out).mean) == pytest.approx(float(mean), abs=0.51 / 255)


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_it(name: str) -> None:
    """Their mean is `mean` (of categories, frequencies are probabilities), and the support takes them."""
    module = built(name)
    out = output(module, (2,), 1).float().expand(20_000, *([-1] * (1 + (module.outputs > 1))))
    p = module(out)
    x = draw(p, rng=stream(0))
    assert x.dtype == torch.float32
    assert x.shape == (20_000, 2)
    assert bool(p.support.check(x).all())
    assert not bool(module.odd(x).any())
    if name == "categorical":
        share = torch.stack([(x == c).float().mean(0) for c in range(5)])
        torch.testing.assert_close(share, out[0].softmax(0), atol=0.02, rtol=0)
        assert torch.equal(p.mean[0], out[0].argmax(0).float())
    else:
        error = 5 * x.std(0) / 20_000**0.5 + (0.51 / 255 if name in ("logistic", "mixture") else 0)
        assert ((x.mean(0) - p.mean[0]).abs() < error).all()


@pytest.mark.parametrize(
    ("name", "bad", "text"),
    [
        ("logistic", 0.3, "likelihood logistic: expected pixels of 256 levels from 0 to 1, got 0.3 in row 3; "),
        ("logistic", 2.0, "got 2 in row 3"),
        ("categorical", 5.0, "likelihood categorical: expected codes 0 to 4, got 5 in row 3; give --classes"),
        ("categorical", 0.5, "got 0.5 in row 3"),
        (
            "poisson",
            -1.0,
            "likelihood poisson: expected counts, whole numbers from 0, got -1 in row 3; give --as-stored",
        ),
        ("negative-binomial", 1.5, "likelihood negative-binomial: .* got 1.5 in row 3"),
    ],
)
def test_rows_that_it_cannot_take_are_refused_by_row_and_value(name: str, bad: float, text: str) -> None:
    x = values(name, (3,), 6).float()
    x[3, 1] = bad
    settings = VAESettings(latents=2, likelihood=name, classes=5 if name == "categorical" else 0)
    rows = Rows("train", x, torch.arange(6))
    with pytest.raises(ArrayError, match=text):
        train(VAE.build((3,), settings), rows, rows, FAST)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": "normal"}, "likelihood: expected one of gaussian, bernoulli, laplace, .*, got 'normal'"),
        (
            {"name": "poisson", "scale": 0.1},
            "scale: it is of the likelihood gaussian or laplace, got 0.1 with poisson",
        ),
        ({"name": "gaussian", "components": 5}, "components: it is of the likelihood logistic, got 5 with gaussian"),
        ({"name": "poisson", "classes": 5}, "classes: it is of the likelihood categorical, got 5 with poisson"),
        ({"name": "categorical"}, "classes: expected at least 2, one more than the largest code, got 0"),
        ({"name": "logistic", "components": 0}, "components: expected at least 1, got 0"),
    ],
)
def test_settings_of_another_likelihood_are_refused(given: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        likelihoods.build(**given)


def test_a_scale_beside_bernoulli_is_not_read_as_it_never_was() -> None:
    """Runs that have one stay readable."""
    assert isinstance(likelihoods.build("bernoulli", scale=0.1), likelihoods.Bernoulli)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", [*NAMES, "gaussian", "bernoulli"])
def test_a_decoder_begins_at_the_mean_of_the_rows(name: str, network: str) -> None:
    settings = VAESettings(
        latents=2,
        network=network,
        width=4,
        hidden=(8,),
        likelihood="logistic" if name == "mixture" else name,
        components=3 if name == "mixture" else 1,
        classes=5 if name == "categorical" else 0,
    )
    x = values(name if name in NAMES else "laplace", (1, 8, 8), 40).float().abs()
    x = (x > 0.7).float() if name == "bernoulli" else x
    model, rows = VAE.build((1, 8, 8), settings), Rows("train", x, torch.arange(40))
    begun = train(model, rows, rows, TrainSettings(epochs=1, lr=1e-9)).vae
    with torch.no_grad():
        p = begun.decode(torch.zeros(1, 2))
    assert p.event_shape == (1, 8, 8)
    if name != "categorical":
        assert float(p.mean.mean()) == pytest.approx(float(x.mean()), rel=0.35)


def test_an_encoder_sees_codes_as_zeros_and_ones_and_counts_by_their_logs() -> None:
    x = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert OneHot(3)(x).tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]]
    assert OneHot(3)(x[:, :, None, None]).shape == (2, 6, 1, 1)
    assert Log1p()(x).tolist() == [[0.0, pytest.approx(math.log(3))], [pytest.approx(math.log(2))] * 2]


LIKELIHOODS = {
    "laplace": {},
    "gaussian-per-entry": {},
    "logistic": {"components": 2},
    "categorical": {"classes": 5},
    "poisson": {},
    "negative-binomial": {},
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_run_of_each_is_saved_loaded_and_audited(name: str, tmp_path: Path) -> None:
    x = values(name, (6,), 150).numpy()
    stored = np.round(x * 255).astype(np.uint8).reshape(150, 2, 3) if name == "logistic" else x.astype(np.float32)
    np.savez(tmp_path / "x.npz", x=stored)
    counted = name in ("categorical", "poisson", "negative-binomial")
    job = Run.create(tmp_path / "run")
    settings = DataSettings(str(tmp_path / "x.npz"), as_stored=counted, keep_duplicates=True)
    network = VAESettings(latents=2, hidden=(16,), likelihood=name, **LIKELIHOODS[name])
    trained = job.train(settings, network, FAST, seed=0)
    back, rows = vae.load(tmp_path / "run" / "model"), job.folder.rows["train"]
    assert back.settings.likelihood == name
    z = torch.randn(5, 2, generator=stream(0))
    torch.testing.assert_close(back.decode(z).log_prob(rows.x[:5]), trained.decode(z).log_prob(rows.x[:5]))
    job.encode()
    job.fit(("gaussian",), seed=0)
    audit = job.audit(AUDIT, seed=0)
    discrete = name not in ("laplace", "gaussian-per-entry")
    assert ("probabilities of discrete data" in audit.likelihood.units.says) == discrete
    assert audit.likelihood.units.meaningful
    assert "--likelihood" in audit.command
    assert ("--as-stored" in audit.command) == counted

"""Gradient steps on the q of each row: exact where the posterior is known, the same in any batch, never worse."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import zprime
from oracles import gaussian_kl, linear_gaussian
from zprime import artifact, encoding, semi_amortised
from zprime.data import Rows
from zprime.errors import NumericalError, UsageError
from zprime.latent import Mixture
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.study import Split
from zprime.posteriors import Posteriors
from zprime.rng import stream
from zprime.semi_amortised import Joint, SemiAmortised

MODEL = linear_gaussian(D=6, d=3)


@dataclass(frozen=True)
class Off:
    """A linear model whose encoder is wrong in means and scales."""

    shift: float = 0.3
    widen: float = 0.5

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = MODEL.posterior(x)
        return mean + self.shift, scale * self.widen

    def decode(self, z: Tensor) -> Distribution:
        return MODEL.vae().decode(z)


class Bent(nn.Module):
    """A decoder that is not linear, in float32."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 5))
        self.net[0].weight.data *= 3
        self.seen = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(x)
        return x[:, :2], 0.1 + 0.2 * x[:, 2:4].abs()

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(self.net(z), 0.5), 1)


def linear(n: int = 60) -> Rows:
    return Rows("heldout", MODEL.sample(n)[0], torch.arange(n))


def bent(n: int = 50) -> Rows:
    return Rows("train", torch.randn(n, 5, generator=stream(0, "bent")), torch.arange(n))


def elbos(model: Bent, rows: Rows, q: Posteriors) -> Tensor:
    """By many draws that no step has seen."""
    draws = torch.randn(len(rows), 512, 2, generator=stream(1, "draws"))
    found = q.gather()
    return Joint(model, rows.x).elbo(found.mean, found.scale, draws)


@pytest.mark.parametrize("widen", [0.3, 1.0, 2.0])
def test_on_a_linear_model_q_becomes_the_posterior(widen: float) -> None:
    rows = linear()
    q = zprime.encode(Off(widen=widen), rows, steps=150).gather()
    mean, scale = MODEL.posterior(rows.x)
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(q.scale, scale, rtol=1e-3, atol=0)
    before = zprime.encode(Off(widen=widen), rows, steps=0).gather()
    assert torch.equal(before.mean, mean + 0.3)


def test_the_inference_gap_closes() -> None:
    rows, gaps = linear(), {}
    for steps in (0, 150):
        split = Split("heldout", zprime.encode(Off(), rows, steps=steps).gather(), rows)
        candidates = Candidates({"other": MIX})
        measured = measure_gains(candidates, split, rng=stream(0, "gains"), model=Off(), draws=400)
        gaps[steps] = inference_gap(Measured(measured), seed=0).gap.value
    assert gaps[0] > 1.0
    assert abs(gaps[150]) < 0.05


MIX = Mixture(torch.zeros(1).double(), torch.zeros(1, 3).double() + 0.2, torch.full((1, 3), 0.9).double())


@pytest.mark.parametrize("own", ["torch", "ours"])
def test_the_prior_of_the_model_is_in_the_elbo(own: str) -> None:
    """Under N(0.5, 0.6^2) the posterior of a linear model is known as well."""
    loc, width = torch.full((3,), 0.5, dtype=torch.float64), torch.full((3,), 0.6, dtype=torch.float64)
    prior = (
        Mixture(torch.zeros(1).double(), loc[None], width[None])
        if own == "ours"
        else Independent(Normal(loc, width), 1)
    )

    class Told(Off):
        pass

    model = Told()
    object.__setattr__(model, "prior", prior)
    rows = linear(20)
    q = zprime.encode(model, rows, steps=200).gather()
    precision = MODEL.gram / MODEL.var + width**-2
    mean = ((rows.x - MODEL.bias) @ MODEL.weight / MODEL.var + loc / width**2) / precision
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(q.scale, (precision**-0.5).expand_as(mean), rtol=3e-3, atol=0)
    given_prior = SemiAmortised(Off(), 200, prior).encode(rows.x)
    torch.testing.assert_close(given_prior[0], q.mean)


def test_the_gradient_is_that_of_the_elbo() -> None:
    """Autodiff of the mean over the same points, with the KL in closed form."""
    model, rows = Bent(), bent(7)
    mean, scale = (t.clone().requires_grad_() for t in model.encode(rows.x))
    e = torch.randn(7, 3, 2, generator=stream(0, "e"))
    value = torch.zeros(())
    for k in range(3):
        for sign in (1, -1):
            value = value + model.decode(mean + sign * scale * e[:, k]).log_prob(rows.x).sum() / 6
    value = value - gaussian_kl(mean, torch.diag_embed(scale.square())).sum()
    of_mean, of_scale = torch.autograd.grad(value, (mean, scale))
    found = Joint(model, rows.x).gradient(mean.detach(), scale.detach(), e)
    torch.testing.assert_close(found[0], of_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], of_scale * scale.detach(), rtol=1e-4, atol=1e-4)


def test_directions_are_orthogonal_and_as_long_as_draws() -> None:
    """With as many as dimensions their second moments are those of N(0, I) exactly."""
    for d, k in ((3, 3), (20, 8)):
        noise = [stream(0, i) for i in range(4)]
        e = semi_amortised._directions(noise, torch.zeros(4, d).double())
        assert e.shape == (4, k, d)
        torch.testing.assert_close(e @ e.mT, d * torch.eye(k).double().expand(4, k, k))
        assert not torch.allclose(e, semi_amortised._directions(noise, torch.zeros(4, d).double()))


@pytest.mark.parametrize("d", [2, 16, 20])
def test_draws_that_judge_have_the_moments_of_the_normal(d: int) -> None:
    e = semi_amortised._draws([stream(0, i) for i in range(3)], torch.zeros(3, d).double())
    moments = e.mT @ e / semi_amortised.JUDGED
    moments = moments if d <= 16 else torch.diag_embed(moments.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(moments, torch.eye(d).double().expand(3, d, d))


def test_an_exact_posterior_is_kept() -> None:
    """Few steps jump about it; none of them is taken for better by the luck of draws."""
    rows = linear(30)
    before, after = (zprime.encode(Off(0.0, 1.0), rows, steps=n).gather() for n in (0, 5))
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.scale, before.scale)


@pytest.mark.parametrize("steps", [1, 20])
def test_batches_shards_and_neighbours_do_not_matter(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = Bent(), bent()
    whole = zprime.encode(model, rows, steps=steps).gather()
    monkeypatch.setattr(encoding, "SHARD", 16)
    monkeypatch.setattr(encoding, "BATCH", 7)
    monkeypatch.setattr(semi_amortised, "ROWS", 3)
    parts = zprime.encode(model, rows, tmp_path / "p", steps=steps).gather()
    order = torch.randperm(len(rows), generator=stream(0, "order"))[:20]
    some = zprime.encode(model, rows.take(order), steps=steps).gather()
    for a, b in ((parts, whole), (some, whole.take(order))):
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.scale, b.scale, rtol=1e-3, atol=1e-4)
    again = zprime.encode(model, rows, tmp_path / "q", steps=steps).gather()
    assert torch.equal(again.mean, parts.mean)  # in the same batches to the bit


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 12), size=st.floats(0.1, 30))
def test_no_row_gets_worse(*, seed: int, steps: int, size: float) -> None:
    """By the draws that rows are judged by; a decoder so steep that steps jump about loses nothing."""
    model = Bent()
    model.net[0].weight.data *= size
    x = torch.randn(6, 5, generator=stream(seed, "x"))
    before, after = model.encode(x), SemiAmortised(model, steps).encode(x)
    noise = [stream(0, "semi-amortised", semi_amortised.row_hash(row)) for row in x]
    for _ in range(steps):
        semi_amortised._directions(noise, x[:, :2])
    draws = semi_amortised._draws(noise, x[:, :2])
    joint = Joint(model, x)
    gain = joint.elbo(*after, draws) - joint.elbo(*before, draws)
    assert float(gain.min()) >= 0.0
    kept = gain == 0
    assert torch.equal(after[0][kept], before[0][kept])


def test_the_elbo_rises_also_by_other_draws() -> None:
    model, rows = Bent(), bent()
    gain = elbos(model, rows, zprime.encode(model, rows, steps=40)) - elbos(model, rows, zprime.encode(model, rows))
    assert float(gain.mean()) > 1.0
    assert float(gain.min()) > -0.05


def test_a_row_where_nothing_is_finite_keeps_its_q() -> None:
    class Wild(Bent):
        def decode(self, z: Tensor) -> Distribution:
            return Independent(
                Normal(self.net(z) / (z[:, :1] > 0).float(), 0.5, validate_args=False), 1, validate_args=False
            )

    rows = bent(10)
    before, after = Wild().encode(rows.x), SemiAmortised(Wild(), 5).encode(rows.x)
    lost = rows.x[:, 0] < 0
    assert torch.equal(after[0][lost], before[0][lost])
    assert all(torch.isfinite(t).all() for t in after)


def test_no_steps_are_the_encoder_itself(tmp_path: Path) -> None:
    rows = bent()
    q = zprime.encode(Bent(), rows, tmp_path / "p", steps=0)
    assert torch.equal(q.gather().mean, rows.x[:, :2])
    assert "steps" not in artifact.read(tmp_path / "p").config
    assert semi_amortised.semi_amortised(model := Bent(), 0) is model


def numpy_decoder(z: Tensor) -> Distribution:
    return Independent(Normal(torch.tensor(z.detach().numpy() @ torch.ones(2, 5).numpy()), 1.0), 1)


@pytest.mark.parametrize(
    ("change", "steps", "says"),
    [
        (lambda m: m, -1, "steps: expected a whole number from 0 on, got -1"),
        (lambda m: m, True, "steps: expected a whole number from 0 on, got True"),
        (lambda m: setattr(m, "decode", numpy_decoder), 3, "the decoder gives no gradient in z"),
        (lambda m: setattr(m, "decode", torch.no_grad()(m.decode)), 3, "the decoder gives no gradient in z"),
        (
            lambda m: setattr(m, "encode", lambda x: (x[:, :2], torch.eye(2).expand(len(x), 2, 2))),
            3,
            "full covariances",
        ),
    ],
)
def test_what_cannot_be_improved_is_refused(change: Callable[[Bent], object], steps: int, says: str) -> None:
    model = Bent()
    change(model)
    with pytest.raises(UsageError, match=says):
        zprime.encode(model, bent(5), steps=steps)


def test_an_encoder_alone_is_refused() -> None:
    class Alone:
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :2], torch.ones_like(x[:, :2])

    with pytest.raises(UsageError, match=r"expected a model with decode\(z\).*got Alone"):
        zprime.encode(Alone(), bent(5), steps=3)


def test_what_the_model_has_beside_is_still_there() -> None:
    model = Bent()
    wrapped = SemiAmortised(model, 3)
    assert wrapped.net is model.net
    assert wrapped.decode(torch.zeros(1, 2)).event_shape == (5,)
    assert not hasattr(wrapped, "inner")
    assert copy.deepcopy(wrapped).steps == 3


def test_an_interrupted_encoding_goes_on_and_keeps_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 16)

    def stop(what: str, done: int, total: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    first, second, rows = Bent(), Bent(), bent()
    with pytest.raises(KeyboardInterrupt):
        zprime.encode(first, rows, tmp_path / "p", key="k", steps=4, progress=stop)
    resumed = zprime.encode(second, rows, tmp_path / "p", key="k", steps=4).gather()
    assert (first.seen, second.seen) == (32, len(rows) - 32)
    assert torch.equal(resumed.mean, zprime.encode(Bent(), rows, tmp_path / "q", steps=4).gather().mean)


def test_numbers_that_are_not_finite_are_told_by_row() -> None:
    class Lost(Bent):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, scale = super().encode(x)
            return torch.where(torch.arange(len(x))[:, None] == 3, torch.nan, mean), scale

    class Broken(Bent):
        def decode(self, z: Tensor) -> Distribution:
            return Independent(Normal(self.net(z) * torch.nan, 0.5), 1)

    with pytest.raises(NumericalError, match="encode: row 3 of train got mean nan"):
        zprime.encode(Lost(), bent(5), steps=2)
    with pytest.raises(NumericalError, match=r"steps: the decoder gives no p\(x\|z\).*encode with steps=0"):
        zprime.encode(Broken(), bent(5), steps=2)

"""Simulation-based calibration: exact encoders pass at the nominal rate, planted errors are caught and told apart."""

from dataclasses import dataclass

import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor, nn

from oracles import linear_gaussian
from zoo import ZOO
from zprime import likelihoods
from zprime.errors import UsageError
from zprime.latent import Gaussian, Prior
from zprime.measure.likelihood.calibration import BINS, DRAWS, calibration, summarise
from zprime.measure.likelihood.simulation import Simulator
from zprime.results.likelihood import Calibration
from zprime.rng import stream
from zprime.vae import VAE

MODEL = linear_gaussian()


@dataclass
class Wrong:
    """The linear-Gaussian model with an encoder that is off by stated amounts."""

    widen: float = 1.0
    shift: float = 0.0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = MODEL.posterior(x)
        return mean + self.shift * scale, scale * self.widen

    def decode(self, z: Tensor):
        return MODEL.vae().decode(z)


def run(model, name: str = "prior", *, seed: int = 0, rows: int = 400) -> Calibration:
    simulator = Simulator(name, ZOO[name](2, torch.float64), model, torch.float64)
    found = calibration(simulator, rng=stream(seed, "calibration", name), rows=rows)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["prior", "mixture", "defensive-aggregated", "gaussian"])
def test_an_exact_encoder_passes_at_the_nominal_rate_under_any_r(name: str) -> None:
    """A bad r is not blamed for a bad q: the false-alarm rate is 5 % or less, and single p-values are uniform."""
    found = [run(Wrong(), name, seed=s, rows=150) for s in range(60)]
    alarms = sum(not c.calibrated for c in found)
    assert binom.sf(alarms - 1, 60, 0.05) > 1e-3
    for tests in ("chi_square", "ks"):
        assert kstest([getattr(c, tests)[0] for c in found], "uniform").pvalue > 1e-4
    # one histogram leaves its band with probability 5 % or less
    assert binom.sf(sum("z1" in c.outside for c in found) - 1, 60, 0.05) > 1e-3


@pytest.mark.parametrize("name", ["prior", "mixture"])
@pytest.mark.parametrize("widen", [0.5, 2.0])
def test_a_wrong_scale_is_caught_and_named(widen: float, name: str) -> None:
    c = run(Wrong(widen=widen), name)
    assert not c.calibrated
    assert c.p_value < 1e-6
    if name == "prior":
        # q is Gaussian: the rank's variance follows from the ratio of scales, here by quadrature
        z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
        density = torch.exp(-0.5 * z.square()) / (2 * torch.pi) ** 0.5 * (z[1] - z[0])
        u = torch.special.ndtr(z / widen)
        expected = float(12 * (density * (u - 0.5).square()).sum())
        assert all(e.low - 0.05 < expected < e.high + 0.05 for e in c.spread[:2])


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_a_shifted_mean_is_caught_and_its_side_told(shift: float) -> None:
    c = run(Wrong(shift=shift))
    assert not c.calibrated
    # q lies too high: what made x ranks low
    assert all((e.value < 0) == (shift > 0) for e in c.bias[:2])
    assert all(e.high < 0 or e.low > 0 for e in c.bias[:2])


def test_correlations_that_no_single_latent_shows_are_caught_by_the_distance() -> None:
    """A model whose posterior is correlated, and the diagonal q with its exact marginals."""
    weight = torch.tensor([[1.5, 1.2], [0.0, 0.5], [0.3, 0.0]], dtype=torch.float64)
    precision = weight.T @ weight / 0.1 + torch.eye(2, dtype=torch.float64)
    covariance = precision.inverse()

    class Marginals(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean = x @ weight @ covariance.T / 0.1
            return mean, covariance.diagonal().sqrt().expand_as(mean).clone()

    class Linear(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z @ weight.T

    likelihood = likelihoods.Gaussian(scale=0.1**0.5).double()
    c = run(VAE(Marginals(), Linear(), likelihood, latents=2), rows=1000)
    assert min(*c.chi_square[:2], *c.ks[:2]) > 1e-3
    assert c.chi_square[2] < 1e-6
    assert not c.calibrated


def test_the_numbers_are_the_histograms_own() -> None:
    rng = stream(0, "ranks")
    ranks = torch.randint(0, DRAWS + 1, (500, 3), generator=rng)
    c = summarise(ranks, source="x", dropped=7, rng=rng)
    assert [sum(row) for row in c.counts] == [500] * 3
    assert c.counts[1][3] == int(((ranks[:, 1] >= 15) & (ranks[:, 1] < 20)).sum())
    assert (c.rows, c.dropped, c.names) == (500, 7, ["z1", "z2", "distance"])
    inside = binom.cdf(c.high, 500, 1 / BINS) - binom.cdf(c.low - 1, 500, 1 / BINS)
    assert 1 - BINS * (1 - inside) >= 0.95
    for bias, spread in zip(c.bias, c.spread, strict=True):  # a uniform number: variance 1/12, of 12 (u - 1/2)^2 4/5
        assert bias.stderr == pytest.approx((1 / 12 / 500) ** 0.5, rel=0.1)
        assert spread.stderr == pytest.approx((4 / 5 / 500) ** 0.5, rel=0.1)
        assert abs(bias.value) < 4 * (bias.stderr or 0)
        assert abs(spread.value - 1) < 4 * (spread.stderr or 0)


def test_rows_where_there_is_no_q_r_are_dropped_and_counted() -> None:
    wide = Gaussian(torch.zeros(2).double(), torch.tensor([1.5, 0.9]).double())

    class Mixed(Wrong):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, scale = super().encode(x)
            return mean, torch.where(x[:, :1] > 0, scale.new_tensor([[2.5, 0.5]]), scale)

    simulator = Simulator("wide", wide, Mixed(), torch.float64)
    c = calibration(simulator, rng=stream(0, "c"), rows=400)
    assert c is not None
    assert c.rows + c.dropped == 400
    assert 100 < c.dropped < 300
    assert calibration(simulator, rng=stream(0, "c"), rows=120) is None


def test_refusals() -> None:
    prior, flow = (Simulator("x", r, Wrong(), torch.float64) for r in (Prior(2), ZOO["flow"](2, torch.float64)))
    with pytest.raises(UsageError, match="rows: expected at least 100 simulated rows .* 20 bins, got 99"):
        calibration(prior, rng=stream(0, "c"), rows=99)
    assert calibration(flow, rng=stream(0, "c"), rows=100) is None

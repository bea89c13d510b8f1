"""kind resampled: learned accept/reject and energy re-weighting; their laws against quadrature and order statistics."""

import math

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from ring import (
    AREA,
    GRID,
    cloud,
    company_does_not_matter,
    draws_agree,
    fit,
    gaussian_kl,
    kl,
    mass,
    ring,
    same_bits_twice,
    saved_bits,
)
from zprime.arrays import standard_log_prob
from zprime.errors import UsageError
from zprime.latent.gaussian import GaussianSettings
from zprime.latent.kind import Fit
from zprime.latent.network import MLP, Whitening
from zprime.latent.resampled import Normaliser, Resampled, ResampledSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SMALL = {
    m: ResampledSettings(m, hidden=(32, 32), proposals=64, epochs=5, batch=128, lr=1e-2)
    for m in ("rejection", "energy")
}

either = pytest.mark.parametrize("method", SMALL)


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit[Resampled]]:
    return {name: fit(settings, ring(), ring(100, "selection")) for name, settings in SMALL.items()}


class Half(MLP):
    """f = high where the first coordinate is above 0, low elsewhere: every law is then a matter of counting."""

    def __init__(self, high: float, low: float) -> None:
        super().__init__(1, (1,), 1)
        self.high, self.low = high, low

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return torch.where(u[:, :1] > 0, self.high, self.low)


def half(method: str, high: float, low: float, proposals: int) -> Resampled:
    plain = Whitening(torch.zeros(1), torch.eye(1))
    u = torch.randn(200_000 if method == "rejection" else 20_000 * (proposals - 1), 1, generator=stream(0, "u"))
    f = Half(high, low)(u)[:, 0]
    log_weight = nn.functional.logsigmoid(f) if method == "rejection" else f
    return Resampled(
        Half(high, low), plain, method, (1,), proposals, Normaliser.estimate(method, log_weight, proposals)
    )


def chance_of_right_half(method: str, high: float, low: float, proposals: int) -> float:
    """By hand: T coins show which proposals lie right of 0."""
    if method == "energy":
        total = 0.0
        for k in range(proposals + 1):
            odds = k * math.exp(high)
            share = odds / (odds + (proposals - k) * math.exp(low))
            total += math.comb(proposals, k) / 2**proposals * share
        return total
    a, b = (1 / (1 + math.exp(-f)) for f in (high, low))
    z = (a + b) / 2
    left = (1 - z) ** (proposals - 1)  # all but the last refused
    return (1 - left) * (a / 2) / z + left / 2


@either
@pytest.mark.parametrize("proposals", [2, 5])
def test_law_of_two_halves_is_the_one_counted_by_hand(method: str, proposals: int) -> None:
    high, low = 1.5, -1.5
    r = half(method, high, low, proposals)
    right = chance_of_right_half(method, high, low, proposals)
    z = torch.tensor([[0.7], [-0.7]], dtype=torch.float64)
    expected = standard_log_prob(z) + torch.tensor([2 * right, 2 * (1 - right)], dtype=torch.float64).log()
    torch.testing.assert_close(r.log_prob(z), expected, rtol=0, atol=0.02)  # 4 s.e. of the normaliser and more
    drawn = int((r.sample(20_000, rng=stream(1)) > 0).sum())
    assert binomtest(drawn, 20_000, right).pvalue > 1e-4


@either
def test_ring_is_followed_where_one_gaussian_cannot(method: str, fits) -> None:
    assert gaussian_kl(ring()) > 0.85
    assert kl(ring(), fits[method].distribution) < 0.08
    assert fits[method].outcome.ok


@either
def test_one_posterior_is_met_at_its_own_entropy(method: str) -> None:
    settings = ResampledSettings(method, hidden=(8,), proposals=16, epochs=1, batch=128, lr=1e-3)
    r = fit(settings, cloud()).distribution
    z = cloud().draw(rng=stream(0, "z"), draws=10_000)
    assert -2e-3 < float((cloud().log_prob(z) - r.log_prob(z)).mean()) < 0.02


@either
def test_density_adds_up_to_one_within_the_stated_error(method: str, fits) -> None:
    r = fits[method].distribution
    assert r.density == "estimate"
    assert r.normaliser.stderr < 0.01
    assert mass(r) == pytest.approx(1, abs=4 * r.normaliser.stderr + 1e-3)


@either
def test_log_normaliser_and_its_error_against_quadrature(method: str, fits) -> None:
    """E_pi[a] or E_pi[exp f] by the grid, within 4 standard errors, which fall as the root of the draws."""
    r = fits[method].distribution
    u = r.whitening.whiten(GRID)
    f = r.net(u.float())[:, 0].double()
    log_weight = nn.functional.logsigmoid(f) if method == "rejection" else f
    log_z = float(torch.logsumexp(log_weight + standard_log_prob(u) - r.whitening.log_det, 0)) + math.log(AREA)
    assert abs(r.normaliser.log_z - log_z) < 4 * r.normaliser.stderr
    assert r.config()["log_normaliser_stderr"] == r.normaliser.stderr

    sample = r.net(torch.randn(40_000, 2, generator=stream(9)))[:, 0].detach()
    sample = nn.functional.logsigmoid(sample) if method == "rejection" else sample
    few, many = (Normaliser.estimate(method, sample[:n], 64) for n in (10_000, 40_000))
    assert few.stderr / many.stderr == pytest.approx(2, rel=0.2)


@either
def test_no_weight_gains_more_than_log_t_over_the_base(method: str, fits) -> None:
    """r <= T pi everywhere, whatever the network."""
    r = fits[method].distribution
    loud = MLP(2, (32, 32), 1)
    loud.load_state_dict({k: (10 if k.startswith("4") else 1) * v for k, v in r.net.state_dict().items()})
    w = loud(torch.randn(63_000, 2, generator=stream(0)))[:, 0].detach()
    w = nn.functional.logsigmoid(w) if method == "rejection" else w
    louder = Resampled(loud, r.whitening, method, r.hidden, 64, Normaliser.estimate(method, w, 64))
    base = fit(GaussianSettings(), ring()).distribution
    for each in (r, louder):
        gain = each.log_prob(GRID) - base.log_prob(GRID)
        assert float(gain.max()) < math.log(64) + 1e-6
    assert float((louder.log_prob(GRID) - base.log_prob(GRID)).max()) > math.log(8)  # the bound is no idle one


@either
def test_draws_follow_the_density(method: str, fits) -> None:
    draws_agree(fits[method].distribution)


def test_base_may_be_the_prior() -> None:
    settings = ResampledSettings("energy", base="prior", hidden=(32, 32), proposals=64, epochs=3, batch=128, lr=1e-2)
    r = fit(settings, ring()).distribution
    assert torch.equal(r.whitening.mean, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(r.whitening.scale_tril, torch.eye(2, dtype=torch.float64))
    assert kl(ring(), r) < 0.3


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("rejection", "of the draws would be taken unaccepted, after 4 proposals"),
        ("energy", "the 4 proposals of a draw are worth"),
    ],
)
def test_too_few_proposals_end_in_advice(method: str, text: str) -> None:
    """Two tight clumps far apart hold a small share of their moment match."""
    apart = MemoryPosteriors(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]), torch.full((2, 2), 0.1))
    out = fit(ResampledSettings(method, hidden=(32, 32), proposals=4, epochs=4, batch=64, lr=2e-2), apart)
    assert not out.outcome.ok
    assert text in out.outcome.message
    assert "raise proposals" in out.outcome.message
    if method == "rejection":
        assert f"{out.distribution.left_over:.0%}" in out.outcome.message


@either
def test_same_seed_same_bits(method: str) -> None:
    settings = ResampledSettings(method, hidden=(8,), proposals=8, epochs=1, batch=16)
    same_bits_twice(settings, ring(20, dtype=torch.float32))


@either
def test_saved_and_loaded_to_the_same_bits(method: str, fits, tmp_path) -> None:
    saved_bits(fits[method].distribution, tmp_path / "r")


@either
def test_log_prob_does_not_depend_on_company(method: str, fits) -> None:
    company_does_not_matter(fits[method].distribution)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ResampledSettings("langevin"), "method: expected rejection or energy, got 'langevin'"),
        (ResampledSettings(base="flow"), "base: expected gaussian or prior, got 'flow'"),
        (ResampledSettings(proposals=1), "proposals: expected at least 2, got 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: ResampledSettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fit(settings, ring(5))

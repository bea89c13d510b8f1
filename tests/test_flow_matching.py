"""kind flow-matching: the velocity, its divergence, the equation's density and draws."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ring import (
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
from zprime.errors import UsageError
from zprime.latent.flow_matching import FlowMatching, FlowMatchingSettings, Velocity, integrate, integrate_back
from zprime.latent.kind import Fit
from zprime.latent.network import Whitening
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SMALL = FlowMatchingSettings(width=48, epochs=7, batch=256, lr=1e-2)


@pytest.fixture(scope="module")
def found() -> Fit[FlowMatching]:
    return fit(SMALL, ring(), ring(100, "selection"))


def scrambled(d: int, width: int = 12, spread: float = 0.5) -> Velocity:
    """With weights that no fit has tamed, in float64."""
    rng = stream(0, "velocity", d)
    net = Velocity(d, width).double().requires_grad_(False)
    for p in net.parameters():
        p.copy_(spread * torch.randn(p.shape, generator=rng, dtype=torch.float64))
    return net


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_divergence_is_the_trace_of_the_jacobian(d: int, t: float) -> None:
    net = scrambled(d)
    x = torch.randn(7, d, generator=stream(1), dtype=torch.float64)
    time = torch.full((1, 1), t, dtype=torch.float64)
    velocity, divergence = net.with_divergence(x, time, net.divergence_matrix())
    torch.testing.assert_close(velocity, net(x, time), rtol=1e-12, atol=1e-12)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None], time)[0], x[i])
        assert float(divergence[i]) == pytest.approx(float(jacobian.trace()), abs=1e-10)


def test_way_back_ends_where_the_way_out_began_and_knows_its_determinant() -> None:
    """log |det dx_1/dx_0| by finite differences of the way out equals the integrated divergence."""
    net = scrambled(2)
    e = torch.randn(5, 2, generator=stream(2), dtype=torch.float64)
    steps, h = 64, 1e-5
    out = integrate(net, e, steps=steps)
    start, divergence = integrate_back(net, out, steps=steps)
    torch.testing.assert_close(start, e, rtol=0, atol=1e-6)
    shifts = [h * torch.eye(2, dtype=torch.float64)[j] for j in range(2)]
    columns = [(integrate(net, e + s, steps=steps) - integrate(net, e - s, steps=steps)) / (2 * h) for s in shifts]
    torch.testing.assert_close(divergence, torch.stack(columns, 2).det().abs().log(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("back", [False, True])
def test_integration_is_of_fourth_order(back: bool) -> None:
    """Halving the step divides the error by 2^4 or more."""
    net = scrambled(2, spread=0.3)
    x = torch.randn(20, 2, generator=stream(3), dtype=torch.float64)

    def value(steps: int) -> Tensor:
        if back:
            end, divergence = integrate_back(net, x, steps=steps)
            return torch.cat([end, divergence[:, None]], 1)
        return integrate(net, x, steps=steps)

    exact = value(128)
    errors = [float((value(s) - exact).abs().mean()) for s in (8, 16, 32)]
    assert math.log2(errors[0] / errors[1]) > 3.5
    assert math.log2(errors[1] / errors[2]) > 3.5


def test_start_is_the_moment_match() -> None:
    """c(t) x carries N(0, I) to itself: a Gaussian's density, to the error of the integration."""
    w = Whitening.of(ring())
    z = GRID[::40]
    expected = MultivariateNormal(w.mean, w.scale_tril @ w.scale_tril.T).log_prob(z)
    torch.testing.assert_close(FlowMatching(Velocity(2, 8), w, 32, 0.0).log_prob(z), expected, rtol=1e-4, atol=1e-4)


def test_ring_is_followed_where_one_gaussian_cannot(found) -> None:
    assert gaussian_kl(ring()) > 0.85
    assert kl(ring(), found.distribution) < 0.15
    assert found.outcome.ok


def test_one_posterior_is_met_at_its_own_entropy() -> None:
    r = fit(FlowMatchingSettings(width=16, epochs=2, batch=128, lr=1e-3), cloud()).distribution
    z = cloud().draw(rng=stream(0, "z"), draws=4000)
    assert -1e-3 < float((cloud().log_prob(z) - r.log_prob(z)).mean()) < 0.02


def test_density_adds_up_to_one_to_the_stated_error(found) -> None:
    r = found.distribution
    assert r.density == "estimate"
    assert mass(r) == pytest.approx(1, abs=max(1e-3, r.error))


def test_stated_error_is_what_a_finer_grid_shows(found) -> None:
    """On other codes than those it was measured on; and the curve explains the choice of steps."""
    r = found.distribution
    z = ring(200, "other").draw(rng=stream(5), draws=5)
    finer = FlowMatching(r.net, r.whitening, 2 * r.steps, 0.0)
    shown = float((finer.log_prob(z) - r.log_prob(z)).abs().mean())
    assert 0.7 * r.error < shown < 1.4 * r.error
    assert r.error < 0.01
    tried, errors = found.trace["steps"], found.trace["error"]
    assert tried == [8, 16, 32, 64][: len(tried)]
    assert all(error >= 0.01 for error in errors[:-1])
    assert found.chosen.settings["steps"] == r.steps == tried[-1]


def test_too_few_steps_end_in_advice() -> None:
    """Narrow posteriors and two steps: usable, flagged, with the number in the text."""
    narrow = MemoryPosteriors(ring(30).mean, torch.full((30, 2), 0.02, dtype=torch.float64))
    out = fit(FlowMatchingSettings(width=32, steps=2, epochs=4, batch=128, lr=1e-2), narrow)
    assert not out.outcome.ok
    assert f"2 steps leave an error of {out.distribution.error:.2g} nats" in out.outcome.message
    assert "raise steps" in out.outcome.message
    assert torch.isfinite(out.distribution.log_prob(GRID)).all()


def test_draws_follow_the_density(found) -> None:
    draws_agree(found.distribution)


def test_same_seed_same_bits() -> None:
    same_bits_twice(FlowMatchingSettings(width=8, steps=4, epochs=1, batch=16), ring(20, dtype=torch.float32))


def test_saved_and_loaded_to_the_same_bits(found, tmp_path) -> None:
    saved_bits(found.distribution, tmp_path / "r")


def test_log_prob_does_not_depend_on_company(found) -> None:
    company_does_not_matter(found.distribution)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (FlowMatchingSettings(width=0), "width: expected at least 1, got 0"),
        (FlowMatchingSettings(steps=-1), "steps: expected at least 0, got -1"),
        (FlowMatchingSettings(batch=1), "batch: expected at least 2, got 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: FlowMatchingSettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fit(settings, ring(5))

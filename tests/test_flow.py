"""kind flow: exact densities by neural spline and masked autoregressive flows."""

import math
import subprocess
import sys

import pytest
import torch
from torch.distributions import Normal

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
from zprime.errors import ArtifactError, UsageError
from zprime.latent.flow import Chain, Flow, FlowSettings
from zprime.latent.kind import Fit
from zprime.latent.network import Whitening
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SMALL = {
    "nsf": FlowSettings("nsf", transforms=2, hidden=(32,), epochs=4, batch=128, lr=5e-3),
    "maf": FlowSettings("maf", transforms=4, hidden=(32,), epochs=5, batch=128, lr=5e-3),
}
LEFT = {"nsf": 0.08, "maf": 0.35}  # nats of the hole that each may leave; one Gaussian leaves 0.85

either = pytest.mark.parametrize("flow", SMALL)


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit[Flow]]:
    return {name: fit(settings, ring(), ring(100, "selection")) for name, settings in SMALL.items()}


def scrambled(flow: str, d: int, *, spread: float = 0.4) -> Flow:
    """With weights that no fit has tamed, in float64."""
    rng = stream(0, "weights", flow, d)
    net = Chain(flow, d, 2, (16,)).double().requires_grad_(False)
    for p in net.parameters():
        p.copy_(spread * torch.randn(p.shape, generator=rng, dtype=torch.float64))
    factor = torch.tril(torch.randn(d, d, generator=rng, dtype=torch.float64), -1) + torch.eye(d) * 1.5
    return Flow(net, Whitening(torch.arange(d).double(), factor), flow, (16,))


@either
def test_ring_is_followed_where_one_gaussian_cannot(flow: str, fits) -> None:
    found = fits[flow]
    assert gaussian_kl(ring()) > 0.85
    assert kl(ring(), found.distribution) < LEFT[flow]
    assert found.outcome.ok
    assert found.trace["selection"][found.chosen.settings["epoch"]] == max(found.trace["selection"])


@either
def test_one_posterior_is_met_at_its_own_entropy(flow: str) -> None:
    """E_q[log r] >= -H(q) - 0.005 nats, H = log(2 pi e) + log(0.5 * 2)."""
    found = fit(FlowSettings(flow, transforms=1, hidden=(8,), epochs=1, batch=64), cloud())
    z = cloud().draw(rng=stream(0, "z"), draws=20_000)
    entropy = math.log(2 * math.pi * math.e)
    own = cloud().log_prob(z)
    gap = float((own - found.distribution.log_prob(z)).mean())
    assert float(own.mean()) == pytest.approx(-entropy, abs=0.03)
    assert -1e-3 < gap < 5e-3


@either
def test_density_adds_up_to_one(flow: str, fits) -> None:
    # a spline's density has kinks, which cost the grid its accuracy
    assert mass(fits[flow].distribution) == pytest.approx(1, abs=2e-3)


@either
@pytest.mark.parametrize("d", [1, 2, 3])
def test_density_is_the_change_of_variables_of_the_draws(flow: str, d: int) -> None:
    """log r(z(e)) = log N(e) - log |det dz/de|, the Jacobian of the way back by finite differences."""
    r = scrambled(flow, d)
    e = torch.randn(6, d, generator=stream(1), dtype=torch.float64)

    def back(e: torch.Tensor) -> torch.Tensor:
        return r.whitening.colour(r.net.inverse(e))

    h = 1e-6
    columns = [(back(e + h * torch.eye(d)[j]) - back(e - h * torch.eye(d)[j])) / (2 * h) for j in range(d)]
    log_det = torch.stack(columns, 2).det().abs().log()
    expected = Normal(0.0, 1.0).log_prob(e).sum(1) - log_det
    torch.testing.assert_close(r.log_prob(back(e)), expected, rtol=0, atol=1e-6)


@either
def test_way_back_is_the_inverse(flow: str) -> None:
    r = scrambled(flow, 3)
    u = 3 * torch.randn(50, 3, generator=stream(2), dtype=torch.float64)
    torch.testing.assert_close(r.net.inverse(r.net(u)[0]), u, rtol=0, atol=1e-9)


@either
def test_draws_follow_the_density(flow: str, fits) -> None:
    draws_agree(fits[flow].distribution)


def test_start_is_the_moment_match_whatever_the_scales() -> None:
    """Shifted, stretched and sheared codes: before any step log r is the moment-matched Gaussian's."""
    p = ring(50)
    a = torch.tensor([[1e3, 0.0], [5.0, 1e-3]], dtype=torch.float64)
    moved = MemoryPosteriors(p.mean @ a.T + 7, p.scale * a.diagonal())
    w = Whitening.of(moved)
    r = Flow(Chain("nsf", 2, 2, (8,)), w, "nsf", (8,))
    z = moved.draw(rng=stream(0))
    covariance = w.scale_tril @ w.scale_tril.T
    expected = torch.distributions.MultivariateNormal(w.mean, covariance).log_prob(z)
    torch.testing.assert_close(r.log_prob(z), expected, rtol=0, atol=1e-5)


def test_fit_does_not_see_the_units_of_the_latent_space() -> None:
    """z -> 1000 z moves every log-density by d log 1000, up to rounding that training amplifies."""
    p = ring(60)
    big = MemoryPosteriors(1000 * p.mean, 1000 * p.scale)
    small = FlowSettings("maf", transforms=2, hidden=(8,), epochs=1, batch=32)
    a, b = fit(small, p).distribution, fit(small, big).distribution
    near = GRID[GRID.norm(dim=1) < 3]
    gap = a.log_prob(near) - b.log_prob(1000 * near) - 2 * math.log(1000)
    assert float(gap.abs().mean()) < 1e-2


@either
def test_same_seed_same_bits(flow: str) -> None:
    same_bits_twice(FlowSettings(flow, transforms=1, hidden=(8,), epochs=1, batch=16), ring(20, dtype=torch.float32))


@either
def test_saved_and_loaded_to_the_same_bits(flow: str, fits, tmp_path) -> None:
    saved_bits(fits[flow].distribution, tmp_path / "r")


@either
def test_log_prob_does_not_depend_on_company(flow: str, fits) -> None:
    company_does_not_matter(fits[flow].distribution)


def test_weights_that_do_not_fit_the_architecture_are_refused() -> None:
    from zprime import distribution

    r = scrambled("maf", 2)
    with pytest.raises(ArtifactError, match=r"(?s)latent distribution: what it holds does not fit .*parts\.2\.hyper"):
        distribution.rebuild("flow", {**r.config(), "transforms": 3}, r.tensors())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (FlowSettings("glow"), "flow: expected nsf or maf, got 'glow'"),
        (FlowSettings(transforms=0), "transforms: expected at least 1, got 0"),
        (FlowSettings(hidden=()), r"hidden: expected the width of one hidden layer or more, each at least 1, got \(\)"),
        (FlowSettings(epochs=0), "epochs: expected at least 1, got 0"),
        (FlowSettings(lr=math.nan), "lr: expected a number above 0, got nan"),
        (FlowSettings(patience=-1), "patience: expected at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: FlowSettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fit(settings, ring(5))


def test_the_least_settings_can_be_used() -> None:
    fit(FlowSettings("maf", transforms=1, hidden=(1,), epochs=1, patience=0, batch=2), ring(5))


def test_importing_zuko_changes_no_global_of_torch() -> None:
    """In a fresh process: the switch that zuko turns off, what it replaces, dtype, threads and random state."""
    code = """
import torch
from torch.distributions import Distribution, Normal, transforms
look = lambda: (Distribution._validate_args, Distribution.__dict__["arg_constraints"], torch.get_default_dtype(),
                transforms._InverseTransform.__name__, torch.get_num_threads(), torch.is_grad_enabled(),
                torch.get_rng_state().sum().item(), torch.are_deterministic_algorithms_enabled())
before = look()
import sys
from zprime.latent import network, flow
assert "zuko" not in sys.modules
network.build(lambda: flow.Chain("nsf", 2, 1, (4,)), rng=torch.Generator())
assert "zuko" in sys.modules
after = look()
assert before == after, (before, after)
try:
    Normal(0.0, -1.0)
except ValueError:
    print("validated")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "validated\n", done.stderr


def test_the_switch_as_the_user_set_it_is_kept() -> None:
    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(False)
        Chain("maf", 2, 1, (4,))
        assert torch.distributions.Distribution._validate_args is False
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_affine_slopes_are_bounded_whatever_the_weights(size: float) -> None:
    """|a| < log 50 a transform, so that a point just outside the codes costs no millions of nats."""
    net = Chain("maf", 3, 2, (16,)).double().requires_grad_(False)
    for p in net.parameters():
        p.fill_(size)
    _, log_det = net(torch.randn(50, 3, generator=stream(0, "u"), dtype=torch.float64))
    assert float(log_det.abs().max()) <= 2 * 3 * math.log(50) + 1e-9
    assert float(log_det.abs().max()) > 3 * math.log(20)  # the bound is reached: slopes of 1/50 to 50 are possible


def test_without_zuko_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.flows.autoregressive", None)
    with pytest.raises(UsageError, match="kind flow: needs the package zuko, which is not installed; pip install zuko"):
        fit(SMALL["nsf"], ring(30))

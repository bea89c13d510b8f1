"""Annealed importance sampling and its reverse: unbiased weights, and the truth between the two bounds."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from oracles import evidence, grid, linear_gaussian
from zoo import ZOO
from zprime.errors import ArrayError, UsageError
from zprime.latent import Prior, SharedNUTS
from zprime.measure.likelihood import ais
from zprime.measure.likelihood.ais import AISSettings, Annealer, Target
from zprime.measure.likelihood.simulation import simulate
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

MODEL = linear_gaussian()
SHORT = AISSettings(temperatures=15, chains=2, leapfrog=3)


class Bent:
    """x = (tanh z1, z1 z2, z2^2) + noise: posteriors with two modes, curved."""

    def decode(self, z: Tensor) -> Independent:
        a, b = z[:, 0], z[:, 1]
        return Independent(Normal(torch.stack([a.tanh(), a * b, b.square()], 1), 1.2), 1)


def quadrature(model: Bent, x: Tensor, name: str) -> Tensor:
    z, area = grid()
    log_r, p = ZOO[name](2, torch.float64).log_prob(z), model.decode(z)
    return torch.stack([torch.logsumexp(log_r + p.log_prob(row), 0) for row in x]) + math.log(area)


def run(name: str, model, n: int, settings: AISSettings, *, seed: int = 0, start=None):
    """Log-weights against the truth, forwards and in reverse."""
    r = ZOO[name](2, torch.float64)
    z, rows = simulate(r, model, n, dtype=torch.float64, rng=stream(seed, "simulate", name))
    exact = quadrature(model, rows.x, name) if isinstance(model, Bent) else evidence(MODEL, rows.x, r)
    given = None if start is None else start(rows.x)
    chains = Annealer(Target(r, model, rows.x), settings, rng=stream(seed, "ais", name), start=given)
    return chains.forward().log_prob - exact, chains.reverse(z).log_prob - exact


def crude(x: Tensor) -> MemoryPosteriors:
    """Gaussians that know little of the posterior."""
    return MemoryPosteriors(0.3 * x[:, :2].clamp(-2, 2), torch.full((len(x), 2), 0.7, dtype=torch.float64))


def unbiased(weights: Tensor) -> bool:
    """Within 5 standard errors: weights have long right tails, so a mean that is low by chance has a low error too."""
    return abs(float(weights.mean()) - 1) < 5 * float(weights.std()) / math.sqrt(len(weights))


@pytest.mark.parametrize(
    ("which", "name", "start"),
    [("linear", "prior", None), ("linear", "mixture", crude), ("bent", "prior", crude), ("bent", "mixture", None)],
)
def test_weights_are_unbiased_both_ways(which: str, name: str, start) -> None:
    """E[w / p(x)] = 1 forwards, and E[p(x) / w] = 1 in reverse from exact draws; so the truth lies between the logs."""
    model = MODEL.vae() if which == "linear" else Bent()
    forward, reverse = run(name, model, 200, SHORT, start=start)
    assert unbiased(forward.exp())
    assert unbiased((-reverse).exp())
    for sign, error in ((1, reverse), (-1, forward)):
        assert sign * float(error.mean()) > -4 * float(error.std()) / math.sqrt(200)
    assert float((reverse - forward).mean()) > 0.02  # so few temperatures leave a gap, which the test must see


@pytest.mark.parametrize("name", ["prior", "mixture"])
def test_more_temperatures_close_the_sandwich(name: str) -> None:
    gaps = []
    for t in (5, 40):
        forward, reverse = run(name, Bent(), 60, AISSettings(t, 2, 3))
        gaps.append(float((reverse - forward).mean()))
    assert 0 < gaps[1] < 0.4 * gaps[0]


@pytest.mark.parametrize("name", ["aggregated", "flow", "defensive-mixture", "active-mixture"])
def test_any_kind_that_has_a_gradient(name: str) -> None:
    forward, reverse = run(
        name, MODEL.vae(), 12, AISSettings(8, 2, 3), start=lambda x: MemoryPosteriors(*MODEL.posterior(x))
    )
    spread = math.sqrt(float(forward.var() + reverse.var()) / 12)
    assert -0.3 < float(forward.mean()) < 4 * spread + 0.01
    assert -4 * spread - 0.01 < float(reverse.mean()) < 0.3


def test_from_the_exact_posterior_every_weight_is_the_evidence() -> None:
    forward, reverse = run("prior", MODEL.vae(), 5, SHORT, start=lambda x: MemoryPosteriors(*MODEL.posterior(x)))
    assert float(forward.abs().max()) < 1e-12
    assert float(reverse.abs().max()) < 1e-12


def test_a_chain_that_always_moves_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: steps far too long, and every trajectory accepted. The weights are then biased, and the test sees it."""
    monkeypatch.setattr(ais._State, "where", lambda self, take, other: other)
    monkeypatch.setattr(ais, "ACCEPT", 0.05)
    monkeypatch.setattr(ais, "FIRST", 1.3)
    forward, reverse = run("prior", MODEL.vae(), 300, SHORT)
    assert not (unbiased(forward.exp()) and unbiased((-reverse).exp()))


def test_step_sizes_come_from_the_warm_up_and_stand_still() -> None:
    r = Prior(2)
    _, rows = simulate(r, MODEL.vae(), 6, dtype=torch.float64, rng=stream(0, "s"))
    chains = Annealer(Target(r, MODEL.vae(), rows.x), AISSettings(60, 4, 3), rng=stream(0, "a"))
    before = chains.steps.clone()
    found = chains.forward()
    assert torch.equal(chains.steps, before)
    assert float(before[-1].mean()) < float(before[20].mean())  # posteriors are narrower than the prior
    assert 0.6 < float(found.acceptance.mean()) < 0.95
    assert torch.equal(chains.forward().log_prob, found.log_prob)


def test_results_do_not_depend_on_how_many_points_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def once() -> Tensor:
        return torch.cat(run("prior", Bent(), 4, SHORT))

    whole = once()
    monkeypatch.setattr(ais, "DECODE", 3)
    torch.testing.assert_close(once(), whole, rtol=1e-9, atol=1e-9)


def test_a_decoder_that_runs_away_is_refused_not_followed() -> None:
    class Steep:
        def decode(self, z: Tensor) -> Independent:
            return Independent(Normal((20 * z[:, :1].pow(3)).clamp(-1e30, 1e30), 0.1), 1)

    z, rows = simulate(Prior(2), Steep(), 5, dtype=torch.float64, rng=stream(0, "s"))
    chains = Annealer(Target(Prior(2), Steep(), rows.x), AISSettings(30, 2, 4), rng=stream(0, "a"))
    assert torch.isfinite(chains.forward().log_prob).all()
    assert torch.isfinite(chains.reverse(z).log_prob).all()


def test_refusals() -> None:
    x = torch.zeros(3, 6, dtype=torch.float64)
    call = {"rng": stream(0, "a")}
    with pytest.raises(UsageError, match="temperatures: expected at least 1, got 0"):
        Annealer(Target(Prior(2), MODEL.vae(), x), AISSettings(temperatures=0), **call)
    with pytest.raises(UsageError, match=r"shared-nuts\(3\): expected a latent distribution with a density"):
        Annealer(Target(SharedNUTS(torch.zeros(4, 2), 3), MODEL.vae(), x), **call)
    with pytest.raises(ArrayError, match="start: expected 3 rows of 2 latents, got 4 of 2"):
        Annealer(Target(Prior(2), MODEL.vae(), x), start=MemoryPosteriors(torch.zeros(4, 2), torch.ones(4, 2)), **call)

    class Opaque(nn.Module):
        def decode(self, z: Tensor) -> Independent:
            return Independent(Normal(z.detach() @ MODEL.weight.T, 1.0), 1)

    with pytest.raises(UsageError, match="decoder: expected a log-density with a gradient in z, got one without"):
        Annealer(Target(Prior(2), Opaque(), x), SHORT, **call)

"""kronecker: one Gaussian of grids, by turns, against closed forms."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import zprime
from tasks import task
from zprime.errors import UsageError
from zprime.latent import Kronecker, KroneckerSettings
from zprime.latent.gaussian import moments
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

C, P = 3, 4


def factors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream(seed, "factors")
    found = []
    for n in (C, P):
        a = torch.randn(n, n, generator=rng, dtype=torch.float64)
        found.append(torch.linalg.cholesky(a @ a.T / n + 0.3 * torch.eye(n, dtype=torch.float64)))
    return found[0], found[1]


def planted(n: int, scale: float = 0.2, seed: int = 0) -> MemoryPosteriors:
    """Posteriors whose means are draws of N(0, A (x) B), less their own spread."""
    a, b = factors()
    noise = torch.randn(n, C, P, generator=stream(seed, "planted"), dtype=torch.float64)
    mean = (a @ noise @ b.T).flatten(1)
    return MemoryPosteriors(mean, torch.full_like(mean, scale), row_ids=seed * 10**6 + torch.arange(n))


def fitted(p: MemoryPosteriors, **how) -> Kronecker:
    return KroneckerSettings((C, P), **how).fit(task(p, rng=stream(0, "fit"))).distribution


def test_its_density_is_that_of_the_whole_covariance() -> None:
    a, b = factors()
    mean = torch.randn(C * P, generator=stream(0, "mean"), dtype=torch.float64)
    r, z = Kronecker(mean, a, b), torch.randn(20, C * P, generator=stream(1, "z"), dtype=torch.float64)
    want = MultivariateNormal(mean, torch.kron(a @ a.T, b @ b.T))
    assert torch.allclose(r.log_prob(z), want.log_prob(z), atol=1e-9)
    drawn = r.sample(200_000, rng=stream(2, "draws"))
    assert torch.allclose(torch.cov(drawn.T), want.covariance_matrix, atol=0.06)
    assert torch.allclose(drawn.mean(0), mean, atol=0.02)


def test_a_planted_covariance_is_found_and_every_turn_gains() -> None:
    p = planted(4000, scale=0.05)
    fit = KroneckerSettings((C, P), tolerance=1e-9).fit(task(p, rng=stream(0, "fit")))
    assert all(b >= a - 1e-9 for a, b in zip(fit.trace["bound"], fit.trace["bound"][1:], strict=False))
    a, b = factors()
    found = fit.distribution
    got = torch.kron(found.channels @ found.channels.T, found.positions @ found.positions.T)
    want = torch.kron(a @ a.T, b @ b.T)
    assert float((got - want).norm() / want.norm()) < 0.08
    z = p.draw(rng=stream(0, "z"))
    assert fit.trace["bound"][-1] == pytest.approx(float(found.log_prob(z).mean()), abs=0.1)


@pytest.mark.parametrize("shape", [(C * P, 1), (1, C * P), ()])
def test_one_position_or_one_channel_is_a_full_gaussian(shape: tuple[int, ...]) -> None:
    p = planted(300)
    r = KroneckerSettings(shape).fit(task(p, rng=stream(0, "fit"))).distribution
    mean, covariance = moments(p)
    z = p.draw(rng=stream(0, "z"))
    want = MultivariateNormal(mean, covariance).log_prob(z)
    assert torch.allclose(r.log_prob(z), want, atol=1e-6)


def test_the_spread_of_posteriors_counts() -> None:
    """Wide posteriors around one mean: the covariance is theirs."""
    p = MemoryPosteriors(1e-3 * torch.randn(200, C * P, generator=stream(0, "m")), torch.full((200, C * P), 0.7))
    r = fitted(p)
    got = torch.kron(r.channels @ r.channels.T, r.positions @ r.positions.T)
    assert torch.allclose(got, 0.49 * torch.eye(C * P), atol=1e-3)


def test_positions_that_share_a_part_gain_what_the_closed_form_says() -> None:
    """All positions N(0, 1), a part rho in common: -1/2 [log(1 + (P-1) rho) + (P-1) log(1 - rho)] a channel."""
    rho, n = 0.6, 6000
    rng = stream(3, "shared")
    common = torch.randn(n, C, 1, generator=rng, dtype=torch.float64)
    own = torch.randn(n, C, P, generator=rng, dtype=torch.float64)
    z = (math.sqrt(rho) * common + math.sqrt(1 - rho) * own).flatten(1)
    r = fitted(MemoryPosteriors(z[: n // 2], None))
    alone = torch.distributions.Normal(0.0, 1.0).log_prob(z[n // 2 :]).sum(1)
    want = -0.5 * (math.log(1 + (P - 1) * rho) + (P - 1) * math.log(1 - rho)) * C
    assert float((r.log_prob(z[n // 2 :]) - alone).mean()) == pytest.approx(want, abs=0.1)


def test_collapsed_dimensions_do_not_tear_a_grid_apart() -> None:
    p = planted(200)
    p.mean[:, 3] = 1e-4 * p.mean[:, 3]
    p.scale[:, 3] = 1.0
    found = zprime.fit(KroneckerSettings((C, P)), p, selection=planted(100, seed=1)).distribution
    assert isinstance(found, Kronecker)


def test_thousands_of_latents_take_no_matrix_of_all() -> None:
    p = MemoryPosteriors(torch.randn(50, 4 * 32 * 32, generator=stream(0, "big")), torch.full((50, 4096), 0.5))
    r = KroneckerSettings((4, 32, 32), iterations=2).fit(task(p, rng=stream(0, "fit"))).distribution
    assert r.bytes < 4 * 1.1 * (1024**2 + 16 + 4096)
    assert bool(torch.isfinite(r.log_prob(p.mean)).all())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (KroneckerSettings((4,)), r"shape: expected that of a grid, channels first, .* got \(4,\)"),
        (KroneckerSettings((5, 5)), r"shape: expected 12 latents in all, got \(5, 5\), 25"),
        (KroneckerSettings((3, 4), iterations=0), "iterations: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(settings: KroneckerSettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        settings.fit(task(planted(20), rng=stream(0, "fit")))

"""pool, barycentre, prior(tau) and the Gaussian of low rank, against what they are said to minimise or maximise."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import minimize
from sklearn.decomposition import FactorAnalysis
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from tasks import task
from zprime.arrays import standard_log_prob
from zprime.distribution import rebuild
from zprime.errors import UsageError
from zprime.latent.barycentre import BarycentreSettings
from zprime.latent.factors import Matrix, factor_analysis
from zprime.latent.gaussian import Gaussian, GaussianSettings, moments
from zprime.latent.log_pool import LogPoolSettings
from zprime.latent.prior import Prior, PriorSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def posteriors(n: int = 7, d: int = 3, *, weighted: bool = True, name: str = "closed forms") -> MemoryPosteriors:
    rng = stream(0, name)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64) * torch.linspace(0.3, 2, d, dtype=torch.float64)
    scale = 0.1 + torch.rand(n, d, generator=rng, dtype=torch.float64)
    weights = torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    return MemoryPosteriors(mean, scale, weights=weights / weights.sum() if weighted else None)


def fit(settings, data: MemoryPosteriors):
    return settings.fit(task(data, selection=data, rng=stream(0, "fit")))


def reverse_kl(r_mean, r_scale, q: MemoryPosteriors) -> torch.Tensor:
    r, experts = Independent(Normal(r_mean, r_scale), 1), Independent(Normal(q.mean, q.scale), 1)
    return (q.log_weights.exp() * kl_divergence(r.expand((q.n,)), experts)).sum()


def wasserstein(r_mean, r_scale, q: MemoryPosteriors) -> torch.Tensor:
    r = np.diag(r_scale.numpy() ** 2)
    squares = [
        ot.gaussian.bures_wasserstein_distance(r_mean.numpy(), m.numpy(), r, np.diag(s.numpy() ** 2)) ** 2
        for m, s in zip(q.mean, q.scale, strict=True)
    ]
    return q.log_weights.exp() @ torch.tensor(squares)


def forward_kl(r_mean, r_scale, q: MemoryPosteriors) -> torch.Tensor:
    r, experts = Independent(Normal(r_mean, r_scale), 1), Independent(Normal(q.mean, q.scale), 1)
    return (q.log_weights.exp() * kl_divergence(experts, r.expand((q.n,)))).sum()


CASES = {
    "log-pool": (LogPoolSettings(), reverse_kl),
    "barycentre": (BarycentreSettings(), wasserstein),
    "gaussian (diagonal)": (GaussianSettings(covariance="diagonal"), forward_kl),
}


@pytest.mark.parametrize("name", CASES)
def test_is_the_minimiser_that_a_numerical_search_finds(name):
    settings, objective = CASES[name]
    q = posteriors()
    r = fit(settings, q).distribution.components

    def value(x):
        x = torch.from_numpy(x)
        return float(objective(x[: q.d], x[q.d :].exp(), q))

    found = minimize(value, np.zeros(2 * q.d), method="BFGS", options={"gtol": 1e-9})
    torch.testing.assert_close(torch.from_numpy(found.x[: q.d]), r.mean[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(np.exp(found.x[q.d :])), r.scale[0], atol=1e-5, rtol=0)
    assert float(objective(r.mean[0], r.scale[0], q)) <= found.fun + 1e-9


@pytest.mark.parametrize("name", CASES)
def test_no_perturbed_gaussian_is_closer(name):
    settings, objective = CASES[name]
    q = posteriors()
    r = fit(settings, q).distribution.components
    best = float(objective(r.mean[0], r.scale[0], q))
    rng = stream(0, "perturb")
    for size in (1e-3, 1e-1, 1):
        for _ in range(5):
            step = torch.randn(2, q.d, generator=rng, dtype=torch.float64) * size
            assert float(objective(r.mean[0] + step[0], r.scale[0] * step[1].exp(), q)) > best


def test_pool_is_the_normalised_geometric_mean():
    q = posteriors()
    r = fit(LogPoolSettings(), q).distribution
    z = torch.randn(50, q.d, generator=stream(0, "points"), dtype=torch.float64)
    geometric = (
        q.log_weights.exp()[:, None] * Independent(Normal(q.mean[:, None], q.scale[:, None]), 1).log_prob(z)
    ).sum(0)
    constant = r.log_prob(z) - geometric
    torch.testing.assert_close(constant, constant[:1].expand(50), atol=1e-9, rtol=0)


def test_two_of_three_criteria_collapse():
    """With narrow posteriors spread as N(0, I), forward KL gives the spread; the other two one posterior's width."""
    rng = stream(0, "collapse")
    q = MemoryPosteriors(
        torch.randn(4000, 2, generator=rng, dtype=torch.float64), torch.full((4000, 2), 0.05, dtype=torch.float64)
    )
    assert fit(GaussianSettings(), q).distribution.components.scale_tril[0].diagonal().min() > 0.95
    for settings in (LogPoolSettings(), BarycentreSettings()):
        torch.testing.assert_close(fit(settings, q).distribution.scale, torch.full((2,), 0.05, dtype=torch.float64))


@pytest.mark.parametrize("settings", [LogPoolSettings(), BarycentreSettings()])
def test_one_posterior_is_its_own_average(settings):
    q = posteriors(1, weighted=False)
    r = fit(settings, q).distribution
    torch.testing.assert_close(r.mean, q.mean[0])
    torch.testing.assert_close(r.scale, q.scale[0])


def test_prior_with_tau():
    rng = stream(0, "tau")
    z = torch.randn(20, 3, generator=rng, dtype=torch.float64)
    wide = Prior(3, 1.7)
    torch.testing.assert_close(
        wide.log_prob(z),
        Normal(torch.zeros(3, dtype=torch.float64), torch.full((3,), 1.7, dtype=torch.float64)).log_prob(z).sum(1),
        atol=1e-12,
        rtol=0,
    )
    torch.testing.assert_close(Prior(3).log_prob(z), standard_log_prob(z), atol=0, rtol=0)
    assert abs(float(wide.sample(20_000, rng=rng).std()) - 1.7) < 5 * 1.7 / math.sqrt(2 * 60_000)
    assert [Prior(3).label, Prior(3, 0.8).label] == ["prior", "prior(0.8)"]
    assert [PriorSettings(tau).name for tau in (1.0, 0.8, 1.25)] == ["prior", "prior-0.8", "prior-1.25"]
    again = rebuild("prior", wide.config(), wide.tensors())
    assert again == wide
    assert fit(PriorSettings(tau=0.5), posteriors()).distribution == Prior(3, 0.5)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_tau_must_be_above_zero(tau):
    with pytest.raises(UsageError, match=f"tau: expected a standard deviation above 0, got {tau:g}"):
        fit(PriorSettings(tau=tau), posteriors())


def test_prior_with_tau_has_the_closed_form_of_the_evidence_gain():
    """log E_q[N(0, tau^2) / N(0, 1)] for one dimension, by quadrature."""
    mu, s, tau = 0.7, 0.4, 0.6
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    integrand = Normal(mu, s).log_prob(z) + Normal(0, tau).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    exact = torch.logsumexp(integrand, 0) + math.log(24 / 200_000)
    tilted = Prior(1, tau).tilt(
        torch.full((1, 1), mu, dtype=torch.float64),
        torch.full((1, 1), s, dtype=torch.float64),
        draws=0,
        rng=stream(0),
    )
    assert float(tilted.log_ratio[0]) == pytest.approx(float(exact), abs=1e-6)


def covariance(d: int = 6, rank: int = 2) -> torch.Tensor:
    rng = stream(0, "covariance", d, rank)
    f = torch.randn(d, rank, generator=rng, dtype=torch.float64)
    return f @ f.T + torch.diag(0.2 + torch.rand(d, generator=rng, dtype=torch.float64))


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    zero = torch.zeros(len(a), dtype=a.dtype)
    return float(kl_divergence(MultivariateNormal(zero, a), MultivariateNormal(zero, b)))


def assemble(factor, var):
    return factor @ factor.T + torch.diag(var)


def test_low_rank_recovers_a_covariance_of_that_rank():
    target = covariance()
    factor, var, _ = factor_analysis(Matrix(target), 2, iterations=5000, tolerance=1e-13)
    assert kl(target, assemble(factor, var)) < 1e-8


def test_low_rank_objective_never_falls_and_is_minus_the_kl():
    target = covariance(6, 5)
    _, _, trace = factor_analysis(Matrix(target), 2, iterations=300, tolerance=0.0)
    assert all(b >= a - 1e-12 for a, b in zip(trace, trace[1:], strict=False))
    assert trace[-1] - trace[0] > 1e-3  # there was something to gain
    for steps in (0, 7):
        factor, var, trace = factor_analysis(Matrix(target), 2, iterations=steps, tolerance=0.0)
        correlation = target / target.diagonal().sqrt() / target.diagonal().sqrt()[:, None]
        constant = -0.5 * (torch.logdet(correlation) + 6)
        assert trace[-1] == pytest.approx(float(constant) - kl(target, assemble(factor, var)), abs=1e-9)


def test_low_rank_takes_the_step_of_em():
    """Rubin & Thayer 1982, with explicit inverses: moments of the factors given x, then regression on them."""
    target = covariance(6, 5)
    f, v, _ = factor_analysis(Matrix(target), 2, iterations=0, tolerance=0.0)
    beta = f.T @ torch.linalg.inv(assemble(f, v))
    second = torch.eye(2, dtype=torch.float64) - beta @ f + beta @ target @ beta.T
    factor = target @ beta.T @ torch.linalg.inv(second)
    var = (target - factor @ beta @ target).diagonal()
    found, left, _ = factor_analysis(Matrix(target), 2, iterations=1, tolerance=0.0)
    torch.testing.assert_close(found, factor, atol=1e-10, rtol=0)
    torch.testing.assert_close(left, var, atol=1e-10, rtol=0)


def test_low_rank_is_as_good_as_scikit_learn_and_a_numerical_search():
    # nearly of rank 2, so that the optimum lies inside
    target = covariance(6, 2) + 0.05 * covariance(6, 5)
    factor, var, _ = factor_analysis(Matrix(target), 2, iterations=20_000, tolerance=1e-13)
    assert float(var.min()) > 0.05
    mine = kl(target, assemble(factor, var))
    assert mine > 1e-4  # nothing to compare otherwise
    # rows whose sample covariance is `target` exactly
    x = torch.randn(500, 6, generator=stream(0, "rows"), dtype=torch.float64)
    x = x - x.mean(0)
    x = (
        torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / 500), x.T, upper=False).T
        @ torch.linalg.cholesky(target).T
    )
    theirs = FactorAnalysis(2, tol=1e-9, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    assert mine <= kl(target, torch.from_numpy(theirs.get_covariance())) + 1e-6

    def value(v):
        v = torch.from_numpy(v)
        return kl(target, assemble(v[:12].reshape(6, 2), v[12:].exp()))

    start = np.concatenate([factor.numpy().ravel(), var.log().numpy()])
    rng = np.random.default_rng(0)
    assert all(value(start + 0.05 * rng.normal(size=18)) > mine for _ in range(20))
    assert minimize(value, start, method="BFGS").fun > mine - 1e-6


def test_low_rank_does_not_depend_on_units():
    target = covariance(5, 4)
    unit = torch.tensor([1e-3, 1, 10, 1e2, 0.5], dtype=torch.float64)
    a = assemble(*factor_analysis(Matrix(target), 2, iterations=50, tolerance=0.0)[:2])
    b = assemble(*factor_analysis(Matrix(target * unit * unit[:, None]), 2, iterations=50, tolerance=0.0)[:2])
    torch.testing.assert_close(b / unit / unit[:, None], a, atol=1e-8, rtol=0)


def test_low_rank_gaussian_density_and_choice_of_rank():
    rng = stream(0, "low rank")
    mean = torch.randn(400, 2, generator=rng, dtype=torch.float64) @ torch.randn(
        2, 8, generator=rng, dtype=torch.float64
    )
    train = MemoryPosteriors(mean[:300], torch.full((300, 8), 0.3, dtype=torch.float64))
    selection = MemoryPosteriors(mean[300:], torch.full((100, 8), 0.3, dtype=torch.float64))
    done = GaussianSettings(covariance="low-rank").fit(task(train, selection=selection, rng=rng))
    assert done.chosen.settings == {"rank": 2}
    assert [(p.setting, p.value) for p in done.curve] == [("rank", 1), ("rank", 2), ("rank", 4)]
    r = done.distribution
    _, target = moments(train)
    torch.testing.assert_close(r.factor @ r.factor.T + torch.diag(r.scale_tril.square()), target, atol=0.02, rtol=0.02)
    dense = MultivariateNormal(r.mean, r.factor @ r.factor.T + torch.diag(r.scale_tril.square()))
    z = torch.randn(30, 8, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(r.log_prob(z), dense.log_prob(z), atol=1e-9, rtol=0)
    assert r.label == "gaussian (rank 2)"
    assert r.bytes == 8 * (8 + 8 + 16)
    again = rebuild("gaussian", r.config(), r.tensors())
    assert bool((again.log_prob(z) == r.log_prob(z)).all())


def test_low_rank_of_full_rank_is_the_moment_match():
    q = posteriors(30, 3)
    full = fit(GaussianSettings(), q).distribution
    low = fit(GaussianSettings(covariance="low-rank", rank=3), q).distribution
    z = torch.randn(30, 3, generator=stream(0, "z"), dtype=torch.float64)
    torch.testing.assert_close(low.log_prob(z), full.log_prob(z), atol=1e-3, rtol=0)


def test_low_rank_of_one_dimension():
    q = posteriors(5, 1)
    low = fit(GaussianSettings(covariance="low-rank"), q).distribution
    assert isinstance(low, Gaussian)
    variance = low.scale_tril.square() + low.factor.square().sum(1)
    assert float(variance) == pytest.approx(float(moments(q)[1]), rel=1e-6)


def test_gaussian_that_stops_early_says_so():
    done = fit(GaussianSettings(covariance="low-rank", rank=1, iterations=1, tolerance=0.0), posteriors(30, 4))
    assert not done.outcome.ok
    assert "still gained" in done.outcome.message
    assert "raise iterations" in done.outcome.message


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (GaussianSettings(covariance="banded"), "covariance: expected auto, full, diagonal or low-rank, got 'banded'"),
        (GaussianSettings("full", rank=2), "rank: expected 0 with covariance 'full', got 2"),
        (GaussianSettings(covariance="low-rank", rank=4), "rank: expected 1 to 3"),
        (GaussianSettings(covariance="low-rank", iterations=0), "iterations: expected at least 1, got 0"),
    ],
)
def test_gaussian_settings_that_cannot_be_used(settings, text):
    with pytest.raises(UsageError, match=text):
        fit(settings, posteriors())

"""The moment match: exact, the minimiser it is said to be, and an error of ours where it cannot be had."""

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from zoo import fitted, posteriors, weighted
from zprime.errors import NumericalError, UsageError
from zprime.latent import GaussianSettings
from zprime.latent.gaussian import Gaussian, moments
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

BOTH = pytest.mark.parametrize("covariance", ["full", "diagonal"])


def covariance_of(r: Gaussian) -> Tensor:
    return r.scale_tril.square().diag() if r.scale_tril.ndim == 1 else r.scale_tril @ r.scale_tril.T


def forward_kl(p: MemoryPosteriors, mean: Tensor, covariance: Tensor) -> float:
    """sum w_i KL(q_i || N(mean, covariance)), from torch's own KL."""
    q = torch.distributions.MultivariateNormal(p.mean, torch.diag_embed(p.scale.square()))
    r = torch.distributions.MultivariateNormal(mean, covariance)
    return float(p.log_weights.exp() @ torch.distributions.kl_divergence(q, r))


@pytest.mark.parametrize("p", [posteriors(3), weighted(3, torch.float64)], ids=["equal weights", "weights"])
def test_moments_equal_a_loop_over_rows(p: MemoryPosteriors) -> None:
    w = p.log_weights.exp()
    mean = sum(w[i] * p.mean[i] for i in range(p.n))
    second = sum(w[i] * (p.scale[i].square().diag() + torch.outer(p.mean[i], p.mean[i])) for i in range(p.n))
    found = moments(p)
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], second - torch.outer(mean, mean), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(covariance_of(fitted(GaussianSettings(), p)), found[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        covariance_of(fitted(GaussianSettings("diagonal"), p)), found[1].diagonal().diag(), rtol=1e-12, atol=0
    )


def test_moments_do_not_cancel_far_from_the_origin() -> None:
    p = posteriors(2)
    there = moments(MemoryPosteriors(p.mean + 1e6, p.scale))
    torch.testing.assert_close(there[1], moments(p)[1], rtol=1e-9, atol=1e-9)


@BOTH
def test_the_moment_match_has_the_least_forward_kl_of_its_shape(covariance: str) -> None:
    p = weighted(3, torch.float64)
    r = fitted(GaussianSettings(covariance), p)
    best = forward_kl(p, r.mean, covariance_of(r))
    rng = stream(0, "perturb")
    for _ in range(20):
        step = 0.05 * torch.randn(3, 3, generator=rng, dtype=torch.float64)
        tril = torch.linalg.cholesky(covariance_of(r)) @ (torch.eye(3, dtype=torch.float64) + step.tril())
        other = tril @ tril.T
        if covariance == "diagonal":
            other = other.diagonal().diag()
        shift = 0.05 * torch.randn(3, generator=rng, dtype=torch.float64)
        assert forward_kl(p, r.mean + shift, covariance_of(r)) > best
        assert forward_kl(p, r.mean, other) > best


@BOTH
def test_density_equals_scipys(covariance: str) -> None:
    r = fitted(GaussianSettings(covariance), posteriors(3))
    z = torch.randn(20, 3, generator=stream(0), dtype=torch.float64)
    expected = multivariate_normal(r.mean.numpy(), covariance_of(r).numpy()).logpdf(z.numpy())
    assert r.log_prob(z).tolist() == pytest.approx(expected.tolist(), abs=1e-10)


@BOTH
def test_row_order_and_duplicates_do_not_matter(covariance: str) -> None:
    p = posteriors(3)
    turned, twice = (p.take(i) for i in (torch.arange(p.n).flip(0), torch.arange(p.n).repeat(2)))
    expected = fitted(GaussianSettings(covariance), p)
    for other in (turned, twice):
        found = fitted(GaussianSettings(covariance), other)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.scale_tril, expected.scale_tril, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e2])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_any_number_of_rows_at_any_scale(n: int, scale: float, covariance: str) -> None:
    """One posterior gives itself back; tiny and huge ones beside means of unit size give a finite density."""
    mean = torch.randn(n, 4, generator=stream(0, n), dtype=torch.float64)
    mean[:, 1] = 0  # a collapsed dimension
    p = MemoryPosteriors(mean, torch.full_like(mean, scale))
    r = fitted(GaussianSettings(covariance), p)
    assert torch.isfinite(r.log_prob(mean)).all()
    if n == 1:
        torch.testing.assert_close(covariance_of(r), scale**2 * torch.eye(4, dtype=torch.float64), rtol=1e-12, atol=0)


def test_float32_posteriors_give_a_float32_gaussian_summed_in_float64() -> None:
    p = posteriors(3, torch.float32, n=200)
    r = fitted(GaussianSettings(), p)
    exact = fitted(GaussianSettings(), MemoryPosteriors(p.mean.double(), p.scale.double()))
    assert r.mean.dtype == r.scale_tril.dtype == torch.float32
    torch.testing.assert_close(r.scale_tril, exact.scale_tril.float(), rtol=0, atol=1e-7)


def test_what_cannot_be_fitted_is_said() -> None:
    p = posteriors(2)
    with pytest.raises(UsageError, match=r"covariance: expected auto, full, diagonal or low-rank, got 'round'"):
        fitted(GaussianSettings("round"), p)
    mean = torch.tensor([[0.0, 0.0], [1e4, 1e4]], dtype=torch.float64)
    singular = MemoryPosteriors(mean, torch.full_like(mean, 1e-6))
    text = r"gaussian: a covariance is not positive definite .* \(variances from 2.5e\+07 to 2.5e\+07\); .* diagonal"
    with pytest.raises(NumericalError, match=text):
        fitted(GaussianSettings(), singular)
    assert torch.isfinite(fitted(GaussianSettings("diagonal"), singular).log_prob(mean)).all()  # the advice works

"""The linear-Gaussian VAE (probabilistic PCA), where everything is known in closed form (docs/theory.md, section 4)."""

import math

import pytest
import torch
from torch import Tensor

from oracles import LinearGaussian, evidence, gaussian_kl, linear_gaussian, maximum_likelihood
from zoo import ZOO, fitted
from zprime.latent import AggregatedSettings, GaussianSettings, Prior
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

MODEL = linear_gaussian()
X, Z = MODEL.sample(40)


def encode(model: LinearGaussian, x: Tensor) -> MemoryPosteriors:
    return MemoryPosteriors(*model.vae().encode(x))


def test_the_oracle_itself_evidence_is_elbo_at_the_exact_posterior() -> None:
    fit, kl = MODEL.elbo(X)
    torch.testing.assert_close(fit - kl, MODEL.log_evidence(X), rtol=1e-12, atol=1e-11)


def test_elbo_terms_are_unbiased_and_at_the_exact_posterior_their_weights_have_no_variance() -> None:
    """log p(x|z) + log p(z) - log q(z|x) is log p(x) at every z; the two terms average to the closed ELBO."""
    fit, kl = MODEL.elbo(X)
    draws = 400
    rng = stream(0, "elbo")
    terms = [MODEL.vae().elbo_terms(X, rng=rng) for _ in range(draws)]
    log_likelihood = torch.stack([t[0] for t in terms])
    stderr = log_likelihood.std(0) / draws**0.5
    torch.testing.assert_close(terms[0][1], kl, rtol=1e-12, atol=1e-12)
    assert ((log_likelihood.mean(0) - fit).abs() < 4.5 * stderr).all()
    mean, scale = MODEL.posterior(X)
    z = mean + scale * torch.randn(mean.shape, generator=rng, dtype=torch.float64)
    normal = torch.distributions.Normal
    weight = (
        MODEL.vae().decode(z).log_prob(X) + normal(0.0, 1.0).log_prob(z).sum(1) - normal(mean, scale).log_prob(z).sum(1)
    )
    torch.testing.assert_close(weight, MODEL.log_evidence(X), rtol=1e-10, atol=1e-9)


def test_a_wrong_encoder_costs_exactly_its_kl_to_the_posterior() -> None:
    widen, draws, rng = 1.3, 600, stream(0, "elbo")
    terms = [MODEL.vae(widen=widen).elbo_terms(X, rng=rng) for _ in range(draws)]
    elbo = torch.stack([a - b for a, b in terms])
    gap = MODEL.weight.shape[1] * (0.5 * (widen**2 - 1) - math.log(widen))
    stderr = elbo.std(0) / draws**0.5
    assert ((MODEL.log_evidence(X) - gap - elbo.mean(0)).abs() < 4.5 * stderr).all()
    assert (MODEL.log_evidence(X) - elbo.mean(0)).mean() > 10 * stderr.mean() / len(X) ** 0.5  # the test sees the gap


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("kind", ["gaussian", "exponential", "two clusters"])
def test_at_maximum_likelihood_the_moment_match_is_the_prior_whatever_the_data(kind: str, d: int) -> None:
    rng = stream(0, "data", kind)
    x = torch.randn(60, 7, generator=rng, dtype=torch.float64) * torch.linspace(3, 0.4, 7, dtype=torch.float64)
    if kind == "exponential":
        x = x.exp().clamp(max=20)
    elif kind == "two clusters":
        x[:30] += 10
    model, values = maximum_likelihood(x, d)
    p = encode(model, x)
    moments = fitted(GaussianSettings(), p)
    torch.testing.assert_close(moments.mean, torch.zeros(d, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(moments.scale_tril, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-10)
    # posterior variances s2 / l_j, and the two closed forms of docs/theory.md, section 4
    torch.testing.assert_close(p.scale.square(), (model.var / values[:d]).expand(60, d), rtol=1e-10, atol=0)
    kl = gaussian_kl(p.mean, torch.diag_embed(p.scale.square())).mean()
    assert float(kl) == pytest.approx(0.5 * float((values[:d] / model.var).log().sum()), abs=1e-10)
    rest = (7 - d) * math.log(model.var) + 7 * math.log(2 * math.pi) + 7
    assert float(model.log_evidence(x).mean()) == pytest.approx(
        -0.5 * (float(values[:d].log().sum()) + rest), abs=1e-10
    )


def test_on_simulated_data_the_aggregated_posterior_tends_to_the_prior() -> None:
    """KL(qbar || p) by fresh draws, with rows left out (from below) and in (from above); shifted data do not pass."""
    x, _ = MODEL.sample(3000, seed=1)
    p = encode(MODEL, x)
    z = p.draw(rng=stream(0, "codes"))
    prior = Prior(2).log_prob(z)
    above = p.log_prob(z) - prior
    below = p.log_prob(z, leave_out=p.row_ids) - prior
    stderr = float(above.std()) / len(z) ** 0.5
    assert float(below.mean()) - 4 * stderr < 0 < float(above.mean()) + 4 * stderr
    assert float(above.mean()) < 0.01 + 4 * stderr
    shifted = encode(MODEL, x + 1.0)
    assert (
        float((shifted.log_prob(z + shifted.mean.mean(0)) - Prior(2).log_prob(z + shifted.mean.mean(0))).mean()) > 0.05
    )


@pytest.mark.parametrize("name", ZOO)
def test_evidence_gain_is_exactly_the_change_of_the_evidence(name: str) -> None:
    """(b) log E_q[r/p] = log p_r(x) - log p_p(x), for q the exact posterior and every kind of r with a closed form."""
    r = ZOO[name](2, torch.float64)
    mean, scale = MODEL.posterior(X)
    tilted = r.tilt(mean, scale, draws=0, rng=stream(0))
    if tilted is None:
        pytest.skip("no closed form is known")
    exact = evidence(MODEL, X, r) - MODEL.log_evidence(X)
    torch.testing.assert_close(
        tilted.log_ratio,
        exact,
        rtol=1e-6 if name.startswith("prior") else 1e-9,
        atol=1e-6 if name.startswith("prior") else 1e-9,
    )


@pytest.mark.parametrize("name", ["mixture", "mixture-diagonal", "aggregated", "gaussian"])
def test_q_r_is_the_posterior_under_r(name: str) -> None:
    """The posterior of the model with r in the prior's place, by importance weights on draws of r: no encoder."""
    r = ZOO[name](2, torch.float64)
    mean, scale = MODEL.posterior(X[:3])
    tilted = r.tilt(mean, scale, draws=4000, rng=stream(0, "tilt"))
    z = r.sample(200_000, rng=stream(0, "r"))
    for i in range(3):
        log_likelihood = MODEL.vae().decode(z).log_prob(X[i].expand(len(z), -1))
        w = torch.softmax(log_likelihood, 0)
        expected = w @ z
        var = w @ (z - expected).square()
        effective = 1 / float(w.square().sum())
        assert effective > 1000
        stderr = (var * (1 / effective + 1 / 4000)).sqrt()
        assert ((tilted.draws[i].mean(0) - expected).abs() < 4.5 * stderr).all()
        torch.testing.assert_close(tilted.draws[i].var(0), var, rtol=0.25, atol=0)


def test_swapping_the_prior_for_itself_changes_nothing() -> None:
    mean, scale = MODEL.posterior(X)
    tilted = Prior(2).tilt(mean, scale, draws=2000, rng=stream(0, "tilt"))
    torch.testing.assert_close(tilted.log_ratio, torch.zeros(len(X), dtype=torch.float64), rtol=0, atol=1e-12)
    z = (tilted.draws - mean[:, None]) / scale[:, None]
    torch.testing.assert_close(z.mean(1), torch.zeros_like(mean), rtol=0, atol=5 / 2000**0.5)
    torch.testing.assert_close(z.std(1), torch.ones_like(mean), rtol=0, atol=5 / 4000**0.5)


@pytest.mark.parametrize("n", [2, 10, 40])
def test_the_aggregated_posterior_raises_the_likelihood_of_the_rows_it_was_made_of(n: int) -> None:
    """It is one step of EM on the latent distribution, so with exact posteriors the training likelihood cannot fall."""
    r = fitted(AggregatedSettings(), encode(MODEL, 3 * X[:n]))
    gain = evidence(MODEL, 3 * X[:n], r) - MODEL.log_evidence(3 * X[:n])
    assert float(gain.mean()) > 0.01

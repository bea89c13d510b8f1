"""A Gaussian prior that is not N(0, I): gains are over it, and no change of coordinates changes them (theory 9)."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

import zoo
from oracles import linear_gaussian
from zprime import audit, fit, sample
from zprime.bring import arrays, modules
from zprime.bring.coordinates import Coordinates, coordinates_of
from zprime.errors import UsageError
from zprime.latent import Gaussian, Prior
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.3)
SMALL = AuditSettings(rows=50, draws=80, grid=4, map=10, simulated=0, exchange=50)
LOC, SCALE = torch.tensor([3.0, -20.0]).double(), torch.tensor([0.5, 7.0]).double()
SAME = {
    "torch, independent": Independent(Normal(LOC, SCALE), 1),
    "torch": Normal(LOC, SCALE),
    "torch, a matrix": MultivariateNormal(LOC, torch.diag(SCALE.square())),
    "gaussian, diagonal": Gaussian(LOC, SCALE),
    "gaussian": Gaussian(LOC, torch.diag(SCALE)),
}


def data(shift: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        s: MODEL.sample(n, seed=i)[0] + shift * MODEL.weight.sum(1)
        for i, (s, n) in enumerate({"train": 300, "heldout": 200}.items())
    }


def encode(x):
    return MODEL.posterior(x)


def decode(z):
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


def encode_there(x):
    """The same model, whose latents have this prior."""
    mean, scale = MODEL.posterior(x)
    return LOC + SCALE * mean, SCALE * scale


def decode_there(z):
    return decode((z - LOC) / SCALE)


@pytest.mark.parametrize("prior", SAME.values(), ids=SAME)
def test_a_model_with_another_gaussian_prior_has_the_same_audit(prior: object) -> None:
    """z -> loc + scale z together with the prior, and fits in either coordinates."""
    found = []
    for mine in (
        modules(encode, decode, data(), gives="std"),
        modules(encode_there, decode_there, data(), gives="std", prior=prior),
    ):
        fits = {k: fit(k, **mine.splits) for k in ("gaussian", "mixture", "aggregated")}
        found.append(audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL))
    here, there = found
    assert here.verdict.decision == there.verdict.decision == "leave the prior"
    for a, b in zip(here.entries, there.entries, strict=True):
        for of in ("elbo", "exact_posterior", "likelihood"):
            one, other = getattr(a.heldout, of).gain, getattr(b.heldout, of).gain
            assert one.value == pytest.approx(other.value, abs=1e-6), (a.name, of)


def test_keep_a_prior_of_another_width() -> None:
    """Codes from N(0, 4 I) under the prior N(0, 4 I): over N(0, I) a Gaussian would seem to gain .807 a dimension."""
    rng, d, s = stream(0, "codes"), 3, 0.5
    wide = (4 - s**2) ** 0.5
    mean = {k: torch.randn(4000, d, generator=rng).double() * wide for k in ("train", "heldout")}
    scale = {k: torch.full_like(m, s) for k, m in mean.items()}
    mine = arrays(mean, scale, prior=Prior(d, 2.0))
    assert "in units of the prior" in mine.says[0]
    assert "latents are shown in units of it" in mine.says[1]
    fits = {"gaussian": fit("gaussian", **mine.splits), "standard": mine.inside(Prior(d))}
    found = audit(fits, mine.posteriors, settings=AuditSettings(rows=2000, draws=400, map=10, simulated=0))
    assert found.verdict.choice == "prior"
    own = found.entry("gaussian").heldout.elbo.gain
    assert abs(own.value) < 3 * own.stderr + 0.01
    over_standard = found.entries[[e.id for e in found.entries].index(CandidateId("standard"))].heldout
    wanted = -d * 0.5 * (4 - 1 - math.log(4))
    assert wanted / d == pytest.approx(-0.807, abs=1e-3)
    assert over_standard.elbo.gain.value == pytest.approx(wanted, abs=4 * over_standard.elbo.gain.stderr)
    unaware = arrays(mean, scale, check=False)
    gain = audit({"gaussian": fit("gaussian", **unaware.splits)}, unaware.posteriors, settings=SMALL)
    assert gain.entry("gaussian").heldout.elbo.gain.value > 0.6 * d


@pytest.mark.parametrize("name", ["mixture", "gaussian", "flow"])
def test_there_and_back_is_the_same_distribution(name: str) -> None:
    r = zoo.ZOO[name](2, torch.float64)
    at = Coordinates(LOC, SCALE)
    z = r.sample(50, rng=stream(0))
    torch.testing.assert_close(at.outside(at.inside(r)).log_prob(z), r.log_prob(z), rtol=1e-9, atol=1e-9)
    moved = at.outside(r)
    torch.testing.assert_close(moved.log_prob(LOC + SCALE * z), r.log_prob(z) - SCALE.log().sum(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.sample(9, rng=stream(1)), LOC + SCALE * r.sample(9, rng=stream(1)))


def test_what_is_fitted_generates_by_the_models_own_decoder() -> None:
    mine = modules(encode_there, decode_there, data(), gives="std", prior=SAME["torch"])
    r = fit("gaussian", **mine.splits).distribution
    u, x = sample(mine.generator(r), 7)
    torch.testing.assert_close(x, decode_there(LOC + SCALE * u).mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.outside(r).sample(7, rng=stream(0)), LOC + SCALE * r.sample(7, rng=stream(0)))
    plain = modules(encode, decode, data(), gives="std")
    assert plain.outside(r) is plain.inside(r) is r


def test_n_0_i_in_other_words_changes_nothing() -> None:
    one = torch.ones(2)
    for prior in (None, Prior(2), Normal(0 * one, one), Normal(0.0, 1.0), Gaussian(0 * one, one)):
        assert coordinates_of(prior, 2) is None
        assert modules(encode, decode, data(), gives="std", prior=prior).coordinates is None


def test_a_gaussian_that_cannot_be_the_prior_is_refused_in_words() -> None:
    for prior, text in (
        (Normal(torch.zeros(3), torch.ones(3)), r"expected a Gaussian in 2 dimensions, got one of shape \[3\]"),
        (Prior(3, 2.0), r"expected a Gaussian in 2 dimensions, got one of shape \[3\]"),
        (Normal(torch.zeros(4, 2), torch.ones(4, 2)), r"got one of shape \[4, 2\]"),
        (Normal(torch.zeros(2), torch.tensor([1.0, math.inf])), "standard deviations above 0, got .* 1 to inf"),
    ):
        with pytest.raises(UsageError, match=text):
            modules(encode, decode, data(), gives="std", prior=prior)

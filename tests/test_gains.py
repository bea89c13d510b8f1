"""The held-out ladder against the linear-Gaussian model, where evidence and posteriors are known exactly."""

import math

import pytest
import torch
from torch import Tensor

from oracles import LinearGaussian, linear_gaussian
from tasks import task
from zprime.components import Full
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.errors import NumericalError, UsageError
from zprime.latent import AggregatedSettings, Defensive, Gaussian, MixtureSettings
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId
from zprime.rng import stream

MODEL = linear_gaussian(D=6, d=2, var=0.3)


def heldout(model: LinearGaussian = MODEL, n: int = 40, widen: float = 1.0) -> tuple[Rows, MemoryPosteriors]:
    x, _ = model.sample(n, seed=1)
    mean, scale = model.posterior(x)
    return Rows("heldout", x, torch.arange(n)), MemoryPosteriors(mean, scale * widen)


def distributions() -> dict[str, LatentDistribution]:
    x, _ = MODEL.sample(60, seed=2)
    train = MemoryPosteriors(*MODEL.posterior(0.5 * x + 0.5))
    fit = {"context": None, "selection": train, "rng": stream(0, "fit")}
    mixture = MixtureSettings(components=3).fit(task(train, **fit)).distribution
    aggregated = AggregatedSettings().fit(task(train, **fit)).distribution
    wide = Gaussian(torch.tensor([0.3, -0.2]).double(), torch.tensor([[1.1, 0.0], [0.4, 0.8]]).double())
    return {"wide": wide, "mixture": mixture, "aggregated": Defensive(aggregated, 0.1)}


def named(name: str) -> CandidateId:
    """The candidate, or the distribution itself where it is not mixed with the prior."""
    return CandidateId(name, 10.0 if name == "aggregated" else 0.0)


def exact_gain(r: LatentDistribution, x: Tensor) -> Tensor:
    """log p_r(x) - log p_p(x) for a Gaussian mixture r, by the model's own closed form."""
    if isinstance(r, Defensive):
        return torch.logaddexp(
            exact_gain(r.base, x) + math.log1p(-r.epsilon), torch.tensor(math.log(r.epsilon), dtype=torch.float64)
        )
    c = r.components  # type: ignore[attr-defined]
    covariance = c.scale_tril @ c.scale_tril.mT if isinstance(c, Full) else torch.diag_embed(c.scale.square())
    return MODEL.log_evidence(x, log_weight=c.log_weight, mean=c.mean, covariance=covariance) - MODEL.log_evidence(x)


def test_evidence_gain_is_the_exact_change_of_log_evidence() -> None:
    rows, posteriors = heldout()
    ladder = measure_gains(Candidates(distributions()), Split("heldout", posteriors), rng=stream(0, "ladder"))
    for name, r in distributions().items():
        torch.testing.assert_close(ladder.exact_posterior[named(name)], exact_gain(r, rows.x), rtol=0, atol=1e-9)
    assert bool((ladder.exact_posterior[CandidateId("prior")] == 0).all())


@pytest.mark.parametrize("widen", [0.5, 1.0, 1.6])
def test_likelihood_gain_converges_to_the_truth_whatever_the_encoder(widen: float) -> None:
    rows, posteriors = heldout(widen=widen)
    candidates = Candidates(distributions())
    ladder = measure_gains(
        candidates, Split("heldout", posteriors, rows), rng=stream(0, "ladder"), model=MODEL.vae(), draws=2000
    )
    assert ladder.log_prior is not None
    torch.testing.assert_close(ladder.log_prior, MODEL.log_evidence(rows.x), rtol=0, atol=0.25)
    for name, r in distributions().items():
        error = ladder.likelihood[named(name)] - exact_gain(r, rows.x)
        # 2,000 stratified draws: a few hundredths a row, and no bias over rows
        assert float(error.abs().max()) < 0.4, name
        assert abs(float(error.mean())) < 0.03, name


def test_evidence_gain_of_a_wrong_encoder_is_neither_bound_nor_estimate() -> None:
    rows, narrow = heldout(widen=0.5)
    ladder = measure_gains(Candidates(distributions()), Split("heldout", narrow), rng=stream(0, "ladder"))
    truth = exact_gain(distributions()["wide"], rows.x)
    assert float((ladder.exact_posterior[CandidateId("wide")] - truth).abs().mean()) > 0.05


def test_code_gain_of_a_gaussian_in_closed_form() -> None:
    _, posteriors = heldout(n=2000)
    r = distributions()["wide"]
    assert isinstance(r, Gaussian)
    ladder = measure_gains(Candidates({"wide": r}), Split("heldout", posteriors), rng=stream(0, "ladder"))
    covariance = r.scale_tril @ r.scale_tril.T
    gap = posteriors.mean - r.mean
    inverse = covariance.inverse()
    under_r = -0.5 * (
        torch.logdet(covariance) + (gap @ inverse * gap).sum(1) + posteriors.scale.square() @ inverse.diagonal()
    )
    under_p = -0.5 * (posteriors.mean.square() + posteriors.scale.square()).sum(1)
    error = ladder.elbo[CandidateId("wide")] - (under_r - under_p)
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(2000)
    assert float(error.std()) < 0.5


def test_code_gain_is_below_evidence_gain_by_a_divergence() -> None:
    _, posteriors = heldout(n=300)
    ladder = measure_gains(Candidates(distributions()), Split("heldout", posteriors), rng=stream(0, "ladder"))
    for name in distributions():
        assert float((ladder.exact_posterior[named(name)] - ladder.elbo[named(name)]).mean()) > 0


def test_panel_mixes_the_prior_exactly_and_shows_the_distribution_itself() -> None:
    candidates = Candidates(distributions())
    z = torch.randn(50, 2, generator=stream(0, "z"), dtype=torch.float64)
    found = candidates.log_probs(z)
    assert [str(i) for i in candidates.ids] == ["prior", "wide", "mixture", "aggregated+p10", "aggregated"]
    assert [str(i) for i in candidates.eligible] == ["prior", "aggregated+p10"]
    for name, r in distributions().items():
        torch.testing.assert_close(found[named(name)], r.log_prob(z))
    torch.testing.assert_close(found[CandidateId("aggregated")], distributions()["aggregated"].base.log_prob(z))  # type: ignore[attr-defined]


def test_no_row_of_a_defended_candidate_falls_below_log_epsilon() -> None:
    far = MemoryPosteriors(torch.full((3, 2), 6.0).double(), torch.full((3, 2), 0.1).double())
    ladder = measure_gains(Candidates(distributions()), Split("heldout", far), rng=stream(0, "ladder"))
    for gain in (ladder.elbo, ladder.exact_posterior):
        assert float(gain[CandidateId("aggregated", 10.0)].min()) >= math.log(0.1) - 1e-9
        assert float(gain[CandidateId("aggregated")].min()) < -50


def test_rows_where_the_evidence_gain_diverges_are_infinite_not_wrong() -> None:
    wide = MemoryPosteriors(torch.zeros(2, 2).double(), torch.tensor([[0.5, 0.5], [1.6, 0.5]]).double())
    r = Gaussian(torch.zeros(2).double(), torch.tensor([1.5, 0.9]).double())
    ladder = measure_gains(Candidates({"wide": r}), Split("heldout", wide), rng=stream(0, "ladder"))
    assert math.isfinite(ladder.exact_posterior[CandidateId("wide")][0])
    assert ladder.exact_posterior[CandidateId("wide")][1] == math.inf  # 1/1.6^2 + 1/1.5^2 <= 1


def test_errors() -> None:
    rows, posteriors = heldout(n=4)
    split, call = Split("heldout", posteriors, rows), {"rng": stream(0, "x"), "model": MODEL.vae()}
    with pytest.raises(UsageError, match="draws: expected a multiple of 4, at least 8, got 30"):
        measure_gains(Candidates(distributions()), split, draws=30, **call)
    with pytest.raises(UsageError, match=r"draws: expected at least \d+ for 4 candidates, got 16"):
        measure_gains(Candidates(distributions()), split, draws=16, **call)
    with pytest.raises(UsageError, match="candidates: expected at least one latent distribution, got none"):
        Candidates({})
    three = Gaussian(torch.zeros(3), torch.ones(3))
    with pytest.raises(UsageError, match=r"candidates: expected one latent dimension, got \[2, 3\]"):
        Candidates({**distributions(), "three": three})


def test_a_decoder_that_answers_nan_is_named() -> None:
    rows, posteriors = heldout(n=4)
    spoiled = Rows("heldout", rows.x.clone(), rows.ids + 70)
    spoiled.x[2, 1] = math.nan
    with pytest.raises(NumericalError, match=r"decoder: log p\(x\|z\) is NaN for row 72 at 120 of 120 draws"):
        measure_gains(
            Candidates(distributions()),
            Split("heldout", posteriors, spoiled),
            rng=stream(0, "x"),
            model=MODEL.vae(),
            draws=120,
        )

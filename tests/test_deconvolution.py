"""Mixtures fitted to the evidence: the paper's equations row by row, closed forms, and what must never happen."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from oracles import maximum_likelihood
from tasks import task
from zoo import posteriors, sharded, weighted
from zprime.errors import UsageError
from zprime.fitting import fit
from zprime.latent import ConditionalSettings, Mixture, MixtureSettings
from zprime.latent.deconvolution import log_ratio, step
from zprime.latent.evidence import Evidence, refit
from zprime.latent.kind import described, fields
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.rng import stream

FORMS = pytest.mark.parametrize("form", ["full", "diagonal"])


def mixture(d: int, k: int, form: str, seed: int = 0) -> Mixture:
    rng = stream(seed, "mixture", d, k)
    weight = torch.rand(k, generator=rng, dtype=torch.float64) + 0.2
    mean = torch.randn(k, d, generator=rng, dtype=torch.float64)
    scale = 0.3 + torch.rand(k, d, generator=rng, dtype=torch.float64)
    if form == "full":
        scale = torch.diag_embed(scale) + 0.3 * torch.randn(k, d, d, generator=rng, dtype=torch.float64).tril(-1)
    return Mixture((weight / weight.sum()).log(), mean, scale)


def covariances(r: Mixture) -> Tensor:
    return torch.diag_embed(r.scale_tril.square()) if r.scale_tril.ndim == 2 else r.scale_tril @ r.scale_tril.mT


def observed(p: MemoryPosteriors) -> tuple[Tensor, Tensor]:
    """y and t^2 of docs/theory.md, section 11."""
    variance = p.scale.double().square()
    return p.mean.double() / (1 - variance), variance / (1 - variance)


def paper(p: MemoryPosteriors, r: Mixture) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step, and log N(y; ...) of every row, by the equations as they are printed."""
    (y, noise), V, w = observed(p), covariances(r), p.log_weights.exp()
    k, d = r.mean.shape
    log_q, b, B = torch.empty(p.n, k, dtype=torch.float64), torch.empty(p.n, k, d).double(), torch.empty(p.n, k, d, d)
    B = B.double()
    for i in range(p.n):
        for j in range(k):
            T = V[j] + noise[i].diag()
            log_q[i, j] = r.log_weight[j] + MultivariateNormal(r.mean[j], T).log_prob(y[i])
            gain = V[j] @ torch.linalg.inv(T)
            b[i, j] = r.mean[j] + gain @ (y[i] - r.mean[j])
            B[i, j] = V[j] - gain @ V[j]
    share = w[:, None] * log_q.softmax(1)
    total = share.sum(0)
    mean = torch.einsum("nk,nkd->kd", share, b) / total[:, None]
    gap = b - mean
    moved = B + gap[..., :, None] * gap[..., None, :]
    return total, mean, torch.einsum("nk,nkij->kij", share, moved) / total[:, None, None], log_q.logsumexp(1)


@FORMS
@pytest.mark.parametrize("p", [posteriors(3), weighted(3, torch.float64)], ids=["equal weights", "weights"])
def test_one_step_equals_the_papers_equations(p: MemoryPosteriors, form: str) -> None:
    r = mixture(3, 4, form)
    for _ in range(3):
        total, mean, covariance, _ = paper(p, r)
        r = step(p, r).following
        torch.testing.assert_close(r.log_weight.exp(), total, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(r.mean, mean, rtol=1e-9, atol=1e-10)
        expected = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2)) if form == "diagonal" else covariance
        torch.testing.assert_close(covariances(r), expected, rtol=1e-8, atol=1e-9)


@FORMS
def test_the_ratio_is_the_density_of_y_but_for_a_constant_of_the_row(form: str) -> None:
    p, (a, b) = posteriors(2), (mixture(2, 3, form, seed) for seed in (0, 1))
    gap = log_ratio(p, a) - log_ratio(p, b)
    torch.testing.assert_close(gap, paper(p, a)[3] - paper(p, b)[3], rtol=1e-9, atol=1e-9)


def test_the_ratio_by_quadrature() -> None:
    p, r = posteriors(1), mixture(1, 3, "diagonal")
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    ratio = r.log_prob(z[:, None]) - Normal(0.0, 1.0).log_prob(z)
    log_q = Normal(p.mean, p.scale).log_prob(z)
    torch.testing.assert_close(log_ratio(p, r), (log_q + ratio).logsumexp(1) + math.log(24 / 20_000), rtol=0, atol=1e-8)


@FORMS
def test_the_ratio_is_that_of_the_exact_posterior_gain(form: str) -> None:
    p, r = posteriors(3), mixture(3, 4, form)
    torch.testing.assert_close(log_ratio(p, r), r.tilt(p.mean, p.scale, draws=0, rng=stream(0)).log_ratio)


@given(
    n=st.integers(1, 25),
    k=st.integers(1, 5),
    d=st.integers(1, 4),
    exponent=st.floats(-3, 0.3),
    seed=st.integers(0, 10**6),
    form=st.sampled_from(["full", "diagonal"]),
)
def test_the_evidence_never_falls(*, n: int, k: int, d: int, exponent: float, seed: int, form: str) -> None:
    rng = stream(seed, "evidence")
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    scale = 10**exponent * (0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64)).exp()
    p, r = MemoryPosteriors(mean, scale), mixture(d, k, form, seed)
    floor = 0.01 * float(scale.amin()) ** 2
    trace = []
    for _ in range(10):
        found = step(p, r, floor=floor)
        trace.append(found.evidence)
        r = found.following
    assert max(a - b for a, b in zip(trace, trace[1:], strict=False)) <= 1e-9 + 1e-15 / float(scale.amin()) ** 2


@pytest.mark.parametrize("d", [1, 2])
def test_the_linear_model_gives_the_prior(d: int) -> None:
    """Section 4: at the maximum-likelihood solution the evidence is best under N(0, I) itself."""
    rng = stream(0, "rows")
    x = torch.randn(200, 6, generator=rng, dtype=torch.float64) @ torch.randn(6, 6, generator=rng, dtype=torch.float64)
    model, _ = maximum_likelihood(x, d)
    p = MemoryPosteriors(*model.posterior(x))
    y, noise = observed(p)
    torch.testing.assert_close(y.var(0, correction=0) - noise[0], torch.ones(d, dtype=torch.float64))
    r = mixture(d, 1, "full")
    for _ in range(300):
        r = step(p, r).following
    torch.testing.assert_close(r.mean[0], torch.zeros(d, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(covariances(r)[0], torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-8)


def test_no_other_gaussian_has_more_evidence() -> None:
    """In one dimension, against a search over mean and variance."""
    p = weighted(1, torch.float64)
    r = Mixture(torch.zeros(1).double(), torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    for _ in range(3000):
        r = step(p, r).following
    y, noise = (t[:, 0] for t in observed(p))

    def loss(at: list[float]) -> float:
        spread = (noise + math.exp(at[1])).sqrt()
        return -float(p.log_weights.exp() @ Normal(at[0], spread).log_prob(y))

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert float(r.mean) == pytest.approx(best.x[0], abs=1e-5)
    assert float(r.scale_tril.square()) == pytest.approx(math.exp(best.x[1]), rel=1e-5)


def noisy(n: int, seed: int) -> MemoryPosteriors:
    """Exact posteriors of x = z + noise of variance 0.25, z near -1.2 and 1.2 with a deviation of 0.1."""
    rng = stream(seed, "noisy")
    z = 1.2 * (2.0 * torch.randint(2, (n, 1), generator=rng) - 1) + 0.1 * torch.randn(n, 1, generator=rng)
    x = z + 0.5 * torch.randn(n, 1, generator=rng)
    return MemoryPosteriors(x / 1.25, torch.full_like(x, math.sqrt(0.25 / 1.25)))


def test_a_planted_mixture_is_sharper_than_by_the_posteriors() -> None:
    train, selection = noisy(2000, 0), noisy(500, 1)
    found = {
        o: MixtureSettings(components=2, objective=o).fit(task(train, selection=selection, rng=stream(0, "fit")))
        for o in ("posteriors", "evidence", "weights")
    }
    r = found["evidence"].distribution
    assert r.mean.flatten().sort().values.tolist() == pytest.approx([-1.2, 1.2], abs=0.1)
    assert float(r.scale_tril.amax()) < 0.35
    assert float(found["posteriors"].distribution.scale_tril.amin()) > 0.45
    assert torch.equal(found["weights"].distribution.scale_tril, found["posteriors"].distribution.scale_tril)
    gains = {o: Evidence(selection).best(f.distribution)[1].mean for o, f in found.items()}
    assert gains["evidence"] > gains["posteriors"] + 0.05
    assert gains["weights"] >= gains["posteriors"]
    trace = found["evidence"].trace
    assert max(trace["gain"]) == pytest.approx(gains["evidence"], abs=1e-5)
    assert trace["gain"][found["evidence"].chosen.settings["steps"]] == max(trace["gain"])


@FORMS
@pytest.mark.parametrize("scale", [1.0, 1.0 + 1e-9, 1.0 - 1e-9, 1.5])
def test_a_row_as_wide_as_the_prior_says_nothing(form: str, scale: float) -> None:
    p, r = posteriors(2), mixture(2, 3, form)
    mean = torch.cat([p.mean, torch.tensor([[7.0, -7.0]], dtype=torch.float64)])
    more = MemoryPosteriors(mean, torch.cat([p.scale, torch.full((1, 2), scale, dtype=torch.float64)]))
    assert float(log_ratio(more, r)[-1]) == pytest.approx(0.0, abs=1e-12)
    one = mixture(2, 1, form)
    before, after = step(p, one), step(more, one)
    assert after.evidence == pytest.approx(before.evidence * p.n / more.n)
    # it says that z is as it was thought to be: a row's weight goes to the component as it stands
    kept = (p.n * (covariances(before.following)[0]) + covariances(one)[0]) / more.n
    gap = (before.following.mean - one.mean)[0]
    kept = kept + p.n / more.n**2 * (gap[:, None] * gap)
    kept = torch.diag(kept.diagonal()) if form == "diagonal" else kept
    torch.testing.assert_close(covariances(after.following)[0], kept, rtol=1e-9, atol=1e-10)


@FORMS
def test_half_a_row_that_says_nothing_leaves_the_other_half(form: str) -> None:
    p = posteriors(2)
    blind = p.scale.clone()
    blind[:, 1] = 1.0
    r = mixture(2, 2, "diagonal")
    r = r if form == "diagonal" else Mixture(r.log_weight, r.mean, torch.diag_embed(r.scale_tril))
    r = Mixture(r.log_weight, torch.cat([r.mean[:, :1], 0 * r.mean[:, 1:]], 1), r.scale_tril)
    found = step(MemoryPosteriors(p.mean, blind), r).following
    assert torch.isfinite(found.mean).all()
    torch.testing.assert_close(found.mean[:, 1], r.mean[:, 1])
    torch.testing.assert_close(covariances(found)[:, 1, 1], covariances(r)[:, 1, 1])


@FORMS
@pytest.mark.parametrize("objective", ["evidence", "weights"])
def test_shards_do_not_matter(form: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, selection = posteriors(2, n=60), posteriors(2, n=60, seed=1)
    parts, r = sharded(whole, tmp_path / "p", 7), mixture(2, 3, form)

    def refitted(p: Posteriors) -> Mixture:
        return refit(objective, r, task(p, selection=selection, rng=stream(0))).mixture

    one = refitted(whole)
    monkeypatch.setattr("zprime.latent.deconvolution.NUMBERS", 30)
    for other in (refitted(parts), refitted(whole)):
        torch.testing.assert_close(other.mean, one.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other.scale_tril, one.scale_tril, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(other.log_weight, one.log_weight, rtol=1e-9, atol=1e-9)


def test_weights_alone_reach_their_maximum_and_never_fall() -> None:
    p, none = noisy(200, 0), torch.zeros(1, dtype=torch.float64)
    r = Mixture(none.expand(2) - math.log(2), torch.tensor([[-1.2], [1.0]]).double(), torch.full((2, 1), 0.3).double())
    ratio = [log_ratio(p, Mixture(none, r.mean[[j]], r.scale_tril[[j]])) for j in (0, 1)]
    share = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64)
    value = torch.logaddexp(ratio[0] + share.log()[:, None], ratio[1] + (1 - share).log()[:, None]).mean(1)
    found = refit("weights", r, task(p, rng=stream(0)), iterations=100)
    trace = found.trace["evidence"]
    assert min(b - a for a, b in zip(trace, trace[1:], strict=False)) > -1e-12
    assert trace[-1] == pytest.approx(float(value.max()), abs=1e-3)
    assert trace[-1] <= float(value.max()) + 1e-7
    assert torch.equal(found.mixture.mean, r.mean)


def test_nothing_is_kept_that_is_worse_on_the_selection_split() -> None:
    """Few rows and many components: the evidence of training rows rises at every step, the gain falls at once."""
    train, selection = noisy(20, 0), noisy(500, 1)
    r = mixture(1, 10, "diagonal")
    found = refit("evidence", r, task(train, selection=selection, rng=stream(0)), iterations=100)
    gains = found.trace["gain"]
    assert len(gains) <= found.steps + 11
    assert gains[found.steps] == max(gains)
    assert Evidence(selection).best(found.mixture)[1].mean == pytest.approx(max(gains), abs=1e-9)
    assert found.trace["evidence"][-1] > found.trace["evidence"][0]


@pytest.mark.parametrize("objective", ["evidence", "weights"])
def test_every_component_has_its_rows(objective: str) -> None:
    train, selection, r = noisy(100, 0), noisy(100, 1), mixture(1, 10, "diagonal")
    assert float(step(train, r).rows.min()) < 50.0
    found = refit(objective, r, task(train, selection=selection, rng=stream(0)), least_rows=50.0)
    # the gain of step 0, which the others are held against, is that of what is left of r
    assert found.trace["gain"][0] != pytest.approx(Evidence(selection).best(r)[1].mean, abs=1e-3)
    assert found.few == 10 - len(found.mixture.mean) > 0
    assert found.mixture.least_rows == pytest.approx(float(step(train, found.mixture).rows.min()))
    assert found.mixture.least_rows >= 50.0
    assert f"{found.few} components had too few rows" in found.told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "likelihood"}, "objective: expected posteriors, evidence or weights, got 'likelihood'"),
        ({"objective": "evidence", "codes": "means"}, "codes: expected 'posteriors' with objective 'evidence'"),
        ({"objective": "weights", "covariance": "low-rank"}, "got low-rank"),
        ({"objective": "evidence", "rank": 2}, "got low-rank"),
    ],
)
def test_settings_that_do_not_go_together(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        MixtureSettings(components=2, **change).check()


def test_posteriors_and_priors_of_another_form_are_refused() -> None:
    p = posteriors(2)
    full = MemoryPosteriors(p.mean, torch.diag_embed(p.scale))
    points = MemoryPosteriors(p.mean, None)
    parts = MemoryPosteriors(p.mean, p.scale, row_ids=torch.arange(p.n) // 2)
    settings = MixtureSettings(components=2, objective="evidence")
    for other, got in ((full, "full covariances"), (points, "draws or codes"), (parts, "several components a datum")):
        with pytest.raises(UsageError, match=f"mixture with objective 'evidence'.*got .*{got}"):
            settings.fit(task(other, rng=stream(0)))
    with pytest.raises(UsageError, match=r"known for the prior N\(0, I\) only"):
        settings.fit(task(p, prior=mixture(2, 2, "full"), rng=stream(0)))


def test_the_default_is_in_no_key_and_no_record() -> None:
    """Fits of earlier versions keep their keys, alone and as the base of another kind."""
    other = MixtureSettings(objective="evidence")
    assert "objective" not in fields(MixtureSettings())
    assert "objective" not in described(MixtureSettings())
    assert fields(other)["objective"] == described(other)["objective"] == "evidence"
    inside = fields(ConditionalSettings(base=MixtureSettings()))["base"]
    assert "objective" not in inside
    assert fields(ConditionalSettings(base=other))["base"]["objective"] == "evidence"


def test_the_fit_says_how_far_it_went() -> None:
    found = fit("mixture", noisy(500, 0), selection=noisy(200, 1))
    assert "evidence" not in found.outcome.message
    settings = MixtureSettings(objective="evidence", covariance="diagonal")
    found = fit(settings, noisy(500, 0), selection=noisy(200, 1))
    assert "steps to the evidence" in found.outcome.message
    assert found.chosen.settings["components"] == len(found.distribution.mean)
    assert [point.setting for point in found.curve][:2] == ["components", "components"]

"""EM on the posteriors themselves, against loops that anyone can read, and against what it must never do."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from oracles import grid
from tasks import task
from zoo import fitted, posteriors, weighted
from zprime.errors import UsageError
from zprime.kernels import compiled, expectation
from zprime.latent import GaussianSettings, Mixture, MixtureSettings
from zprime.latent.em import ComponentEM, State
from zprime.latent.kind import Fit
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

BOTH = pytest.mark.parametrize("covariance", ["full", "diagonal"])


def fit(p: MemoryPosteriors, k: int, *, seed: int = 0, **changes) -> Fit[Mixture]:
    return MixtureSettings(components=k, **{"polish": 0, "least_rows": 0.0, **changes}).fit(
        task(p, selection=p, context=None, rng=stream(seed, "fit"))
    )


def covariances(r: Mixture) -> Tensor:
    return torch.diag_embed(r.scale_tril.square()) if r.scale_tril.ndim == 2 else r.scale_tril @ r.scale_tril.mT


def clusters(n: int, k: int, d: int = 2, spread: float = 0.1) -> MemoryPosteriors:
    """n posteriors in k narrow clusters on a line, far apart."""
    rng = stream(0, "clusters", n, k)
    which = torch.arange(n) % k
    mean = 5.0 * which[:, None] + spread * torch.randn(n, d, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean, torch.full_like(mean, spread))


def loop_step(p: MemoryPosteriors, r: Mixture) -> tuple[Tensor, Tensor, Tensor, float]:
    """One EM step of docs/theory.md, section 6, datum by datum, in the latent space's own coordinates."""
    S = covariances(r)
    w = p.log_weights.exp()
    log_c = torch.empty(p.n, len(r.mean), dtype=torch.float64)
    for i in range(p.n):
        for k in range(len(r.mean)):
            trace = torch.trace(torch.linalg.solve(S[k], p.scale[i].square().diag()))
            log_c[i, k] = r.log_weight[k] + MultivariateNormal(r.mean[k], S[k]).log_prob(p.mean[i]) - 0.5 * trace
    bound = float(w @ torch.logsumexp(log_c, 1))
    c = w[:, None] * torch.softmax(log_c, 1)
    pi = c.sum(0)
    mean = torch.stack([sum(c[i, k] * p.mean[i] for i in range(p.n)) / pi[k] for k in range(len(pi))])
    cov = torch.stack(
        [
            sum(
                c[i, k] * (p.scale[i].square().diag() + torch.outer(p.mean[i] - mean[k], p.mean[i] - mean[k]))
                for i in range(p.n)
            )
            / pi[k]
            for k in range(len(pi))
        ]
    )
    return pi, mean, cov, bound


@BOTH
@pytest.mark.parametrize("p", [posteriors(3), weighted(3, torch.float64)], ids=["equal weights", "weights"])
def test_one_step_equals_a_loop_over_rows_and_components(p: MemoryPosteriors, covariance: str) -> None:
    em = ComponentEM(p, diagonal=covariance == "diagonal")
    state = em.start(4, rng=stream(0, "start"))
    for _ in range(3):
        pi, mean, cov, bound = loop_step(p, Mixture(*em.finish(state)))
        state, found = em.step(state)
        r = Mixture(*em.finish(state))
        assert found == pytest.approx(bound, abs=1e-10)
        torch.testing.assert_close(r.log_weight.exp(), pi, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(r.mean, mean, rtol=1e-9, atol=1e-10)
        expected = torch.diag_embed(cov.diagonal(dim1=1, dim2=2)) if covariance == "diagonal" else cov
        torch.testing.assert_close(covariances(r), expected, rtol=1e-8, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    share=st.floats(0, 1),
    d=st.integers(1, 6),
    exponent=st.floats(-4, 2),
    seed=st.integers(0, 10**6),
    oddity=st.sampled_from(["none", "duplicates", "collapsed dimension", "outlier"]),
    diagonal=st.booleans(),
)
@example(n=35, share=0.9, d=5, exponent=-3.6, seed=0, oddity="duplicates", diagonal=True)
@example(n=1, share=1.0, d=1, exponent=2, seed=0, oddity="none", diagonal=False)
def test_the_bound_never_falls(
    *, n: int, share: float, d: int, exponent: float, seed: int, oddity: str, diagonal: bool
) -> None:
    rng = stream(seed, "bound")
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    if oddity == "duplicates":
        mean = mean[torch.randint(n, (n,), generator=rng)]
    elif oddity == "collapsed dimension":
        mean[:, 0] = 0
    elif oddity == "outlier":
        mean[0] *= 30
    scale = 10**exponent * (0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64)).exp()
    em = ComponentEM(MemoryPosteriors(mean, scale), diagonal=diagonal)
    state = em.start(max(1, round(share * n)), rng=rng)
    trace = []
    for _ in range(12):
        state, bound = em.step(state)
        trace.append(bound)
    assert torch.isfinite(Mixture(*em.finish(state)).log_prob(mean)).all()
    falls = [a - b for a, b in zip(trace, trace[1:], strict=False)]
    # rounding: squares in units of the smallest variance, summed in float64
    assert max(falls) <= 1e-10 + 1e-14 * float((em.mean.square().amax() + 1) / em.variance.min())


@BOTH
def test_the_bound_is_below_what_it_bounds(covariance: str) -> None:
    """E_qbar[log r] by quadrature."""
    p = posteriors(2)
    found = fit(p, 3, covariance=covariance, tolerance=0.0, iterations=60)
    z, area = grid()
    exact = float((p.log_prob(z).exp() * found.distribution.log_prob(z)).sum()) * area
    trace = found.trace["bound"]
    assert trace[-1] <= exact + 1e-9
    assert exact - trace[-1] < 0.2
    assert trace[-1] > trace[0]


@BOTH
def test_one_component_is_the_moment_match(covariance: str) -> None:
    p = weighted(4, torch.float64)
    r, moments = fit(p, 1, covariance=covariance).distribution, fitted(GaussianSettings(covariance), p)
    torch.testing.assert_close(r.mean[0], moments.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(r.scale_tril[0], moments.scale_tril, rtol=1e-10, atol=1e-10)


@BOTH
def test_as_many_components_as_rows_lose_nothing_where_rows_are_far_apart(covariance: str) -> None:
    p = clusters(6, 6)
    r = fit(p, 6, covariance=covariance).distribution
    order = r.mean[:, 0].argsort()
    torch.testing.assert_close(r.mean[order], p.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(covariances(r)[order], torch.diag_embed(p.scale.square()), rtol=1e-5, atol=1e-8)
    z = p.sample(500, rng=stream(0))
    torch.testing.assert_close(r.log_prob(z), p.log_prob(z), rtol=0, atol=1e-4)


@BOTH
@pytest.mark.parametrize("rows", [1, 7, 8192])
def test_blocks_of_rows_do_not_matter(covariance: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = posteriors(3, n=60)
    monkeypatch.setattr(compiled, "module", None)
    whole = fit(p, 4, covariance=covariance)
    monkeypatch.setattr(expectation, "ROWS", rows)
    pieces = fit(p, 4, covariance=covariance)
    torch.testing.assert_close(pieces.distribution.scale_tril, whole.distribution.scale_tril, rtol=1e-8, atol=1e-9)
    assert pieces.trace["bound"] == pytest.approx(whole.trace["bound"], abs=1e-9)


@BOTH
def test_units_of_the_latent_space_do_not_matter(covariance: str) -> None:
    """The fit to a z + b is the fit to z, carried along: data are whitened before any square is expanded."""
    p = posteriors(3, n=60)
    a, b = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64), torch.tensor([5.0, -2.0, 1e4], dtype=torch.float64)
    here, there = (fit(q, 4, covariance=covariance) for q in (p, MemoryPosteriors(a * p.mean + b, a * p.scale)))
    torch.testing.assert_close(there.distribution.mean, a * here.distribution.mean + b, rtol=1e-8, atol=1e-8)
    jacobian = float(a.log().sum())
    assert there.trace["bound"] == pytest.approx([x - jacobian for x in here.trace["bound"]], abs=1e-8)


def test_fitted_twice_it_is_the_same_and_the_generator_has_not_moved() -> None:
    p, rng = posteriors(3), stream(0, "fit")
    before = rng.get_state()
    a, b = (MixtureSettings(3).fit(task(p, selection=p, rng=rng)).distribution for _ in range(2))
    assert torch.equal(rng.get_state(), before)
    for name, tensor in a.tensors().items():
        assert torch.equal(tensor, b.tensors()[name])


def test_rows_of_weight_zero_and_duplicated_rows_count_as_their_weight() -> None:
    """One step from the same state: weights (2, 1, 0) and rows (1, 1, 2) are the same data."""
    p = posteriors(2, n=3)
    w = MemoryPosteriors(p.mean, p.scale, weights=torch.tensor([2 / 3, 1 / 3, 0], dtype=torch.float64))
    r = p.take(torch.tensor([0, 0, 1]))
    steps = []
    for q in (w, r):
        em = ComponentEM(q, diagonal=False)
        eye = torch.eye(2, dtype=torch.float64)
        state = State(
            torch.tensor([0.5, 0.5], dtype=torch.float64).log(),
            torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64),
            torch.stack([eye, eye]),
        )
        new, bound = em.step(state)
        steps.append((Mixture(*em.finish(new)), bound))
    assert steps[0][1] == pytest.approx(steps[1][1], abs=1e-12)
    for name, tensor in steps[0][0].tensors().items():
        torch.testing.assert_close(tensor, steps[1][0].tensors()[name], rtol=1e-10, atol=1e-10)


def test_zero_chooses_the_number_of_clusters_on_the_selection_split() -> None:
    found = MixtureSettings().fit(task(clusters(300, 5), selection=clusters(150, 5), rng=stream(0)))
    assert found.chosen.settings["components"] == 5
    assert len(found.distribution.mean) == 5
    up_to_a_fifth_of_the_rows = (2, 5, 10, 20, 50)
    assert [(p.setting, p.value) for p in found.curve] == [("components", k) for k in up_to_a_fifth_of_the_rows]
    best = max(found.curve, key=lambda p: p.gain)
    five = found.curve[1]
    assert best.gain - five.gain < 0.05
    assert five.gain - found.curve[0].gain > 0.5
    assert five.bytes == found.distribution.bytes
    assert all(p.stderr > 0 and p.epsilon in (0.0, 0.01, 0.05, 0.1) for p in found.curve)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_zero_on_few_rows_is_one_component(n: int) -> None:
    found = fit(posteriors(2, n=n), 0)
    assert found.chosen.settings["components"] == 1
    assert math.isfinite(found.curve[0].gain)


@BOTH
@pytest.mark.parametrize("exponent", [-4, 0, 2])
def test_identical_posteriors_are_reduced_to_themselves(covariance: str, exponent: int) -> None:
    mean = torch.full((30, 3), 2.0, dtype=torch.float64)
    p = MemoryPosteriors(mean, torch.full_like(mean, 10.0**exponent))
    r = fit(p, 5, covariance=covariance).distribution
    z = p.sample(50, rng=stream(0))
    torch.testing.assert_close(r.log_prob(z), p.log_prob(z), rtol=0, atol=1e-6)


def test_float32_posteriors_give_a_float32_mixture_close_to_the_exact_one() -> None:
    p = posteriors(3, torch.float32, n=100)
    r, exact = fit(p, 3).distribution, fit(MemoryPosteriors(p.mean.double(), p.scale.double()), 3).distribution
    assert {t.dtype for t in r.tensors().values()} == {torch.float32}
    z = p.sample(50, rng=stream(0)).double()
    torch.testing.assert_close(r.log_prob(z), exact.log_prob(z), rtol=0, atol=1e-5)


def test_outcomes_are_sentences_and_their_numbers_are_right() -> None:
    p = posteriors(3, n=60)
    found = fit(p, 4, iterations=3)
    rise = found.trace["bound"][2] - found.trace["bound"][1]
    assert (found.outcome.ok, found.outcome.message) == (
        False,
        f"the bound still rose by {rise:.1e} nats after 3 steps: usually harmless; raise iterations",
    )
    assert not fit(p, 4, iterations=1).outcome.ok
    good = fit(p, 4, iterations=500, tolerance=1e-4)
    assert (good.outcome.ok, good.outcome.message) == (True, f"converged in {len(good.trace['bound'])} steps")
    assert good.trace["bound"][-1] - good.trace["bound"][-2] < 1e-4 <= good.trace["bound"][-2] - good.trace["bound"][-3]


def test_components_left_without_data_are_dropped_and_counted() -> None:
    em = ComponentEM(clusters(30, 3), diagonal=True)
    state = em.start(3, rng=stream(0))
    far = State(
        torch.full((4,), -math.log(4), dtype=torch.float64),
        torch.cat([state.mean, torch.full((1, 2), 1e3, dtype=torch.float64)]),
        torch.cat([state.covariance, state.covariance[:1] * 1e-4]),
    )
    new, _ = em.step(far)
    assert len(new.mean) == 3
    assert float(new.log_weight.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_settings_that_cannot_be_used_are_refused() -> None:
    p = posteriors(2, n=7)
    with pytest.raises(UsageError, match=r"components: expected 1 to 7 \(the number of posteriors\), .* got 8"):
        fit(p, 8)
    with pytest.raises(UsageError, match="components: expected 1 or more, or 0 to choose, got -1"):
        fit(p, -1)
    with pytest.raises(UsageError, match="covariance: expected auto, full, diagonal or low-rank, got 'tied'"):
        fit(p, 2, covariance="tied")
    with pytest.raises(UsageError, match="iterations: expected at least 1, got 0"):
        fit(p, 2, iterations=0)


def test_restarts_keep_the_best_bound_and_escape_a_poor_start() -> None:
    p = clusters(240, 8)
    one = {s: fit(p, 8, seed=s, restarts=1).trace["bound"][-1] for s in range(6)}
    worst = min(one, key=lambda s: one[s])
    assert one[worst] < max(one.values()) - 0.05  # a start that put two centres into one cluster
    many = fit(p, 8, seed=worst, restarts=8)
    bounds = many.chosen.settings["bounds"]
    assert bounds[0] == one[worst]
    assert many.trace["bound"][-1] == max(bounds) > one[worst] + 0.05


def test_restarts_follow_the_choice_of_components() -> None:
    p = clusters(300, 5)
    found = fit(p, 0, restarts=3)
    assert len(found.chosen.settings["bounds"]) == 3
    assert found.chosen.settings["components"] == 5
    assert {p.value for p in found.curve} > {2, 5, 10}

"""Mixtures of factor analysers fitted to posteriors: the bound, its special cases, and what they recover."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from tasks import task
from zprime.components import Diagonal, Full
from zprime.errors import UsageError
from zprime.kernels import low_rank_torch
from zprime.latent import Gaussian, GaussianSettings, Mixture, MixtureSettings, load
from zprime.latent.em import State
from zprime.latent.factor_em import FactorEM
from zprime.latent.factors import RowsAndNoise, improved
from zprime.latent.sizes import ranks
from zprime.low_rank import LowRank
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def planted(n: int, d: int = 12, seed: int = 0) -> tuple[MemoryPosteriors, LowRank]:
    """Posteriors whose means come from two components with two factors each, and what their codes come from."""
    rng = stream(7, "planted")
    load = 1.2 * torch.randn(2, d, 2, generator=rng, dtype=torch.float64)
    centre = torch.randn(2, d, generator=rng, dtype=torch.float64)
    truth = LowRank(torch.tensor([0.6, 0.4], dtype=torch.float64).log(), centre, torch.full((2, d), 0.4).double(), load)
    mean = truth.sample(n, rng=stream(seed, "means"))
    scale = torch.full_like(mean, 0.3)
    codes = LowRank(truth.log_weight, centre, torch.full((2, d), 0.5).double(), load)
    return MemoryPosteriors(mean, scale, row_ids=torch.arange(n) + 10**6 * seed), codes


def mixed(p: MemoryPosteriors, k: int, rank: int, **changes: object) -> Mixture:
    wanted = {"least_rows": 0.0, "restarts": 1, "polish": 0, **changes}
    return MixtureSettings(k, "low-rank", rank=rank, **wanted).fit(task(p, rng=stream(0, "fit"))).distribution


def covariances(r: Mixture | Gaussian) -> Tensor:
    if r.factor is None:
        return r.scale_tril @ r.scale_tril.mT
    return torch.diag_embed(r.scale_tril.square()) + r.factor @ r.factor.mT


def bound(p: MemoryPosteriors, r: Mixture) -> float:
    """Datum by datum with dense covariances: docs/theory.md, section 6."""
    covariance = covariances(r)
    terms = torch.empty(p.n, len(r.mean), dtype=torch.float64)
    for k, c in enumerate(covariance):
        trace = p.scale.double().square() @ torch.linalg.inv(c).diagonal()
        terms[:, k] = r.log_weight[k] + MultivariateNormal(r.mean[k], c).log_prob(p.mean.double()) - 0.5 * trace
    return float(p.log_weights.exp() @ torch.logsumexp(terms, 1))


def finished(em: FactorEM, state: State) -> Mixture:
    return Mixture(*em.finish(state), factor=state.factor * em.unit[:, None])


def test_the_bound_of_a_step_is_that_by_dense_covariances() -> None:
    p, _ = planted(60, 6)
    em = FactorEM(p, 2)
    state = em.start(3, rng=stream(0))
    for _ in range(3):
        new, found = em.step(state)
        assert found == pytest.approx(bound(p, finished(em, state)), abs=1e-9)
        state = new


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    share=st.floats(0, 1),
    d=st.integers(1, 6),
    rank=st.integers(1, 6),
    exponent=st.floats(-3, 1),
    seed=st.integers(0, 10**6),
    oddity=st.sampled_from(["none", "duplicates", "collapsed dimension", "outlier"]),
    spread=st.booleans(),
)
@example(n=4, share=0.0, d=6, rank=2, exponent=0.0, seed=2, oddity="duplicates", spread=False)
def test_the_bound_never_falls(
    *, n: int, share: float, d: int, rank: int, exponent: float, seed: int, oddity: str, spread: bool
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
    em = FactorEM(MemoryPosteriors(mean, scale), min(rank, d), spread=spread)
    state = em.start(max(1, round(share * n)), rng=rng)
    trace = []
    for _ in range(12):
        state, found = em.step(state)
        trace.append(found)
    assert torch.isfinite(finished(em, state).log_prob(mean)).all()
    falls = [a - b for a, b in zip(trace, trace[1:], strict=False)]
    # rounding: squares in units of the smallest variance
    size = float((em.mean.square().amax() + 1) / max(em.noise.min(), em.floor))
    assert max(falls) <= 1e-9 + 1e-13 * size


def test_steps_from_given_factors_do_not_lower_the_objective() -> None:
    """Also where they are those of another covariance, as they are after responsibilities have changed."""
    rng = stream(0, "scatter")
    scatter = RowsAndNoise(torch.randn(9, 5, generator=rng).double(), torch.full((5,), 0.1).double())
    begin = (torch.randn(5, 2, generator=rng).double(), torch.rand(5, generator=rng).double() + 0.01)
    factor, var, trace = improved(scatter, begin, floor=torch.full((5,), 1e-9).double(), iterations=30)
    assert all(b >= a - 1e-12 for a, b in zip(trace, trace[1:], strict=False))
    c = factor @ factor.T + torch.diag(var)
    exact = -0.5 * float(torch.logdet(c) + torch.linalg.solve(c, scatter.dense()).trace())
    assert trace[-1] == pytest.approx(exact)


def test_one_component_is_the_gaussian_of_low_rank() -> None:
    p, _ = planted(200)
    r = mixed(p, 1, 2, tolerance=1e-8, iterations=400)
    one = GaussianSettings("low-rank", rank=2).fit(task(p, rng=stream(0))).distribution
    torch.testing.assert_close(r.mean[0], one.mean)
    torch.testing.assert_close(covariances(r)[0], covariances(one), rtol=0, atol=1e-2)
    z = p.mean[:20]
    torch.testing.assert_close(r.log_prob(z), one.log_prob(z), rtol=0, atol=1e-2)


def test_with_nearly_all_factors_it_serves_as_full_covariances_do() -> None:
    p, _ = planted(400, 4)
    full = MixtureSettings(2, "full", polish=0, restarts=1, tolerance=1e-6).fit(task(p, rng=stream(0, "fit")))
    r = mixed(p, 2, 3, tolerance=1e-6)
    assert bound(p, r) == pytest.approx(full.trace["bound"][-1], abs=0.02)
    assert bound(p, r) <= full.trace["bound"][-1] + 1e-3  # full covariances hold those of low rank


def test_a_planted_mixture_is_recovered() -> None:
    p, truth = planted(1500)
    fresh, _ = planted(1000, seed=1)
    z = fresh.draw(rng=stream(0, "z"))
    r = mixed(p, 2, 2)
    assert float((truth.log_prob(z) - r.log_prob(z)).mean()) < 0.05
    # which one Gaussian of as many factors, and diagonal components, do not
    for other in (
        mixed(p, 1, 4),
        MixtureSettings(2, "diagonal", polish=0).fit(task(p, rng=stream(0))).distribution,
    ):
        assert float((truth.log_prob(z) - other.log_prob(z)).mean()) > 0.2
    order = r.log_weight.argsort(descending=True)
    torch.testing.assert_close(r.log_weight[order].exp(), truth.log_weight.exp(), rtol=0, atol=0.05)


def test_components_and_factors_are_chosen_on_the_selection_split() -> None:
    p, _ = planted(150)
    fresh, _ = planted(100, seed=1)
    wanted = {"covariance": "low-rank", "restarts": 1, "iterations": 30, "least_rows": 0.0}
    found = MixtureSettings(**wanted).fit(task(p, selection=fresh, rng=stream(0, "fit")))
    assert found.chosen.settings["components"] == 2
    assert found.chosen.settings["rank"] == 2
    assert found.distribution.label == "mixture(2, rank 2)"
    assert [(point.setting, point.value) for point in found.curve] == [("components", 2), ("components", 5)]
    by_rank = MixtureSettings(2, **wanted).fit(task(p, selection=fresh, rng=stream(0, "fit"))).curve
    assert [point.value for point in by_rank] == [1, 2, 4, 8]
    assert all(point.setting == "rank" for point in by_rank)


def test_there_are_five_rows_for_every_factor_and_mean() -> None:
    p, _ = planted(100)
    assert ranks(p, 2) == [1, 2, 4, 8]  # 2 x (1 + 8) <= 20
    assert ranks(p, 4) == [1, 2, 4]
    assert ranks(p, 50) == [1]
    assert ranks(planted(1000, 3)[0], 2) == [1, 2]


def test_what_cannot_be_is_refused() -> None:
    p, _ = planted(20, 4)
    for wrong, said in (
        ({"covariance": "full", "rank": 2}, "rank: expected 0 with covariance 'full', got 2"),
        ({"covariance": "low-rank", "method": "merge"}, "low-rank is fitted by EM from k-means"),
        ({"covariance": "low-rank", "batch": 8}, "batch 8"),
        ({"covariance": "low-rank", "rank": -1}, "rank: expected at least 0, got -1"),
        ({"covariance": "low-rank", "rank": 5}, "rank: expected 1 to 4 "),
    ):
        with pytest.raises(UsageError, match=said):
            MixtureSettings(2, **wrong).fit(task(p, rng=stream(0)))


def test_it_is_saved_and_read_again(tmp_path) -> None:
    p, _ = planted(60)
    r = mixed(p, 2, 3)
    r.save(tmp_path / "r")
    again = load(tmp_path / "r")
    assert isinstance(again, Mixture)
    assert torch.equal(again.factor, r.factor)
    torch.testing.assert_close(again.log_prob(p.mean), r.log_prob(p.mean))


def test_auto_takes_what_serves_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 512 dimensions (here 8): factors where there are some, diagonals where there are none."""
    monkeypatch.setattr("zprime.latent.mixture.FULL", 8)
    wanted = MixtureSettings(2, restarts=1)
    some, _ = planted(300)
    none = MemoryPosteriors(torch.randn(300, 12, generator=stream(0), dtype=torch.float64), some.scale)
    for p, form, said in ((some, LowRank, "2 factors and a diagonal"), (none, Diagonal, "diagonal covariances")):
        train, selection = p.take(torch.arange(200)), p.take(torch.arange(200, 300))
        found = wanted.fit(task(train, selection=selection, rng=stream(0)))
        assert isinstance(found.distribution.components, form)
        assert said in found.outcome.message
        assert found.outcome.message.startswith("12 dimensions are many: ")
    monkeypatch.setattr("zprime.latent.mixture.FULL", 12)
    assert isinstance(wanted.fit(task(some, rng=stream(0))).distribution.components, Full)


@pytest.mark.parametrize("apart", [0.0, 1e6])
def test_expanded_squares_are_taken_where_nothing_cancels(apart: float) -> None:
    """A mixture in one sum of matrix products, and component by component, is the dense one."""
    rng = stream(3, "mixture")
    mean = torch.randn(3, 5, generator=rng, dtype=torch.float64) + apart * torch.arange(3.0)[:, None].double()
    scale, factor = torch.full((3, 5), 0.1).double(), torch.randn(3, 5, 2, generator=rng, dtype=torch.float64)
    weight = torch.full((3,), -math.log(3)).double()
    low = LowRank(weight, mean, scale, factor)
    in_torch = low_rank_torch.Blocks(low.prepared.factors)
    assert in_torch.near == (apart == 0)
    tril = torch.linalg.cholesky(torch.diag_embed(scale.square()) + factor @ factor.mT)
    z = torch.cat([mean + 0.1, mean + 0.3])
    for value in (low.value(z), in_torch.evaluate(z, terms=False, score=False)[1]):
        torch.testing.assert_close(value, Full(weight, mean, tril).value(z), rtol=1e-9, atol=1e-7)

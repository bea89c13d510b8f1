"""How many rows stand behind every stored component: counted in every fit, kept above a limit, and said."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from oracles import grid
from tasks import task
from test_mixture import covariances
from zoo import posteriors, weighted
from zprime import fitting
from zprime.auditing import audit
from zprime.errors import UsageError
from zprime.latent import (
    AggregatedSettings,
    BarycentreSettings,
    Conditional,
    ConditionalSettings,
    Defensive,
    ExemplarsSettings,
    GaussianSettings,
    LogPoolSettings,
    Mixture,
    MixtureSettings,
    Prior,
    ProductOfExpertsSettings,
    Vamp,
)
from zprime.latent.em import ComponentEM
from zprime.latent.kind import Fit, Settings
from zprime.latent.merge import Gaussians, merge
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings, load
from zprime.results.kept import kept
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.vae import VAE, VAESettings


def codes(n: int, d: int = 2, scale: float = 0.05, seed: int = 0) -> MemoryPosteriors:
    """N(0, I) codes with narrow posteriors."""
    mean = torch.randn(n, d, generator=stream(seed, "codes", n, d), dtype=torch.float64)
    return MemoryPosteriors(mean, torch.full_like(mean, scale))


def fit(settings: Settings, p: MemoryPosteriors) -> Fit:
    return settings.fit(task(p, selection=p, rng=stream(0, "fit")))


def labelled() -> MemoryPosteriors:
    """Label 0 has 40 rows, label 1 one, label 2 nine."""
    p = codes(50)
    return MemoryPosteriors(p.mean, p.scale, labels=torch.tensor([0] * 40 + [1] + [2] * 9))


@pytest.mark.parametrize("p", [posteriors(3), weighted(3, torch.float64)], ids=["equal weights", "weights"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_count_is_kish_s_over_rows_and_components_in_a_loop(p: MemoryPosteriors, diagonal: bool) -> None:  # noqa: FBT001
    em = ComponentEM(p, diagonal=diagonal)
    state = em.start(4, rng=stream(0, "start"))
    for _ in range(3):
        state, _ = em.step(state)
    r = Mixture(*em.finish(state))
    S, w = covariances(r), p.log_weights.exp()
    share = torch.zeros(p.n, 4, dtype=torch.float64)
    for i in range(p.n):
        for k in range(4):
            trace = torch.trace(torch.linalg.solve(S[k], p.scale[i].square().diag()))
            share[i, k] = r.log_weight[k] + MultivariateNormal(r.mean[k], S[k]).log_prob(p.mean[i]) - 0.5 * trace
        share[i] = w[i] * torch.softmax(share[i], 0)
    torch.testing.assert_close(em.rows(state), share.sum(0).square() / share.square().sum(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (GaussianSettings(), 24),
        (GaussianSettings("low-rank", rank=1), 24),
        (BarycentreSettings(), 24),
        (AggregatedSettings(), 1),
        (ExemplarsSettings(bandwidth=0.4), 1),
        (MixtureSettings(components=1), 24),
    ],
    ids=lambda v: getattr(v, "kind", None),
)
def test_what_every_kind_says_of_24_rows(settings: Settings, expected: float) -> None:
    r = fit(settings, posteriors(2)).distribution
    assert r.least_rows == pytest.approx(expected)
    assert r.holds_rows == (expected < 2)
    assert Defensive(r, 0.1).least_rows == r.least_rows
    rows = Vamp(torch.zeros(1), torch.zeros(1, r.d), torch.ones(1, r.d), learned=False)
    assert Defensive(r, 0.1, rows).least_rows == 1  # its share of a prior that stores rows
    assert Defensive(rows, 0.1, r).holds_rows


def test_weights_and_precisions_count() -> None:
    p = weighted(2, torch.float64)
    assert p.weights is not None
    effective = 1 / float(p.weights.square().sum())
    assert fit(GaussianSettings(), p).distribution.least_rows == pytest.approx(effective)
    one = MemoryPosteriors(torch.zeros(40, 2), torch.full((40, 2), 0.5))
    one.scale[0] = 1e-3  # by precision, this row is the pool and the product
    for settings in (LogPoolSettings(), ProductOfExpertsSettings()):
        r = fit(settings, one).distribution
        assert r.least_rows == pytest.approx(1, abs=0.01)
        assert r.holds_rows
    alone = fit(ProductOfExpertsSettings(group=(3,)), posteriors(2)).distribution
    assert alone.holds_rows


def test_two_hundred_components_of_1197_rows_do_not_stand_for_single_rows() -> None:
    p = codes(1197, d=6)
    every = fit(MixtureSettings(components=200, restarts=1, polish=0, least_rows=0.0), p)
    assert len(every.distribution.mean) == 200
    assert every.distribution.least_rows < 2
    assert every.distribution.holds_rows
    found = fit(MixtureSettings(components=200, restarts=1), p)
    assert found.distribution.least_rows >= 10
    assert not found.distribution.holds_rows
    gone = 200 - len(found.distribution.mean)
    assert 0 < gone < 190
    assert f"; {gone} of 200 components had fewer than 10 rows and were left out (least_rows)" in found.outcome.message
    assert float(found.distribution.log_weight.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("changes", [{}, {"batch": 20}, {"start": "merge"}, {"codes": "means"}, {"polish": 10}])
def test_as_many_components_as_rows_are_thinned_to_ten_rows_each(changes: dict[str, object]) -> None:
    p = codes(60)
    settings = MixtureSettings(components=60, restarts=1, **{"polish": 0, **changes})
    r = fit(settings, p).distribution
    assert r.least_rows >= 10
    assert len(r.mean) > 1 or changes not in ({}, {"batch": 20})
    z, area = grid()
    assert float(r.log_prob(z).exp().sum()) * area == pytest.approx(1, abs=1e-3)
    single = fit(replace(settings, least_rows=0.0), p).distribution
    assert single.holds_rows or "batch" in changes


def test_the_bound_after_dropping_is_one_run_of_em_and_a_bound() -> None:
    p = codes(80, scale=0.3)
    found = fit(MixtureSettings(components=40, restarts=1, polish=0, tolerance=0.0, iterations=60), p)
    assert len(found.distribution.mean) < 40
    trace = found.trace["bound"]
    assert all(b >= a - 1e-10 for a, b in zip(trace, trace[1:], strict=False))
    z, area = grid()
    exact = float((p.log_prob(z).exp() * found.distribution.log_prob(z)).sum()) * area
    assert trace[-1] <= exact + 1e-9


def test_zero_switches_it_off_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    p = codes(300, scale=0.3)
    free = fit(MixtureSettings(components=3, least_rows=0.0), p)
    kept_all = fit(MixtureSettings(components=3), p)
    assert kept_all.distribution.least_rows > 10
    for name, tensor in free.distribution.tensors().items():
        assert torch.equal(tensor, kept_all.distribution.tensors()[name])

    def thinned(*_: object) -> None:
        raise AssertionError("dropping was switched off")

    monkeypatch.setattr(ComponentEM, "thinned", thinned)
    few = fit(MixtureSettings(components=100, least_rows=0.0), p)
    assert few.distribution.least_rows < 10
    assert "least_rows" not in few.outcome.message


def test_merging_counts_its_clusters_and_goes_on_until_they_are_large_enough() -> None:
    p = codes(40)
    data = Gaussians(p.log_weights.exp(), p.mean, p.scale.square())
    every = merge(data, 40, diagonal=False, rng=stream(0))
    torch.testing.assert_close(every.rows, torch.ones(40).double())
    assert every.bound == pytest.approx(0, abs=1e-9)
    seven = merge(data, 7, diagonal=False, rng=stream(0))
    assert float(seven.rows.sum()) == pytest.approx(40)  # equal weights: the sizes of a partition
    torch.testing.assert_close(seven.rows, (40 * seven.weight))
    large = merge(data, 40, diagonal=False, rng=stream(0), least=10.0)
    assert float(large.rows.min()) >= 10 - 1e-9
    assert 1 < len(large.rows) <= 4
    assert float(large.rows.sum()) == pytest.approx(40)
    torch.testing.assert_close(large.weight @ large.mean, p.mean.mean(0))  # merging keeps the mean
    assert large.bound > seven.bound
    one = merge(data, 40, diagonal=False, rng=stream(0), least=41.0)
    assert len(one.rows) == 1


def test_merge_of_as_many_as_there_are_rows_owns_up_to_them() -> None:
    p = codes(60)
    settings = MixtureSettings(components=60, method="merge", polish=0)
    oracle = fit(replace(settings, least_rows=0.0), p).distribution
    assert oracle.least_rows == pytest.approx(1)
    assert oracle.holds_rows
    z = p.draw(rng=stream(0))
    torch.testing.assert_close(oracle.log_prob(z), p.log_prob(z), rtol=0, atol=1e-6)
    found = fit(settings, p)
    assert found.distribution.least_rows >= 10 - 1e-9
    assert "of 60 components had fewer than 10 rows" in found.outcome.message


def test_a_label_with_one_row_is_left_out_and_named() -> None:
    p = labelled()
    found = fit(ConditionalSettings(GaussianSettings()), p)
    r = found.distribution
    assert isinstance(r, Conditional)
    assert r.labels == (0,)
    assert float(r.log_weight.exp().sum()) == pytest.approx(1)
    assert r.least_rows == 40
    assert "2 of 3 labels had fewer than 10 rows and were left out (least_rows)" in found.outcome.message
    assert found.chosen.settings["left out"] == [1, 2]
    with pytest.raises(UsageError, match="label: expected one of 0, got 1; labels with few rows are left out"):
        r.given(1)
    z, area = grid()
    assert float(r.log_prob(z).exp().sum()) * area == pytest.approx(1, abs=1e-6)


def test_kept_by_wish_a_label_with_one_row_is_owned_up_to() -> None:
    r = fit(ConditionalSettings(GaussianSettings(), least_rows=0.0), labelled()).distribution
    assert r.labels == (0, 1, 2)
    assert r.least_rows == 1
    assert r.holds_rows
    torch.testing.assert_close(r.given(1).mean, labelled().mean[40])  # it is that row


def test_a_base_that_stores_rows_keeps_every_label() -> None:
    r = fit(ConditionalSettings(AggregatedSettings()), labelled()).distribution
    assert r.labels == (0, 1, 2)
    assert r.holds_rows


def test_where_no_label_has_enough_rows_the_prior_is_returned() -> None:
    p = labelled().take(torch.arange(36, 50))
    found = fit(ConditionalSettings(GaussianSettings()), p)
    assert isinstance(found.distribution, Prior)
    assert not found.outcome.ok
    assert found.outcome.message.startswith("3 of 3 labels had fewer than 10 rows and were left out (least_rows)")


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_limit_that_cannot_be_used_is_refused(value: float) -> None:
    for settings in (MixtureSettings(2, least_rows=value), ConditionalSettings(least_rows=value)):
        with pytest.raises(UsageError, match="least_rows: expected a number of rows, or 0 to keep all components, got"):
            fit(settings, labelled())


def test_the_count_outlives_saving_and_is_in_the_audit(tmp_path) -> None:
    p = {name: codes(60, seed=i) for i, name in enumerate(("train", "selection", "heldout"))}
    settings = MixtureSettings(components=4, restarts=1)
    found = fitting.fit(settings, p["train"], selection=p["selection"])
    least = found.distribution.least_rows
    assert least >= 10
    fitting.save_fit(found, settings, tmp_path / "fit", key="", seed=0, inputs={})
    back = fitting.load_fit(tmp_path / "fit")
    assert back.distribution.least_rows == least
    measured = audit({"mixture": back, "aggregated": fit(AggregatedSettings(), p["train"])}, p, settings=SMALL)
    measured.save(tmp_path / "audit")
    again = load(tmp_path / "audit")
    assert again.entry("mixture").least_rows == least
    assert again.entry("mixture").kept == f"every stored component stands for at least {math.floor(least)} rows"
    assert again.entry("aggregated").least_rows == 1
    assert again.entry("prior").least_rows is None


SMALL = AuditSettings(rows=20, draws=0, map=10)


def test_sentences() -> None:
    assert kept(None, stored=0) == "nothing is stored"
    assert kept(None, stored=8).startswith("no rows were counted")
    assert kept(1.99, stored=8) == "functions of single training rows are stored"
    assert kept(2.0, stored=8) == "every stored component stands for at least 2 rows"
    assert kept(55_000.0, stored=8) == "every stored component stands for at least 55,000 rows"


def test_a_shipped_mixture_says_how_many_rows_stand_behind_it() -> None:
    p = codes(60)
    vae = VAE.build((3,), VAESettings(latents=2, hidden=(4,)))
    for least_rows, said in ((10.0, "every stored component stands for"), (0.0, "Anyone who has this model")):
        r = fit(MixtureSettings(60, restarts=1, polish=0, least_rows=least_rows), p).distribution
        assert said in GenerativeModel(r, vae, torch.zeros(3), torch.ones(3)).says()

"""Covariances of a few factors and a diagonal: as the dense ones, without a d x d matrix."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from studies import study
from tasks import task
from zprime import fit, memory
from zprime.components import Diagonal, Full
from zprime.latent import GaussianSettings, MixtureSettings
from zprime.latent.factors import DENSE, Matrix, RowsAndNoise, Variances, factor_analysis
from zprime.latent.gaussian import FULL, Gaussian, gaussian_of, marginal_moments, moments, scatter_of
from zprime.low_rank import LowRank
from zprime.measure.latents.averages import averages
from zprime.measure.latents.hole import gaussian_bound
from zprime.measure.latents.surgery import surgery
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def pair(seed: int, k: int = 3, d: int = 6, r: int = 2) -> tuple[LowRank, Full]:
    """The same mixture in either form."""
    rng = stream(seed, "pair")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weight, mean, scale, factor = (
        normal(k).log_softmax(0),
        normal(k, d),
        (0.3 * normal(k, d)).exp(),
        0.6 * normal(k, d, r),
    )
    tril = torch.linalg.cholesky(torch.diag_embed(scale.square()) + factor @ factor.mT)
    return LowRank(weight, mean, scale, factor), Full(weight, mean, tril)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), d=st.integers(1, 8), r=st.integers(1, 4))
def test_density_score_and_tilt_are_those_of_the_dense_form(seed: int, k: int, d: int, r: int) -> None:
    low, full = pair(seed, k, d, r)
    z = 2 * torch.randn(20, d, generator=stream(seed, "z"), dtype=torch.float64)
    torch.testing.assert_close(low.value(z), full.value(z), rtol=1e-8, atol=1e-8)
    for a, b in zip(low.value_and_score(z), full.value_and_score(z), strict=True):
        torch.testing.assert_close(a, b.double(), rtol=1e-6, atol=1e-6)
    mean = torch.randn(15, d, generator=stream(seed, "mean"), dtype=torch.float64)
    scale = 0.1 + 1.4 * torch.rand(15, d, generator=stream(seed, "scale"), dtype=torch.float64)
    ours, theirs = (x.tilt(mean, scale, draws=0, rng=stream(0)).log_ratio for x in (low, full))
    near = ours.isfinite() & theirs.isfinite() & (ours.abs() < 1e4)  # next to the divergence both are large
    torch.testing.assert_close(ours[near], theirs[near], rtol=1e-6, atol=1e-6)
    assert int((ours.isinf() != theirs.isinf()).sum()) == 0


def test_draws_of_the_tilt_and_of_the_mixture_have_the_moments_of_the_dense_form() -> None:
    low, full = pair(0)
    mean = torch.randn(4, 6, generator=stream(0, "mean"), dtype=torch.float64)
    scale = torch.full_like(mean, 0.6)
    a, b = (x.tilt(mean, scale, draws=20_000, rng=stream(1, "d")).draws for x in (low, full))
    torch.testing.assert_close(a.mean(1), b.mean(1), rtol=0, atol=0.03)
    for i in range(4):
        torch.testing.assert_close(torch.cov(a[i].T), torch.cov(b[i].T), rtol=0, atol=0.03)
    x, y = (r.sample(100_000, rng=stream(2, "s")) for r in (low, full))
    torch.testing.assert_close(x.mean(0), y.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(x.T), torch.cov(y.T), rtol=0, atol=0.06)


def test_where_q_is_too_wide_the_integral_diverges() -> None:
    low, full = pair(0)
    mean, wide = torch.zeros(2, 6).double(), torch.full((2, 6), 3.0).double()
    for r in (low, full):
        found = r.tilt(mean, wide, draws=2, rng=stream(0))
        assert bool((found.log_ratio == math.inf).all())
        assert bool(found.draws.isnan().all())


def test_gradients_are_those_of_the_score() -> None:
    low, _ = pair(0)
    z = torch.randn(5, 6, generator=stream(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(low.log_prob, z)


def posteriors(n: int, d: int, seed: int = 0) -> MemoryPosteriors:
    """Codes with two common factors."""
    rng = stream(seed, "codes")
    load = torch.randn(2, d, generator=stream(0, "load"), dtype=torch.float64)
    mean = 1 + torch.randn(n, 2, generator=rng, dtype=torch.float64) @ load
    mean += 0.3 * torch.randn(n, d, generator=rng, dtype=torch.float64)
    scale = 0.2 + 0.2 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean, scale, row_ids=torch.arange(n) + 10**6 * seed)


@pytest.mark.parametrize(("n", "form"), [(12, RowsAndNoise), (80, Matrix)])
def test_a_scatter_is_the_covariance_by_its_products(n: int, form: type) -> None:
    p = posteriors(n, 20)
    mean, scatter = scatter_of(p)
    assert isinstance(scatter, form)
    want, covariance = moments(p)
    torch.testing.assert_close(mean, want)
    torch.testing.assert_close(scatter.dense(), covariance)
    torch.testing.assert_close(scatter.diagonal, covariance.diagonal())
    columns = torch.randn(20, 3, generator=stream(0), dtype=torch.float64)
    torch.testing.assert_close(scatter.times(columns), covariance @ columns)
    for a, b in zip(marginal_moments(p), (want, covariance.diagonal()), strict=True):
        torch.testing.assert_close(a, b)
    # determinant and inverse
    torch.testing.assert_close(scatter.log_det, torch.logdet(covariance))
    torch.testing.assert_close(scatter.trace, covariance.trace())
    inverse = torch.linalg.inv(covariance)
    torch.testing.assert_close(scatter.precisions, inverse.diagonal())
    torch.testing.assert_close(scatter.form(columns.T), ((columns.T @ inverse) * columns.T).sum(1))
    match = gaussian_of(mean, scatter, what="the match")
    z = p.mean[:5]
    torch.testing.assert_close(match.log_prob(z), MultivariateNormal(mean, covariance).log_prob(z))


def test_a_diagonal_covariance_is_as_its_matrix() -> None:
    variance = 0.1 + torch.rand(7, generator=stream(0), dtype=torch.float64)
    rows = torch.randn(4, 7, generator=stream(1), dtype=torch.float64)
    one, matrix = Variances(variance), Matrix(torch.diag(variance))
    for name in ("diagonal", "trace", "log_det", "precisions"):
        torch.testing.assert_close(getattr(one, name), getattr(matrix, name))
    torch.testing.assert_close(one.dense(), matrix.dense())
    for f in (lambda s: s.form(rows), lambda s: s.times(rows.T)):
        torch.testing.assert_close(f(one), f(matrix))
    z = rows[:2]
    a, b = (gaussian_of(rows[3], s, what="it").log_prob(z) for s in (one, matrix))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("prior", [None, Gaussian(torch.zeros(20), torch.full((20,), 1.5))])
def test_measures_of_many_dimensions_are_those_by_matrices(
    prior: Gaussian | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Surgery, hole and averages, with the moments as a matrix and as rows, and with diagonals as vectors."""
    p = {s: posteriors(15, 20, i) for i, s in enumerate(("train", "heldout"))}
    found = []
    for dense in (DENSE, 10):
        for module in ("zprime.measure.study", "zprime.measure.latents.averages"):
            monkeypatch.setattr(f"{module}.DENSE", dense)
        made = study(p) if prior is None else replace(study(p), prior=prior)
        assert isinstance(made.train.match[1], Matrix if dense == DENSE else RowsAndNoise)
        cut = surgery(made.train, rng=stream(0, "surgery"), prior=prior)
        bound = gaussian_bound(made.train, made.heldout, seed=0, prior=prior)
        members = averages(made, cut).members
        numbers = [cut.gaussian_part.value, bound.value]
        for m in members.values():
            reverse = math.nan if m.reverse is None else m.reverse.value
            numbers += [m.forward.value, m.heldout.value, reverse, m.width, m.offset]
            if prior is None:
                numbers.append(m.to_prior.value)
        found.append(torch.tensor(numbers, dtype=torch.float64))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("n", [60, 1500])
def test_the_start_by_subspace_iteration_serves_as_well_as_that_by_all_eigenvectors(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scatter = scatter_of(posteriors(n, 200))
    found = []
    for dense in (DENSE, 10):
        monkeypatch.setattr("zprime.latent.factors.DENSE", dense)
        factor, var, trace = factor_analysis(scatter, 2, iterations=500, tolerance=1e-9)
        assert all(b >= a - 1e-7 for a, b in zip(trace, trace[1:], strict=False))
        found.append((factor @ factor.T + torch.diag(var), trace[-1]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=2e-3)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_kinds_choose_a_form_that_fits_the_dimensions_and_say_so() -> None:
    few = {s: posteriors(40, 30, i) for i, s in enumerate(("train", "selection"))}
    many = {s: posteriors(40, FULL + 1, i) for i, s in enumerate(("train", "selection"))}
    small, large = (fit("gaussian", p["train"], selection=p["selection"], seed=0) for p in (few, many))
    assert small.distribution.factor is None
    assert isinstance(small.distribution.components, Full)
    assert small.outcome.message == "exact, in closed form"
    r = large.distribution
    assert isinstance(r, Gaussian)
    assert isinstance(r.components, LowRank)
    assert r.factor.shape[1] == 2  # as many as there are
    assert large.outcome.message.startswith("1,025 dimensions are many: a covariance of 2 factors and a diagonal; ")
    assert fit(GaussianSettings("full"), many["train"], selection=many["selection"]).distribution.factor is None
    small, large = (
        fit(MixtureSettings(2, least_rows=0.0), p["train"], selection=p["selection"], seed=0) for p in (few, many)
    )
    assert isinstance(small.distribution.components, Full)
    assert isinstance(large.distribution.components, LowRank)
    assert large.outcome.message.startswith("1,025 dimensions are many: covariances of 2 factors and a diagonal; ")


def test_kinds_choose_a_form_that_fits_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    p = {s: posteriors(40, 30, i) for i, s in enumerate(("train", "selection"))}
    monkeypatch.setattr(memory, "available", lambda: 20_000)
    for settings_, form in ((GaussianSettings(), LowRank), (MixtureSettings(2, least_rows=0.0), Diagonal)):
        found = settings_.fit(task(p["train"], selection=p["selection"], rng=stream(0)))
        assert isinstance(found.distribution.components, form)


@pytest.mark.parametrize(
    "wanted",
    [
        GaussianSettings("diagonal"),
        GaussianSettings("low-rank", rank=2),
        MixtureSettings(2, "diagonal", polish=0, least_rows=0.0),
        MixtureSettings(2, "low-rank", rank=2, least_rows=0.0),
    ],
)
def test_no_matrix_of_all_dimensions_is_made_where_none_is_asked_for(wanted: object) -> None:
    """A d x d matrix of 20,000 dimensions would take 3.2 GB: an address space without it is enough."""
    import resource

    p = posteriors(10, 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + 1_500_000_000, hard))
    try:
        r = fit(wanted, p, selection=p, keep_duplicates=True).distribution
        assert r.log_prob(p.mean[:3]).isfinite().all()
        tilted = r.tilt(p.mean[:3], p.scale[:3], draws=1, rng=stream(0))
        assert tilted.log_ratio.isfinite().all()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_gaussian_of_low_rank_is_that_of_torch() -> None:
    low, _ = pair(3, k=1)
    r = Gaussian(low.mean[0], low.scale[0], low.factor[0])
    dense = MultivariateNormal(low.mean[0], torch.diag(low.scale[0].square()) + low.factor[0] @ low.factor[0].T)
    z = torch.randn(9, 6, generator=stream(0), dtype=torch.float64)
    torch.testing.assert_close(r.log_prob(z), dense.log_prob(z))

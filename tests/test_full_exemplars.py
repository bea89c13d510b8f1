"""exemplars of posteriors with full covariances, and of several components a datum."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import zprime
from tasks import task
from test_full_averages import as_full, diagonal, posteriors
from zprime import latent
from zprime.arrays import covariances
from zprime.components import Diagonal, Full
from zprime.errors import UsageError
from zprime.latent import exemplar_mixture
from zprime.latent.exemplars import Exemplars, ExemplarsSettings
from zprime.latent.gaussian import moments
from zprime.latent.smoothed import Smoothed
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

D = 3
kernels = pytest.mark.parametrize("covariance", ["full", "diagonal"])


def fit(p: MemoryPosteriors, selection: MemoryPosteriors | None = None, **settings):
    return ExemplarsSettings(**settings).fit(task(p, selection=selection or p, rng=stream(0, "fit")))


def dense(r: Exemplars) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of all components, from the definition."""
    h, n = r.bandwidth, len(r.mean)
    kernel = r.tril @ r.tril.T if r.tril.ndim == 2 else torch.diag(r.tril.square())
    weights = torch.full((n,), 1 / n, dtype=torch.float64) if r.weights is None else r.weights
    inner = (1 - h**2) * covariances(r.mean, r.scale) + h**2 * kernel
    return weights, math.sqrt(1 - h**2) * (r.mean - r.centre) + r.centre, inner


def brute(weights: Tensor, mean: Tensor, covariance: Tensor, z: Tensor) -> Tensor:
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(mean, covariance)).log_prob(z)


def points(m: int) -> Tensor:
    return 2 * torch.randn(m, D, generator=stream(0, "points", m), dtype=torch.float64)


@kernels
@pytest.mark.parametrize("h", [0.0, 0.05, 0.4, 1.0])
def test_the_density_is_the_brute_force_mixture_with_the_moments_of_all(
    h: float, covariance: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    p = posteriors(14)
    monkeypatch.setattr(exemplar_mixture, "FLOATS", 4 * D**2)
    r = fit(p, bandwidth=h, covariance=covariance).distribution
    z = points(30)
    torch.testing.assert_close(r.log_prob(z), brute(*dense(r), z), rtol=0, atol=1e-9)
    if h == 0:
        assert bool((r.log_prob(z) == p.log_prob(z)).all())
    weights, mean, inner = dense(r)
    m, target = moments(p)
    gap = mean - m
    if covariance == "diagonal":  # correlations shrink by a^2
        target = target * (1 - h**2) + torch.diag(target.diagonal()) * h**2
    found = torch.einsum("n,nij->ij", weights, inner + gap[:, :, None] * gap[:, None])
    torch.testing.assert_close(found, target, rtol=0, atol=1e-12)
    r.save(tmp_path / "r")
    again = latent.load(tmp_path / "r")
    assert bool((again.log_prob(z) == r.log_prob(z)).all())


@kernels
@pytest.mark.parametrize("method", ["selection", "leave-one-out"])
def test_diagonal_posteriors_written_as_full_ones_give_the_same_fit(covariance: str, method: str) -> None:
    p, chosen = diagonal(40), diagonal(30)
    one = fit(p, chosen, covariance=covariance, method=method)
    other = fit(as_full(p), as_full(chosen), covariance=covariance, method=method)
    assert other.chosen == one.chosen
    for a, b in zip(one.curve, other.curve, strict=True):
        assert b.gain == pytest.approx(a.gain, abs=1e-8)
    z = points(30)
    torch.testing.assert_close(other.distribution.log_prob(z), one.distribution.log_prob(z), rtol=0, atol=1e-9)


def several() -> MemoryPosteriors:
    """Data of one, two and three parts, in no order, with weights."""
    ids = torch.tensor([7, 3, 5, 3, 5, 9, 5, 1, 9, 7, 2, 2])
    p = diagonal()
    return MemoryPosteriors(p.mean, p.scale, row_ids=ids, weights=p.weights)


@kernels
@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_all_components_of_a_datum_are_left_out_together(form: str, covariance: str) -> None:
    p = several()
    q = as_full(p) if form == "full" else p
    r = fit(q, bandwidth=0.3, covariance=covariance).distribution
    kind = Full if form == "full" else Smoothed if covariance == "full" else Diagonal
    assert isinstance(r.components, kind)
    weights, mean, inner = dense(r)
    datum = p.datum
    assert datum is not None
    z, out = points(8), torch.tensor([0, 1, 2, 3, 4, 5, -1, 17])  # the last is no exemplar's datum
    found = r.log_prob_without(z, out, datum)
    for i, left in enumerate(out.tolist()):
        kept = datum != left
        want = brute(weights[kept] / weights[kept].sum(), mean[kept], inner[kept], z[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], want, rtol=0, atol=1e-9)
    alone = r.log_prob_without(z[:1], torch.zeros(1, dtype=torch.long), torch.zeros(12, dtype=torch.long))
    assert float(alone) == -math.inf  # one datum is all there is


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_a_twin_of_a_row_in_the_same_datum_does_not_choose_the_bandwidth(form: str) -> None:
    """Narrow posteriors, each written as two equal components: under its twin every code looks well explained."""
    mean = torch.randn(150, D, generator=stream(0, "narrow"), dtype=torch.float64)
    p = MemoryPosteriors(mean, torch.full_like(mean, 0.03))
    p = as_full(p) if form == "full" else p
    shape = (2, *[1] * (p.scale.ndim - 1))
    twins = MemoryPosteriors(p.mean.repeat(2, 1), p.scale.repeat(shape), row_ids=p.row_ids.repeat(2))
    one, two = (fit(q, method="leave-one-out").distribution.bandwidth for q in (p, twins))
    assert one >= 0.3
    assert two >= 0.3
    strangers = MemoryPosteriors(twins.mean, twins.scale)
    assert fit(strangers, method="leave-one-out").distribution.bandwidth == 0.05


def test_a_random_subset_keeps_data_whole() -> None:
    p = several()
    datum = p.datum
    assert datum is not None
    r = fit(p, bandwidth=0.3, rows=3).distribution
    kept = (p.mean[:, None] == r.mean).all(2).any(1)
    assert len(datum[kept].unique()) == 3
    assert all(bool(kept[datum == k].all()) for k in datum[kept].unique())
    torch.testing.assert_close(r.weights, p.log_weights.exp()[kept] / p.log_weights.exp()[kept].sum())
    assert len(fit(p, bandwidth=0.3, rows=6).distribution.mean) == 12
    with pytest.raises(UsageError, match=r"rows: expected 1 to 6 \(the number of data\)"):
        fit(p, bandwidth=0.3, rows=7)
    assert len(fit(p, bandwidth=0.3, rows=5, subset="kmedoids").distribution.mean) <= 5


def test_what_is_not_known_is_refused_by_name() -> None:
    for p, got in ((posteriors(), "Gaussians with full covariances"), (several(), "several components a datum")):
        with pytest.raises(UsageError, match=f"subset: npmle takes .* got {got}; take random or kmedoids"):
            fit(p, subset="npmle")
    points = MemoryPosteriors(diagonal().mean, None)
    with pytest.raises(UsageError, match="kind exemplars: takes .* these posteriors are draws or codes"):
        zprime.fit("exemplars", points, selection=points, keep_duplicates=True)


def test_the_closed_form_is_offered_up_to_a_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    p = posteriors(14)
    r = fit(p, bandwidth=0.3).distribution
    assert r.tilt(p.mean, p.scale, draws=0, rng=stream(0)) is not None
    monkeypatch.setattr(exemplar_mixture, "CLOSED_FORM", 13)
    assert r.tilt(p.mean, p.scale, draws=0, rng=stream(0)) is None


def test_draws_of_tilted_full_posteriors_are_those_of_the_explicit_mixture() -> None:
    """Exemplars of diagonal posteriors beside a datum whose posterior has a full covariance."""
    p = diagonal()
    r = fit(p, bandwidth=0.4, covariance="full").distribution
    weights, mean, inner = dense(r)
    q = posteriors(6)
    explicit = Full(weights.log(), mean, torch.linalg.cholesky(inner))
    want, found = (c.tilt(q.mean, q.scale, draws=3, rng=stream(3)) for c in (explicit, r))
    torch.testing.assert_close(found.log_ratio, want.log_ratio, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.draws, want.draws, rtol=0, atol=1e-8)

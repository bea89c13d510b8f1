"""Fidelity: against the formulas and packages of others, planted faults, and what each measure cannot see."""

import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from samples import clumps, junk, mixed, prdc
from zprime.errors import ArrayError, NumericalError
from zprime.measure.samples.fidelity import fidelity
from zprime.measure.samples.frechet import Roots, _FewRows, _Moments, _statistic, frechet, frechet_replicates
from zprime.measure.samples.labels import label_coverage
from zprime.measure.samples.manifold import NAMES, manifold_replicates
from zprime.measure.samples.sliced import directions, sliced_replicates
from zprime.measure.samples.tstr import hits
from zprime.results.samples import Fidelity
from zprime.rng import stream
from zprime.statistics.estimate import Estimate
from zprime.statistics.logistic import Axes, fit_logistic, predict_logistic

N = 300


def measured(fake: torch.Tensor, seed: int = 0) -> Fidelity:
    return fidelity(clumps(len(fake), 1000 + seed), fake, split="heldout").fidelity


GOOD = measured(clumps(N, 1))


def worse(bad: Estimate, good: Estimate) -> bool:
    """Whether the intervals part."""
    return bad.high < good.low


# -- formulas of others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 3, 12])
def test_frechet_is_the_textbook_formula(features: int) -> None:
    a, b = clumps(80, 0, features=12)[:, :features], 1.3 * clumps(90, 1, features=12)[:, :features] + 0.2
    mean, mean2 = a.mean(0).numpy(), b.mean(0).numpy()
    cov, cov2 = (np.atleast_2d(np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    root = np.atleast_2d(scipy.linalg.sqrtm(cov @ cov2)).real
    truth = float(((mean - mean2) ** 2).sum() + np.trace(cov + cov2 - 2 * root))
    assert frechet(a, b) == pytest.approx(truth, rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_of_known_gaussians_and_of_singular_covariances() -> None:
    x = clumps(500, 2)
    shift = torch.tensor([3.0, 0, 4, 0, 0, 0], dtype=torch.float64)
    assert frechet(x, x + shift) == pytest.approx(25, rel=1e-9)
    assert frechet(x, 2 * x) == pytest.approx(float(x.mean(0).square().sum() + torch.cov(x.T).trace()), rel=1e-9)
    flat = torch.cat([x, torch.zeros(500, 2, dtype=torch.float64), x[:, :1]], 1)  # dead and repeated features
    assert frechet(flat, flat + 1) == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_are_their_authors(k: int) -> None:
    real, fake = clumps(60, 3), mixed(clumps(60, 4, modes=2), junk(60, 4), 0.2, 0)
    found = manifold_replicates(real, fake, k=k)
    assert found.whole.tolist() == pytest.approx(prdc(real, fake, k), abs=1e-12)


def test_the_prdc_package_says_the_same() -> None:
    package = pytest.importorskip("prdc")
    real, fake = clumps(200, 5), clumps(200, 6, blur=0.7)
    theirs = package.compute_prdc(real.numpy(), fake.numpy(), 5)
    mine = dict(zip(NAMES, manifold_replicates(real, fake).whole.tolist(), strict=True))
    assert mine == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-12)


def test_scikit_learn_finds_the_same_radii() -> None:
    real, fake = clumps(120, 7), clumps(120, 8)
    radius = NearestNeighbors(n_neighbors=6).fit(real.numpy()).kneighbors(real.numpy())[0][:, 5]
    far = NearestNeighbors(n_neighbors=1).fit(fake.numpy()).kneighbors(real.numpy())[0][:, 0]
    assert float(manifold_replicates(real, fake).whole[NAMES.index("coverage")]) == pytest.approx(np.mean(far < radius))


def test_sliced_wasserstein_is_pots() -> None:
    a, b = clumps(150, 9), clumps(150, 10, modes=3)
    theirs = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=directions(6).numpy(), p=2)
    assert float(sliced_replicates(a, b).whole) == pytest.approx(float(theirs), rel=1e-10)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_scikit_learns(classes: int) -> None:
    x = clumps(200, 11)
    y = (x[:, 0] > 3).long() + (2 * (x[:, 1] > 3).long() if classes == 4 else 0)
    weight = fit_logistic(x, y, classes, ridge=0.01)
    # of two classes theirs has one weight vector, the difference of ours: |w|^2 / 2 is its penalty in ours
    ridge = 0.01 if classes > 2 else 0.005
    theirs = LogisticRegression(C=1 / (200 * ridge), tol=1e-12, max_iter=5000).fit(x.numpy(), y.numpy())
    their = x.numpy() @ theirs.coef_.T + theirs.intercept_
    scores = (x @ weight[:-1] + weight[-1]).numpy()
    mine = scores - scores.mean(1, keepdims=True) if classes > 2 else scores[:, 1:] - scores[:, :1]
    np.testing.assert_allclose(mine, their - their.mean(1, keepdims=True) if classes > 2 else their, atol=1e-5)
    np.testing.assert_allclose(weight.sum(1), 0, atol=1e-12)
    assert bool((predict_logistic(weight, x) == torch.from_numpy(theirs.predict(x.numpy()))).all())


def test_logistic_regression_is_at_its_optimum_with_many_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(150, 300, generator=rng, dtype=torch.float64), torch.randint(10, (150,), generator=rng)
    weight = fit_logistic(x, y, 10).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight[:-1] + weight[-1], y) + 0.005 * weight[:-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().max()) < 1e-9


def test_logistic_regression_says_that_it_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.statistics.logistic.STEPS", 1)
    with pytest.raises(NumericalError, match=r"no convergence in 1 Newton steps \(200 rows, 6 features\)"):
        fit_logistic(clumps(200, 11), torch.arange(200) % 2, 2)


# -- planted faults: who sees them, and who does not ---------------------------------------------------------------


@pytest.mark.parametrize(("share", "n"), [(0.05, 1500), (0.25, N), (0.6, N), (0.99, N)])
def test_junk_is_seen_by_precision_at_its_share(share: float, n: int) -> None:
    good, found = measured(clumps(n, 1)), measured(mixed(clumps(n, 1), junk(n, 2), share, 0))
    assert worse(found.precision, good.precision)
    assert found.precision.value == pytest.approx((1 - share) * good.precision.value, abs=0.02)
    assert found.density.value < good.density.value
    assert found.frechet.low > good.frechet.high
    assert share < 0.5 or found.told_apart.p_value < 1e-6


def test_one_in_a_hundred_of_junk_is_seen_by_frechet() -> None:
    found = measured(mixed(clumps(N, 2), junk(N, 2), 0.01, 0))
    assert found.frechet.low > GOOD.frechet.high  # three rows of 300
    assert not worse(found.precision, GOOD.precision)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.5, 0.9, 0.99])
def test_frechet_and_sliced_see_junk_at_every_share(share: float) -> None:
    found = measured(mixed(clumps(N, 2), junk(N, 2), share, 0))
    assert found.frechet.low > GOOD.frechet.high
    assert found.sliced.value > GOOD.sliced.high


def test_recall_and_coverage_hardly_see_junk() -> None:
    found = measured(mixed(clumps(N, 2), junk(N, 2), 0.25, 0))
    assert found.coverage.value > GOOD.coverage.value - 0.06
    assert found.recall.value > GOOD.recall.value - 0.03


def test_a_dropped_mode_is_seen_by_recall_and_coverage_and_not_by_precision() -> None:
    found = measured(clumps(N, 3, modes=3))
    assert worse(found.coverage, GOOD.coverage)
    assert worse(found.recall, GOOD.recall)
    assert found.coverage.value == pytest.approx(0.75 * GOOD.coverage.value, abs=0.06)
    assert found.precision.value > GOOD.precision.value - 0.03
    assert found.frechet.low > GOOD.frechet.high


def test_a_blur_is_seen_by_recall_and_taken_for_quality_by_precision() -> None:
    found = measured(clumps(N, 4, blur=0.4))
    assert worse(found.recall, GOOD.recall)
    assert found.precision.value >= GOOD.precision.value
    assert found.density.value > GOOD.density.value
    assert found.frechet.low > GOOD.frechet.high
    assert found.told_apart.p_value < 1e-3


def test_copies_are_seen_by_none_of_them() -> None:
    train = clumps(N, 5)
    rng = torch.Generator().manual_seed(0)
    copies = train[torch.randint(N, (N,), generator=rng)] + 1e-3
    found = measured(copies)
    assert found.precision.value > GOOD.precision.value - 0.05
    assert found.coverage.value > GOOD.coverage.value - 0.15  # draws with replacement leave a third of the rows out
    assert not worse(GOOD.frechet, found.frechet)
    assert found.told_apart.p_value > 0.01


def test_frechet_is_blind_to_shape() -> None:
    real = clumps(2000, 6)
    mean, root = real.mean(0), torch.linalg.cholesky(torch.cov(real.T))
    gaussian = mean + torch.randn(2000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ root.T
    found = fidelity(clumps(2000, 7), gaussian, split="heldout").fidelity
    assert found.frechet.value < 0.2
    assert found.precision.high < 0.9
    assert found.told_apart.p_value < 1e-3  # clumps against one Gaussian with their moments


# -- labels and students -----------------------------------------------------------------------------------------------


def test_shares_of_labels_and_a_missing_one() -> None:
    classes = torch.tensor([0, 1, 2])
    real = torch.arange(300) % 3
    even = label_coverage(real, real.flip(0), classes, split="heldout", seed=0)
    assert even.variation.value == pytest.approx(0)
    assert even.missing == []
    lost = label_coverage(real, torch.arange(300) % 2, classes, split="heldout", seed=0)
    assert lost.missing == ["2"]
    assert lost.variation.value == pytest.approx(1 / 3)
    assert lost.proportions["0"].value == 0.5
    assert lost.expected["0"] == pytest.approx(1 / 3)


def test_a_student_learns_what_it_is_shown() -> None:
    x, truth = clumps(400, 8), clumps(400, 9)
    label = lambda v: (v[:, 0] > 3).long() * 2 + 5  # noqa: E731
    right = hits(x, label(x), {"heldout": (truth, label(truth))})["heldout"]
    assert float(right.double().mean()) > 0.97
    one = hits(x, torch.full((400,), 5), {"heldout": (truth, label(truth))})["heldout"]
    assert bool((one == (label(truth) == 5)).all())  # one label only: it is always predicted


# -- refusals, and what must not matter --------------------------------------------------------------------------------


def test_refusals(unchecked: None) -> None:
    with pytest.raises(ArrayError, match=r"expected as many generated as real rows, .* got \[100, 6\] and \[99, 6\]"):
        fidelity(clumps(99, 0), clumps(100, 1), split="heldout")
    with pytest.raises(ArrayError, match="expected at least 40 rows, got 39"):
        fidelity(clumps(39, 0), clumps(39, 1), split="heldout")


def test_units_and_sizes_stand_with_the_numbers() -> None:
    for e in (GOOD.frechet, GOOD.precision, GOOD.recall, GOOD.density, GOOD.coverage, GOOD.sliced):
        assert (e.n, e.split, e.seed) == (N, "heldout", 0)
        assert e.low <= e.value <= e.high
        assert e.stderr is not None
        assert math.isfinite(e.stderr)


def test_numbers_do_not_change_from_call_to_call_nor_with_a_shift() -> None:
    real, fake = clumps(100, 0), clumps(100, 1)
    once, again = (fidelity(real, fake, split="heldout") for _ in range(2))
    assert once.fidelity == again.fidelity
    moved = fidelity(real + 1e4, fake + 1e4, split="heldout").fidelity
    assert moved.frechet.value == pytest.approx(once.fidelity.frechet.value, rel=1e-5)
    assert moved.precision.value == pytest.approx(once.fidelity.precision.value)


def test_many_features_leave_pairs_out() -> None:
    x = torch.randn(60, 140, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = frechet_replicates(x, x.flip(0) + 0.1)
    assert len(found.double) == 0
    assert len(found.single) == 10
    assert bool((found.stderr() > 0).all())


def test_frechet_of_fewer_rows_than_features_is_the_same_by_smaller_matrices() -> None:
    rng = torch.Generator().manual_seed(3)
    real, fake = (torch.randn(30, 50, generator=rng) * scale for scale in (1.0, 1.5))
    short, long = (kind(real, fake, 10)(~torch.eye(10, dtype=torch.bool)) for kind in (_FewRows, _Moments))
    torch.testing.assert_close(short, long, rtol=1e-6, atol=0)
    assert isinstance(_statistic(real, fake, 1), _FewRows)
    assert isinstance(_statistic(real[:, :20], fake[:, :20], 1), _Moments)


def test_axes_of_other_rows_of_the_kind_lead_to_the_same_optimum() -> None:
    rng = stream(0, "axes")
    x, other = (torch.randn(200, 6, generator=rng) * torch.tensor([9.0, 3, 1, 1, 0.3, 0.1]) for _ in range(2))
    y = (x[:, 0] + 3 * torch.randn(200, generator=rng) > 0).long() + (x[:, 1] > 2).long()
    axes = Axes.of(other + 5, 3)
    assert axes.whole
    assert not Axes.of(other[:4], 3).whole
    own, like = fit_logistic(x, y, 3), fit_logistic(x, y, 3, like=axes)
    torch.testing.assert_close(like, own, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("limit", [0, 1 << 22])
def test_what_is_kept_of_real_rows_changes_no_comparison(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.samples.frechet.KEPT", limit)
    real, first, second = (clumps(90, seed) for seed in range(3))
    kept = Roots()
    for fake in (first, second, first):
        own, again = frechet_replicates(real, fake), frechet_replicates(real, fake, kept=kept)
        assert all(torch.equal(a, b) for a, b in zip(vars(own).values(), vars(again).values(), strict=True))
    assert bool(kept._of) is bool(limit)

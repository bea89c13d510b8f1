"""Two-sample tests: against scikit-learn, scipy, closed forms; nominal under equality, powerful on what is planted."""

import math

import pytest
import torch
from scipy.stats import binomtest, kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from zprime.errors import UsageError
from zprime.rng import stream
from zprime.statistics.c2st import Features, binomial_p, c2st
from zprime.statistics.logistic import fit_logistic
from zprime.statistics.mmd import WIDE, gaussian_kernel, mmd, unbiased


def normal(n: int, d: int, *names: str | int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=stream(0, *names), dtype=torch.float64) + shift


def ring(n: int, *names: str | int) -> Tensor:
    """Mean 0 and covariance I, as N(0, I) has, and hardly a point about 0."""
    z = normal(n, 2, *names)
    return z / z.norm(dim=1, keepdim=True) * math.sqrt(2) + 0.05 * normal(n, 2, "noise", *names)


@pytest.mark.parametrize("shift", [0.0, 0.5, 30.0])
def test_logistic_regression_is_scikit_learns(shift: float) -> None:
    x = torch.cat([normal(80, 2, "a"), normal(80, 2, "b", shift=shift)])
    y = (torch.arange(160) < 80).long()
    features = Features.of(x, stream(0, "features"))(x)
    both = fit_logistic(features, y, 2, ridge=0.02)  # half of it for the difference of the two, which theirs is
    ours = both[:, 1] - both[:, 0]
    # scikit-learn minimises C sum(loss) + |w|^2 / 2, and leaves its intercept free
    peer = LogisticRegression(C=1 / (0.01 * 160), solver="newton-cholesky", tol=1e-12).fit(features.numpy(), y.numpy())
    torch.testing.assert_close(ours[:-1], torch.from_numpy(peer.coef_[0]), rtol=0, atol=1e-6)
    assert float(ours[-1]) == pytest.approx(peer.intercept_[0], abs=1e-6)


def test_binomial_p_is_scipys() -> None:
    for hits, n in ((50, 100), (63, 100), (0, 10), (10, 10)):
        assert binomial_p(hits, n) == pytest.approx(binomtest(hits, n, alternative="greater").pvalue, abs=1e-12)


def test_features_have_three_widths_of_a_factor_of_two() -> None:
    """The random frequencies are normal with 1 / (width x median distance): 0.35, 0.7 and 1.4 of that distance."""
    x = normal(400, 5, "widths")
    frequency = Features.of(x, stream(0, "widths")).frequency
    typical = float(torch.pdist((x - x.mean(0)) / x.std(0)).median())
    widths = [1 / (float(part.std()) * typical) for part in frequency.split(100, dim=1)]
    assert widths == pytest.approx([0.35, 0.7, 1.4], rel=0.12)


def test_classifier_sees_a_hole_that_no_moment_shows() -> None:
    found = c2st(ring(300, "x"), normal(300, 2, "y"), split="heldout", seed=0)
    # the best classifier knows the radius: 1/2 + TV/2
    edges = torch.tensor([1.4142 - 0.15, 1.4142 + 0.15]).square()
    best = 1 - 0.5 * float((-edges[0] / 2).exp() - (-edges[1] / 2).exp())
    assert 0.8 < found.accuracy.value <= best + 0.03
    assert found.p_value < 1e-12
    same = c2st(ring(300, "x"), ring(300, "z"), split="heldout", seed=0)
    assert same.accuracy.low < 0.5 < same.accuracy.high
    assert same.p_value > 0.01


def test_accuracy_of_a_known_pair_of_normals() -> None:
    """The best possible accuracy for N(0, I) against N(2, I) in one of two dimensions is Phi(1)."""
    y = normal(4000, 2, "y")
    y[:, 0] += 2
    found = c2st(normal(4000, 2, "x"), y, split="heldout", seed=0)
    assert found.accuracy.n == 4000
    assert found.accuracy.value == pytest.approx(0.8413, abs=0.02)


def test_mmd_by_definition_and_by_scikit_learn() -> None:
    x, y = normal(12, 3, "x"), normal(12, 3, "y", shift=0.4)
    found = mmd(x, y, split="heldout", seed=0, permutations=9)
    pooled = torch.cat([x, y])
    assert found.bandwidth == pytest.approx(float(torch.pdist(pooled).sort().values[(24 * 23 // 2 - 1) // 2]))
    k = torch.from_numpy(rbf_kernel(pooled.numpy(), gamma=0.5 / found.bandwidth**2))
    torch.testing.assert_close(gaussian_kernel(pooled)[0], k - torch.eye(24).double(), rtol=0, atol=1e-12)

    def by_definition(a: list[int]) -> float:
        b = [i + 12 for i in a]
        n = len(a)
        within = sum(float(k[i, j]) for s in (a, b) for i in s for j in s if i != j) / (n * (n - 1))
        return within - 2 * sum(float(k[i, j]) for i in a for j in b) / n**2

    assert found.squared.value == pytest.approx(by_definition(list(range(12))), abs=1e-12)
    left = torch.tensor([by_definition([i for i in range(12) if i != out]) for out in range(12)])
    jackknife = float(((left - left.mean()).square().sum() * 11 / 12).sqrt())
    assert found.squared.stderr == pytest.approx(jackknife, rel=1e-4)


def test_in_many_dimensions_the_kernel_is_the_same_far_from_zero() -> None:
    """Distances by a matrix product, of points about their mean: else squares of 1e6 would be left of 1e12."""
    pooled = 1e6 + torch.randn(20, WIDE + 1, generator=stream(0, "wide"), dtype=torch.float64)
    square = (pooled[:, None] - pooled).square().sum(2)
    k, bandwidth = gaussian_kernel(pooled)
    assert bandwidth == pytest.approx(float(torch.pdist(pooled).median()), rel=1e-9)
    torch.testing.assert_close(k, (-0.5 * square / bandwidth**2).exp().fill_diagonal_(0), rtol=1e-9, atol=0)


def test_mmd_of_two_normals_in_closed_form() -> None:
    """E k(x, y) for normals is a Gaussian integral: (h^2 / (h^2 + 2))^(d/2) exp(-|shift|^2 / (2 h^2 + 4))."""
    d, shift = 3, 0.6
    x, y = normal(2000, d, "x"), normal(2000, d, "y", shift=shift)
    found = mmd(x, y, split="heldout", seed=0, permutations=1)
    h2 = found.bandwidth**2
    height = (h2 / (h2 + 2)) ** (d / 2)
    truth = 2 * height * (1 - math.exp(-d * shift**2 / (2 * h2 + 4)))
    assert found.squared.stderr is not None
    assert found.squared.value == pytest.approx(truth, abs=4 * found.squared.stderr)
    assert found.squared.stderr < 0.1 * truth


def test_mmd_sees_clumps_and_misses_a_hole_much_narrower_than_the_median_distance() -> None:
    x = normal(200, 2, "x")
    clumps = mmd(0.3 * x + 2 * (x > 0).double() - 1, x, split="heldout", seed=0)
    assert clumps.p_value == 1 / 500
    assert clumps.squared.low > 0
    assert mmd(ring(200, "x"), normal(200, 2, "y"), split="heldout", seed=0).p_value > 0.05


def test_false_alarms_are_nominal_over_200_seeds() -> None:
    """Under equality: at most 5 % below 0.05 (a binomial test at 0.1 %), and MMD's p-values are uniform."""
    classifier, kernel = [], []
    for seed in range(200):
        x, y = normal(60, 2, "x", seed), normal(60, 2, "y", seed)
        classifier.append(c2st(x, y, split="heldout", seed=seed).p_value)
        kernel.append(mmd(x, y, split="heldout", seed=seed, permutations=99).p_value)
    for name, p in (("c2st", classifier), ("mmd", kernel)):
        alarms = sum(v <= 0.05 for v in p)
        assert binomtest(alarms, 200, 0.05, alternative="greater").pvalue > 1e-3, (name, alarms)
    assert kstest(kernel, "uniform").pvalue > 1e-3
    assert sum(v <= 0.5 for v in classifier) > 60  # it does say both things


def test_what_the_tests_say_does_not_depend_on_units() -> None:
    x, y = ring(100, "x"), normal(100, 2, "y")
    for c in (1e-6, 1e6):
        assert c2st(c * x, c * y, split="heldout", seed=0) == c2st(x, y, split="heldout", seed=0)
        a, b = (mmd(s * x, s * y, split="heldout", seed=0, permutations=9) for s in (1.0, c))
        assert a.squared.value == pytest.approx(b.squared.value, abs=1e-9)
        assert b.bandwidth == pytest.approx(c * a.bandwidth)


def test_samples_of_one_point_each() -> None:
    x, y = torch.zeros(20, 2), torch.ones(20, 2)
    assert c2st(x, y, split="heldout", seed=0).accuracy.value == 1.0
    assert mmd(x, y, split="heldout", seed=0, permutations=99).p_value == 0.01
    assert c2st(x, x, split="heldout", seed=0).p_value > 0.01
    assert mmd(x, x, split="heldout", seed=0, permutations=9).p_value == 1.0
    assert unbiased(gaussian_kernel(torch.cat([x, x]).double())[0]) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="c2st: expected two samples of one size, at least 8, got 10 and 9"):
        c2st(normal(10, 2), normal(9, 2), split="heldout", seed=0)
    with pytest.raises(UsageError, match="mmd: expected two samples of one size, at least 3, got 2 and 2"):
        mmd(normal(2, 2), normal(2, 2), split="heldout", seed=0)


def test_a_permutation_p_is_never_zero() -> None:
    found = mmd(normal(30, 2, "x"), normal(30, 2, "y", shift=9.0), split="heldout", seed=0, permutations=99)
    assert found.p_value == pytest.approx(1 / 100)  # the sample as it came is one of the permutations


def test_seeds_and_splits_permute_and_halve_in_their_own_way() -> None:
    x, y = normal(40, 2, "x"), normal(40, 2, "y", shift=0.1)
    for vary in ([("a", k) for k in range(4)], [(s, 0) for s in "abcd"]):
        for measure in (
            lambda s, k: mmd(x, y, split=s, seed=k).p_value,
            lambda s, k: c2st(x, y, split=s, seed=k).accuracy.value,
        ):
            found = [measure(s, k) for s, k in vary]
            assert len(set(found)) > 1
            assert found[0] == measure(*vary[0])


def test_the_classifier_has_not_seen_what_it_is_tested_on() -> None:
    """With more features than rows it learns any rows by heart, so that an accuracy of about 1/2 is one on others."""
    found = [c2st(normal(60, 8, "x", s), normal(60, 8, "y", s), split="heldout", seed=s).accuracy for s in range(8)]
    assert sum(e.value for e in found) / 8 == pytest.approx(0.5, abs=0.08)
    assert {e.n for e in found} == {60}


def test_mmd_errs_by_what_samples_vary() -> None:
    found = [
        mmd(normal(40, 2, "x", s), normal(40, 2, "y", s, shift=1.5), split="h", seed=0, permutations=3)
        for s in range(60)
    ]
    spread = torch.tensor([m.squared.value for m in found]).std()
    assert sum(m.squared.stderr or 0.0 for m in found) / 60 == pytest.approx(float(spread), rel=0.3)

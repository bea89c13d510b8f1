"""The share of prior draws in places where hardly any code lies."""

import math

import pytest
import torch
from scipy.stats import binomtest

from zoo import posteriors
from zprime.measure.latents.low_density import low_density
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.statistics.estimate import clopper_pearson, proportion
from zprime.statistics.order import proportion_below


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (20, 20), (487, 1000)])
def test_binomial_interval_is_scipys(hits: int, n: int) -> None:
    for error in (0.05, 0.01):
        low, high = clopper_pearson(hits, n, error)
        other = binomtest(hits, n).proportion_ci(1 - error, method="exact")
        assert (low, high) == pytest.approx((other.low, other.high), abs=1e-12)
    e = proportion(hits, n, unit="share", split="heldout", seed=0)
    assert e.value == hits / n
    assert e.stderr == pytest.approx(math.sqrt(e.value * (1 - e.value) / n))


@pytest.mark.parametrize("level", [0.01, 0.05])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_interval_holds_the_truth_though_the_quantile_is_estimated(level: float, shift: float) -> None:
    """Both samples normal, the second lower by `shift`: the share is Phi(Phi^-1(level) + shift)."""
    normal = torch.distributions.Normal(0.0, 1.0)
    truth = float(normal.cdf(normal.icdf(torch.tensor(level)) + shift))
    rng = stream(0, "low", str(level), str(shift))
    runs, held, naive, wide = 300, 0, 0, 0.0
    for _ in range(runs):
        a = torch.randn(400, generator=rng, dtype=torch.float64)
        b = torch.randn(400, generator=rng, dtype=torch.float64) - shift
        e = proportion_below(a, b, level, seed=0)
        held += e.low <= truth <= e.high
        low, high = clopper_pearson(round(e.value * 400), 400, 0.05)
        naive += low <= truth <= high
        wide += (e.high - e.low) / runs
    assert held >= 0.95 * runs
    assert wide < (0.4 if shift else 0.12)
    if shift:
        assert naive < 0.9 * runs  # an interval that takes the quantile as known does not hold it


def test_no_hole_a_hole_and_a_prior_too_narrow() -> None:
    rng = stream(0, "points")
    mean = math.sqrt(0.75) * torch.randn(3000, 2, generator=rng, dtype=torch.float64)
    train, held = (MemoryPosteriors(m, torch.full_like(m, 0.5)) for m in (mean[:2000], mean[2000:]))
    found = low_density(train, held, seed=0)  # codes are N(0, I)
    assert list(found) == ["1 %", "5 %"]
    for e, level in zip(found.values(), (0.01, 0.05), strict=True):
        assert e.low < level < e.high
    ring = mean / mean.norm(dim=1, keepdim=True) * 1.5
    train, held = (MemoryPosteriors(m, torch.full_like(m, 0.1)) for m in (ring[:2000], ring[2000:]))
    found = low_density(train, held, seed=0)
    # most of N(0, I) lies off a ring of width 0.1
    assert found["1 %"].low > 0.6
    assert found["5 %"].value >= found["1 %"].value


def test_few_rows_give_a_wide_interval_not_a_wrong_one() -> None:
    e = low_density(posteriors(2), posteriors(2, n=5, seed=1), seed=0)["1 %"]
    assert e.low == 0.0
    assert 0.3 < e.high <= 1


def test_nothing_below_the_smallest() -> None:
    a, b = torch.arange(100).double(), torch.full((50,), 0.0).double()
    assert proportion_below(a, b, 0.01, seed=None).value == 0.0  # a tie with the smallest is not below it
    assert proportion_below(a, b - 1, 0.01, seed=None).value == 1.0

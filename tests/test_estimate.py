"""Estimates: intervals by scipy and by closed forms, and what they are at the edges of their rules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, skew, t

from zprime.rng import stream
from zprime.statistics.estimate import (
    Z95,
    Estimate,
    clopper_pearson,
    mean_estimate,
    proportion,
    skew_checked,
    skewness,
    student95,
)
from zprime.statistics.format import decimals

ROWS = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=3, max_size=30)


def estimate(x: torch.Tensor) -> Estimate:
    return mean_estimate(x, unit="nats", split="heldout", seed=3)


def skewed(n: int = 40) -> torch.Tensor:
    return torch.randn(n, generator=stream(0, "skewed"), dtype=torch.float64).exp()


def test_symmetric_rows_have_students_interval() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).double() + 7
    e = estimate(x)
    low, high = t.interval(0.95, 4, loc=7, scale=float(x.std()) / math.sqrt(5))
    assert (e.low, e.high) == (pytest.approx(low), pytest.approx(high))
    assert (e.value, e.stderr) == (7, pytest.approx(math.sqrt(5 / 5)))
    assert (e.n, e.unit, e.split, e.seed, e.stable) == (5, "nats", "heldout", 3, True)


def test_the_skewed_end_is_pushed_out_by_johnsons_correction() -> None:
    x = skewed()
    e, n = estimate(x), len(x)
    assert e.stderr is not None
    quantile, third = float(t.ppf(0.975, n - 1)), float(skew(x.numpy()))
    assert third > 1
    push = third * (1 + 2 * quantile**2) / (6 * math.sqrt(n)) * e.stderr
    assert e.value - e.low == pytest.approx(quantile * e.stderr)
    assert e.high - e.value == pytest.approx(quantile * e.stderr + push)
    assert skewness(x) == pytest.approx(third)


def test_the_interval_of_a_skewed_mean_holds() -> None:
    """Exponential rows, 20 of them: where Student's interval lies too low, it mends a quarter or more."""
    rows = torch.empty(1500, 20, dtype=torch.float64).exponential_(generator=stream(0, "exponential"))
    found = [estimate(x) for x in rows]
    below = [
        sum(high < 1 for high in ends) for ends in zip(*((e.high, 2 * e.value - e.low) for e in found), strict=True)
    ]
    assert below[0] < 0.75 * below[1]
    assert below[0] / len(found) < 0.065
    assert sum(e.low > 1 for e in found) / len(found) < 0.02


@given(ROWS, st.floats(0.1, 9), st.floats(-20, 20))
def test_mirrored_stretched_or_shifted_rows_have_such_an_interval(rows: list[float], by: float, shift: float) -> None:
    x = torch.tensor(rows, dtype=torch.float64)
    e, mirrored, moved = estimate(x), estimate(-x), estimate(by * x + shift)
    near = {"rel": 1e-6, "abs": 1e-6}
    assert (mirrored.low, mirrored.high) == (pytest.approx(-e.high, **near), pytest.approx(-e.low, **near))
    assert moved.low == pytest.approx(by * e.low + shift, **near)
    assert moved.high == pytest.approx(by * e.high + shift, **near)
    assert e.stderr is not None
    half = student95(len(rows) - 1) * e.stderr
    assert e.low <= e.value - half + 1e-9  # never narrower than Student's
    assert e.high >= e.value + half - 1e-9


@given(st.integers(1, 60), st.data())
def test_shares_have_scipys_exact_interval(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    e = proportion(hits, n, unit="share", split="heldout", seed=None)
    truth = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert (e.low, e.high) == (pytest.approx(truth.low, abs=1e-9), pytest.approx(truth.high, abs=1e-9))
    assert e.stderr == pytest.approx(math.sqrt(hits / n * (1 - hits / n) / n))
    wide = clopper_pearson(hits, n, 0.01)
    assert wide[0] <= e.low
    assert wide[1] >= e.high


def test_quantiles_are_scipys() -> None:
    assert student95(7) == pytest.approx(2.364624, abs=1e-6)
    assert pytest.approx(1.959964, abs=1e-6) == Z95


def test_rows_of_which_a_few_decide_are_not_stable() -> None:
    """Cochran's rule: at least 25 times the squared skewness."""
    x = torch.cat([torch.zeros(49), torch.ones(1)]).double()  # a rare event of probability p has (1-2p)^2 / (p(1-p))
    needed = 25 * 0.96**2 / (0.02 * 0.98)
    for times, stable in ((math.floor(needed / 50), False), (math.ceil(needed / 50), True)):
        many = x.repeat(times)
        e = skew_checked(estimate(many), many)
        assert e.stable is stable, len(many)
        assert stable or f"asks for {needed:.0f}" in e.because


@given(st.floats(1e-3, 9e3))
def test_two_figures_of_a_standard_error_are_shown(stderr: float) -> None:
    places = decimals(stderr)
    assert 1 <= places <= 4
    shown = float(f"{stderr:.{places}f}")
    assert abs(shown - stderr) <= 0.05 * stderr + 1e-12 or places == 4
    assert decimals(math.inf) == decimals(0.0) == 2

"""Weights and groups of rows: means and their errors against closed forms, laws, and repeated data sets."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2
from torch import Tensor

from zprime.data import Rows
from zprime.errors import ArrayError
from zprime.measure.likelihood.gains import RowGains, moved
from zprime.measure.likelihood.scores import scores
from zprime.measure.study import Split, without_duplicates
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.statistics.design import Design, kish
from zprime.statistics.estimate import Estimate, finite_mean, mean_estimate, skew_checked

SEEDS = 400


def mean(values: Tensor, weights: Tensor | None = None, groups: Tensor | None = None) -> Estimate:
    return mean_estimate(values, unit="nats", split="heldout", seed=None, design=Design(weights, groups))


def null(size: int, seed: int, *, n: int = 300) -> tuple[Tensor, Tensor]:
    """Gains with mean 0 in groups of one size; a mean over rows has four times the variance of independent rows."""
    rng = stream(seed, "null", size)
    correlation = 3 / (size - 1)
    groups = torch.arange(n) // size
    shared = torch.randn(n // size, generator=rng, dtype=torch.float64)[groups]
    own = torch.randn(n, generator=rng, dtype=torch.float64)
    order = torch.randperm(n, generator=rng)
    return (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)[order], groups[order]


@pytest.mark.parametrize("size", [5, 10])
def test_errors_by_group_are_the_spread_over_data_sets(size: int) -> None:
    """Two standard errors are passed as often as they should be; with rows taken as independent, six times as often."""
    found = [mean(values, groups=groups) for values, groups in (null(size, seed) for seed in range(SEEDS))]
    spread = sum(e.value**2 for e in found)  # the true mean is 0
    variance = sum((e.stderr or 0.0) ** 2 for e in found) / SEEDS
    assert chi2.ppf(0.001, SEEDS) < spread / variance < chi2.ppf(0.999, SEEDS)
    assert spread / SEEDS == pytest.approx(4 / 300, rel=0.25)
    wrong = sum(e.value > 2 * (e.stderr or 0.0) for e in found)
    assert wrong <= binom.ppf(0.999, SEEDS, 0.0275)  # Student's t with 29 degrees of freedom
    missed = sum(not e.low <= 0 <= e.high for e in found)
    assert missed <= binom.ppf(0.999, SEEDS, 0.05)
    assert {(e.n, e.groups, e.independent) for e in found} == {(300, 300 // size, 300 // size)}
    ignored = [mean(null(size, seed)[0]) for seed in range(SEEDS)]
    assert 0.10 < sum(e.value > 2 * (e.stderr or 0.0) for e in ignored) / SEEDS < 0.22


def test_weighted_means_are_those_of_the_weighted_population() -> None:
    """Rows of N(0, 1) weighed by N(a, 1) / N(0, 1) have mean a; the intervals hold it."""
    a, n, hits, ratio = 0.4, 300, 0, 0.0
    for seed in range(SEEDS):
        x = torch.randn(n, generator=stream(seed, "weighted"), dtype=torch.float64)
        e = mean(x, torch.exp(a * x))
        hits += e.low <= a <= e.high
        ratio += (e.value - a) ** 2 / (e.stderr or 0.0) ** 2
        assert e.n == round(kish(torch.exp(a * x) / torch.exp(a * x).sum()))
        assert e.n < n
    assert hits >= binom.ppf(0.001, SEEDS, 0.94)
    assert 0.8 < ratio / SEEDS < 1.25


def test_the_error_of_a_weighted_mean_by_hand() -> None:
    values, weights = torch.tensor([1.0, 2.0, 6.0]).double(), torch.tensor([1.0, 1.0, 2.0])
    e = mean(values, weights)
    # shares 1/4, 1/4, 1/2; mean 3.75; S2 = 3/8, S3 = 5/32: what the squares lack is 1 - 2 * 5/12 + 3/8 = 13/24
    squares = (0.25 * 2.75) ** 2 + (0.25 * 1.75) ** 2 + (0.5 * 2.25) ** 2
    assert e.value == pytest.approx(3.75)
    assert e.stderr == pytest.approx(math.sqrt(squares * 24 / 13))
    assert e.n == round(8 / 3)
    e = mean(values, groups=torch.tensor([7, 7, 3]))
    # totals of (x - 3) / 3: -1 and 1, of shares 2/3 and 1/3; S2 = 5/9, S3 = 1/3: 1 - 6/5 + 5/9 = 16/45
    assert e.value == pytest.approx(3.0)
    assert e.stderr == pytest.approx(math.sqrt(2 * 45 / 16))
    assert (e.n, e.groups) == (3, 2)


ROWS = st.integers(3, 40)


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = stream(seed, "drawn", n)
    values = torch.randn(n, generator=rng, dtype=torch.float64).exp()
    return (
        values,
        torch.rand(n, generator=rng, dtype=torch.float64) + 0.1,
        torch.randint(0, max(2, n // 3), (n,), generator=rng),
    )


@given(ROWS, st.integers(0, 9))
def test_equal_weights_and_groups_of_one_row_change_no_bit(n: int, seed: int) -> None:
    values, _, groups = drawn(n, seed)
    equal, alone = torch.full((n,), 0.3), torch.randperm(n, generator=stream(seed)) * 7
    assert mean(values, equal) == mean(values)
    assert mean(values, equal, alone) == mean(values, None, alone) == mean(values)
    assert mean(values, equal, groups) == mean(values, None, groups)
    design = Design(equal)
    assert design.mean(values) == float(values.mean())
    assert design.median(values) == float(values.median())
    values[0] = math.inf
    told = {"unit": "nats", "split": "heldout", "seed": None, "because": "diverge"}
    assert finite_mean(values, design=design, **told) == finite_mean(values, **told)
    e = mean(values[1:])
    assert skew_checked(e, values[1:], Design(equal[1:])) == skew_checked(e, values[1:])


@given(ROWS, st.integers(0, 9))
def test_weights_of_zero_and_one_are_the_subset(n: int, seed: int) -> None:
    values, weights, groups = drawn(n, seed)
    there = torch.rand(n, generator=stream(seed, "there")) < 0.6
    there[:2] = True
    zero = there.double()
    assert mean(values, zero) == mean(values[there])
    assert mean(values, zero, groups) == mean(values[there], None, groups[there])
    assert mean(values, weights * there) == mean(values[there], weights[there])
    assert Design(zero).median(values) == float(values[there].median())
    assert Design(zero).mean(values > 1) == float((values[there] > 1).double().mean())
    values[~there] = math.inf  # what does not count may be anything
    assert mean(values, zero) == mean(values[there])


@given(ROWS, st.integers(0, 9))
def test_the_order_of_rows_the_unit_of_weights_and_the_names_of_groups_change_nothing(n: int, seed: int) -> None:
    values, weights, groups = drawn(n, seed)
    order = torch.randperm(n, generator=stream(seed, "order"))
    e = mean(values, weights, groups)
    for other in (mean(values[order], weights[order], groups[order]), mean(values, 40 * weights, 100 - 3 * groups)):
        for name in ("value", "stderr", "low", "high"):
            assert getattr(other, name) == pytest.approx(getattr(e, name), rel=1e-9)
        assert (other.n, other.groups, other.stable) == (e.n, e.groups, e.stable)
    assert Design(weights[order]).median(values[order]) == Design(weights).median(values)


def test_a_weight_of_two_is_a_row_that_is_there_twice() -> None:
    """In value, median and proportion; and in its error, where the two rows are one group."""
    values = torch.randn(50, generator=stream(1), dtype=torch.float64)
    count = torch.randint(1, 4, (50,), generator=stream(2))
    twice, one = values.repeat_interleave(count), torch.arange(50).repeat_interleave(count)
    a, b = mean(values, count.double()), mean(twice, groups=one)
    for name in ("value", "stderr", "low", "high"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12)
    design = Design(count.double())
    assert design.median(values) == float(twice.median())
    assert design.mean(values > 0.2) == pytest.approx(float((twice > 0.2).double().mean()))


def test_one_group_gives_no_error() -> None:
    e = mean(torch.arange(5.0), groups=torch.zeros(5, dtype=torch.long))
    assert (e.stable, e.stderr, e.because) == (False, math.inf, "one group only: no error can be given")


def test_where_a_few_groups_decide_the_interval_is_not_trusted() -> None:
    values, groups = torch.zeros(1000, dtype=torch.float64), torch.arange(1000) // 10
    values[:500:100] = 1.0
    values[:30] -= 3.0
    e = skew_checked(mean(values, groups=groups), values, Design(None, groups))
    assert not e.stable
    assert e.because.startswith("a few groups decide: 100 of them")


def test_independent_rows_are_one_of_each_group_drawn_by_weight() -> None:
    groups, weights = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0, 2.0])
    counts, design = torch.zeros(6), Design(weights, groups)
    for seed in range(3000):
        picked = design.independent(6, stream(seed, "pick"))
        assert len(set(groups[picked].tolist())) == len(picked)
        counts[picked] += 1
    expected = weights / 4  # groups weigh 4, 2, 4: the largest are always there
    error = (expected * (1 - expected) / 3000).sqrt()
    assert bool(((counts / 3000 - expected).abs() <= 4 * error).all())
    rng = stream(0)
    before = rng.get_state()
    assert Design().independent(4, rng).tolist() == [0, 1, 2, 3]
    assert torch.equal(rng.get_state(), before)


def test_a_split_hands_on_weights_and_groups() -> None:
    p = MemoryPosteriors(torch.randn(6, 2, generator=stream(0)), torch.ones(6, 2)).weighted(torch.arange(1.0, 7.0))
    split = Split("heldout", p, None, torch.tensor([0, 0, 1, 1, 2, 2]))
    taken = split.take(torch.tensor([5, 0]))
    assert taken.groups is not None
    assert taken.weights is not None
    assert taken.groups.tolist() == [2, 0]
    assert taken.weights.tolist() == pytest.approx([6 / 7, 1 / 7])
    few = split.independent(stream(3))
    assert few.weights is None
    assert few.groups is None
    assert set(few.posteriors.row_ids.tolist()) <= set(range(6))
    assert len({i // 2 for i in few.posteriors.row_ids.tolist()}) == few.n


def test_scores_are_weighted_and_by_group() -> None:
    """Every number of the table: the mean, its error, and the proportions beside it."""
    wanted, n = CandidateId("r"), 40
    values = torch.randn(n, generator=stream(5), dtype=torch.float64) * 6
    weights, groups = torch.rand(n, generator=stream(6), dtype=torch.float64), torch.arange(n) // 4
    plain = RowGains(
        "heldout",
        torch.arange(n),
        {wanted: values},
        {wanted: values},
        {},
        {wanted: values},
        {wanted: values},
        khat={wanted: values},
        draws=8,
    )
    found = scores(replace(plain, weights=weights, groups=groups), wanted, 0)
    shares = weights / weights.sum()
    for score in (found.elbo, found.exact_posterior, found.likelihood):
        assert score is not None
        assert score.gain.value == pytest.approx(float(shares @ values))
        assert score.gain.stderr == mean(values, weights, groups).stderr
        assert score.gain.groups == mean(values, weights, groups).groups
        assert score.above == pytest.approx(float(shares[values > 0].sum()))
        assert score.below == pytest.approx(float(shares[values < -5].sum()))
    assert found.likelihood is not None
    assert found.likelihood.khat == pytest.approx(float(shares[values > 0.7].sum()))


def test_the_move_from_few_draws_to_all_is_weighted_too() -> None:
    """Half of the rows moved by 4 nats, and hardly count."""
    few = torch.randn(40, generator=stream(8), dtype=torch.float64)
    full, weights = few.clone(), torch.ones(40, dtype=torch.float64)
    full[:20] += 4
    weights[:20] = 1e-4
    design = Design(weights)
    assert not moved(mean(full), full, few, 8, limit=0.2).stable
    e = moved(mean(full, weights), full, few, 8, design, limit=0.2)
    assert e.stable
    assert e.because.startswith("moved +0.000 nats from 2 to 8 draws")


def test_equal_draws_of_different_grey_rows_are_kept_in_an_audit() -> None:
    """Rows that were drawn from different probabilities may be equal by chance."""
    p = MemoryPosteriors(torch.zeros(4, 1), torch.ones(4, 1))
    x, grey = torch.ones(4, 2), torch.linspace(0.1, 0.9, 8).reshape(4, 2)
    train = Split("train", p, Rows("train", x, torch.arange(4), grey=grey))
    other = Split("heldout", p, Rows("heldout", x, torch.arange(4), grey=grey.flip(1)))
    assert without_duplicates(train, other, keep=False) == ([other], {})
    with pytest.raises(ArrayError, match="4 of 4 held-out rows equal a training row"):
        without_duplicates(train, replace(train, name="heldout"), keep=False)

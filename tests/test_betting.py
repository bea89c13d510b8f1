"""The test of a mean by betting: false alarms under heavy tails, power, its limit, groups and weights."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zprime.errors import NumericalError
from zprime.rng import stream
from zprime.statistics.betting import Bet, bet
from zprime.statistics.design import Design

SEEDS = 200
MOST = 16  # of 200 at a rate of 5 %: exceeded with a probability of 2.4 %


def ids(n: int) -> Tensor:
    return torch.arange(n)


def heavy(seed: int, n: int, share: float) -> Tensor:
    """+0.3 nats, and log e in few rows, so that the mean is 0."""
    rare = 0.3 / (0.3 - math.log(share))
    lost = torch.rand(n, generator=stream(seed, "heavy", n), dtype=torch.float64) < rare
    return torch.where(lost, math.log(share), 0.3)


def leaves(values: Tensor, share: float) -> bool:
    """The verdict's rule, without the exchange check."""
    return bet(values, ids(len(values)), bound=-math.log(share)).passed and float(values.mean()) > 0.05


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("n", [50, 300, 1000])
def test_heavy_tails_raise_few_false_alarms(share: float, n: int) -> None:
    assert sum(leaves(heavy(seed, n, share), share) for seed in range(SEEDS)) <= MOST


@pytest.mark.parametrize("n", [50, 300])
def test_the_best_of_thirteen_on_other_rows_raises_few_false_alarms(n: int) -> None:
    """The choice is made on the selection split, the test on the held-out split."""
    alarms = 0
    for seed in range(SEEDS):
        selection = [heavy(1000 + 13 * seed + k, n, 0.01) for k in range(13)]
        best = max(range(13), key=lambda k: float(selection[k].mean()))
        alarms += leaves(heavy(100_000 + 13 * seed + best, n, 0.01), 0.01)
    assert alarms <= MOST


def two_errors(values: Tensor) -> bool:
    """The rule before the bet: a mean above max(2 s.e., 0.05 nats)."""
    return float(values.mean()) > max(0.05, 2 * float(values.std()) / len(values) ** 0.5)


def test_a_rule_of_two_standard_errors_would_raise_many() -> None:
    """What the bet is there for: the same rows, and the rule before it."""
    alarms = sum(two_errors(heavy(seed, 50, 0.01)) for seed in range(SEEDS))
    assert alarms > 2 * MOST
    assert f"it left the prior in {alarms} of 200 samples, and the bet in none" in " ".join(PAGE.split())


PAGE = (Path(__file__).parent.parent / "docs" / "measures" / "verdict.md").read_text()


@pytest.mark.parametrize("gain", ["0.1", "0.3", "1"])
def test_power_is_that_of_the_docs(gain: str) -> None:
    """Every figure of the table, and of the rule before, from seeds 0 to 199."""
    row = re.search(rf"^\| {gain} \|(.*)\|$", PAGE, re.M)
    assert row is not None
    told = [f"{float(x.strip(' %')):.0f}" for x in row.group(1).split("|")]
    found, before = [], []
    for n in (50, 300, 1000):
        made = (torch.randn(n, generator=stream(seed, "power", n), dtype=torch.float64) for seed in range(SEEDS))
        values = [(v + float(gain)).clamp(min=math.log(0.01)) for v in made]
        found.append(f"{100 * sum(leaves(v, 0.01) for v in values) / SEEDS:.0f}")
        before.append(f"{100 * sum(two_errors(v) for v in values) / SEEDS:.0f}")
    assert found == told
    if gain != "1":
        assert f"{before[0]}, {before[1]} and {before[2]} % of" in " ".join(PAGE.split())


def test_the_wealth_is_that_of_thirty_stakes_row_by_row() -> None:
    """The definition, as loops."""
    values = [0.5, -0.2, 0.9, 0.1]
    bound = 2.0
    order = torch.tensor([0, 1, 2, 3])
    wealth = [1.0] * 30
    best = 1.0
    for i in in_order(order):
        wealth = [w * (1 + k / (31 * bound) * values[i]) for k, w in enumerate(wealth, 1)]
        best = max(best, sum(wealth) / 30)
    assert bet(torch.tensor(values).double(), order, bound=bound).wealth == pytest.approx(best)


def in_order(rows: Tensor) -> list[int]:
    """In which order rows are bet on: that of SplitMix64 of their ids."""
    import numpy as np

    z = rows.numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return [int(i) for i in np.argsort(z ^ (z >> np.uint64(31)))]


def test_the_order_of_the_rows_as_given_changes_nothing() -> None:
    values, rows = heavy(0, 100, 0.01), ids(100)
    mixed = torch.randperm(100, generator=stream(0, "mixed"))
    assert bet(values[mixed], rows[mixed], bound=5.0) == bet(values, rows, bound=5.0)


def test_the_limit_is_where_the_test_turns() -> None:
    values = 1 + torch.randn(200, generator=stream(0, "limit"), dtype=torch.float64).clamp(min=-3)
    found = bet(values, ids(200), bound=5.0)
    for shift, passed in ((found.low - 0.01, True), (found.low + 0.01, False)):
        assert bet(values - shift, ids(200), bound=5.0 + shift).passed is passed
    assert found.low < float(values.mean()) - 1.645 * float(values.std()) / 200**0.5  # no better than the normal one


def test_the_limit_holds_the_mean() -> None:
    """Of 200 samples with heavy tails and mean 0, at most 5 % and chance have a limit above 0."""
    above = sum(bet(heavy(seed, 300, 0.01), ids(300), bound=-math.log(0.01)).low > 0 for seed in range(SEEDS))
    assert above <= MOST


def grouped(seed: int, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Rows of a group are equal; half of the groups gain 0.5 nats, half lose as much."""
    sign = torch.where(torch.rand(groups, generator=stream(seed, "groups")) < 0.5, 0.5, -0.5).double()
    return sign.repeat_interleave(size), torch.arange(groups).repeat_interleave(size)


@pytest.mark.parametrize("size", [5, 10])
def test_groups_are_bet_on_as_one(size: int) -> None:
    alarms = ignored = 0
    for seed in range(SEEDS):
        values, groups = grouped(seed, 60, size)
        alarms += bet(values, ids(len(values)), bound=1.0, design=Design(groups=groups)).passed
        shuffled = torch.randperm(len(values), generator=stream(seed, "rows"))
        ignored += bet(values, shuffled, bound=1.0).passed
    assert alarms <= MOST
    assert ignored > MOST  # the planted fault: rows of a group as if they were independent


def sized(seed: int, n: int, rare: float, large: int) -> Tensor:
    """The size of each of n groups: `large` with probability `rare`, else 1 row."""
    big = torch.rand(n, generator=stream(seed, "sizes", n, large), dtype=torch.float64) < rare
    return torch.where(big, large, 1)


def losing(sizes: Tensor, gain: float, bound: float) -> tuple[Tensor, Design]:
    """Rows of groups of one row gain, those of larger groups lose all that can be lost."""
    groups = torch.arange(len(sizes)).repeat_interleave(sizes)
    return torch.where(sizes[groups] > 1, -bound, gain).double(), Design(groups=groups)


def test_groups_too_rare_for_the_held_out_rows_raise_few_false_alarms() -> None:
    """Of 300 groups, 0.3 % have 400 rows that lose 4.6 nats: in 4 of 10 samples there is none of them.

    The limit of what a group counts for is from 1,500 other groups, as of training and selection split.
    """
    bound, alarms, ignored = -math.log(0.01), 0, 0
    for seed in range(SEEDS):
        values, design = losing(sized(seed, 300, 0.003, 400), 0.3, bound)
        _, other = losing(sized(1000 + seed, 1500, 0.003, 400), 0.3, bound)
        assert other.groups is not None
        most = other.largest(len(other.groups))
        rows, above = ids(len(values)), design.mean(values) > 0.05
        alarms += bet(values, rows, bound=bound, design=design, most=most).passed and above
        own = design.largest(len(values))  # the planted fault: the limit is of the rows that are bet on
        ignored += bet(values, rows, bound=bound, design=design, most=own).passed and above
    assert alarms <= MOST
    assert ignored > 60


@pytest.mark.parametrize("most", [1.0, 5.0])
def test_the_level_holds_however_large_and_rare_groups_are(most: float) -> None:
    """The mean over rows where no group counts for more than `most` is 0: 0.3 % of the groups have 400 rows."""
    rare, bound, alarms, ignored = 0.003, 4.6, 0, 0
    gain = rare * most * bound / (1 - rare)
    for seed in range(SEEDS):
        values, design = losing(sized(seed, 400, rare, 400), gain, bound)
        rows = ids(len(values))
        alarms += bet(values, rows, bound=bound, design=design, most=most).passed
        own = design.largest(len(values))
        ignored += bet(values, rows, bound=bound, design=design, most=own).passed
    assert alarms <= MOST
    assert most == 1 or ignored > MOST


def test_what_a_group_counts_for_by_hand() -> None:
    """Four rows of one group and one alone, at most two rows a group: the four count for two rows of their mean."""
    values, groups = torch.tensor([0.4, 0.2, 0.1, 0.1, -0.3]).double(), torch.tensor([0, 0, 0, 0, 1])
    found = bet(values, ids(5), bound=1.0, design=Design(groups=groups), most=2.0)
    steps = torch.tensor([2 * 0.2, -0.3]).double() / 2  # a bet of 1 could lose all if a group of two rows lost 1 each
    order = in_order(torch.tensor([0, 1]))
    stakes = torch.arange(1, 31).double() / 31
    wealth = torch.cumprod(1 + stakes[:, None] * steps[order], 1).mean(0)
    assert found.wealth == pytest.approx(max(1.0, float(wealth.max())))
    assert (found.n, found.most) == (2, 2.0)


@pytest.mark.parametrize("most", [1.0, 3.0])
def test_a_weight_of_two_is_a_group_of_the_row_twice(most: float) -> None:
    values = heavy(5, 60, 0.1)
    count = torch.randint(1, 4, (60,), generator=stream(5, "count"))
    one = torch.arange(60).repeat_interleave(count)
    twice = bet(values[one], ids(len(one)), bound=3.0, design=Design(groups=one), most=most)
    unit = float(count.double().mean())  # weights are in units of their mean
    weighed = bet(values, ids(60), bound=3.0, design=Design(weights=count.double()), most=most / unit)
    assert weighed.wealth == pytest.approx(twice.wealth)
    assert weighed.low == pytest.approx(twice.low, abs=1e-6)


def test_weights_count_rows() -> None:
    values, weights = heavy(3, 200, 0.1), torch.ones(200).double()
    assert bet(values, ids(200), bound=3.0, design=Design(weights=weights)) == bet(values, ids(200), bound=3.0)
    weights[100:] = 0
    assert bet(values, ids(200), bound=3.0, design=Design(weights=weights)) == bet(values[:100], ids(100), bound=3.0)
    assert bet(values, ids(200), bound=3.0, design=Design(weights=3 * weights)).wealth == pytest.approx(
        bet(values, ids(200), bound=3.0, design=Design(weights=weights)).wealth
    )


def test_a_group_of_one_row_is_a_row() -> None:
    values = heavy(4, 100, 0.1)
    assert bet(values, ids(100), bound=3.0, design=Design(groups=ids(100))) == bet(values, ids(100), bound=3.0)


def test_without_a_bound_nothing_is_shown() -> None:
    assert bet(torch.ones(1000).double(), ids(1000), bound=math.inf) == Bet(1.0, -math.inf, math.inf, 0.05, 1000)
    assert not bet(torch.ones(1000).double(), ids(1000), bound=math.inf).passed


@pytest.mark.parametrize("bad", [-1.01, math.nan, -math.inf])
def test_values_below_the_bound_are_refused(bad: float) -> None:
    with pytest.raises(NumericalError, match="of at least -1"):
        bet(torch.tensor([0.5, bad]).double(), ids(2), bound=1.0)


def test_the_level_is_the_wealth_that_is_needed() -> None:
    values = torch.full((20,), 0.5).double()
    strict, loose = (bet(values, ids(20), bound=1.0, level=level) for level in (1e-4, 0.05))
    assert strict.wealth == loose.wealth
    assert loose.passed
    assert not strict.passed
    assert strict.low < loose.low


def test_an_infinite_gain_is_refused() -> None:
    with pytest.raises(NumericalError, match="expected finite values"):
        bet(torch.tensor([0.5, math.inf]).double(), ids(2), bound=1.0)

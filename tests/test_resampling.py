"""Standard errors by leaving groups out and by halves: closed forms, and what they are for."""

import math

import pytest
import torch
from scipy.stats import t as student_t

from samples import clumps
from zprime.measure.samples.frechet import frechet, frechet_replicates
from zprime.rng import stream
from zprime.statistics.resampling import GROUPS, About, Groups, group_of, halve, leave_out

ABOUT = About(100, "heldout", 0)


def grouped(x: torch.Tensor, *, pairs: bool, power: int = 1) -> Groups:
    """The mean of x, to a power."""
    sums = torch.stack([x[group_of(len(x), GROUPS) == g].sum() for g in range(GROUPS)])
    size = len(x) / GROUPS
    return leave_out(lambda keep: ((keep.double() @ sums) / (keep.sum(1) * size))[:, None] ** power, pairs=pairs)


def noise(seed: int, n: int = 600) -> torch.Tensor:
    return torch.randn(n, generator=stream(seed, "noise"), dtype=torch.float64)


def test_a_mean_has_the_error_of_its_groups() -> None:
    x = noise(0)
    found = grouped(x, pairs=False)
    means = torch.stack([x[group_of(len(x), GROUPS) == g].mean() for g in range(GROUPS)])
    assert float(found.whole) == pytest.approx(float(x.mean()))
    assert float(found.stderr()) == pytest.approx(float(means.std() / math.sqrt(GROUPS)))
    e = found.estimate(0, ABOUT, unit="nats")
    assert e.stderr is not None
    assert e.high - e.value == pytest.approx(float(student_t.ppf(0.975, GROUPS - 1)) * e.stderr, rel=1e-4)
    # a mean has no quadratic part: taking it off changes nothing
    assert float(grouped(x, pairs=True).stderr()) == pytest.approx(float(found.stderr()), rel=1e-6)


def test_pairs_take_off_what_the_jackknife_counts_twice() -> None:
    squares = torch.tensor([float(grouped(noise(s), pairs=False, power=2).whole) for s in range(150)])
    truth = float(squares.std())
    assert truth == pytest.approx(math.sqrt(2) / 600, rel=0.25)  # the square of a mean of 600 is chi-squared over 600
    plain, corrected = (
        math.sqrt(float(torch.cat([grouped(noise(s), pairs=p, power=2).stderr() for s in range(150)]).square().mean()))
        for p in (False, True)
    )
    assert plain / truth == pytest.approx(math.sqrt(2), rel=0.25)
    assert corrected / truth == pytest.approx(1, rel=0.3)


def test_the_square_of_a_mean_of_zero_is_all_quadratic() -> None:
    """Its standard error is sqrt(2) s^2 / n, that of chi-squared; the jackknife's own part is next to nothing."""
    found = [grouped(x - x.mean(), pairs=True, power=2).stderr() for x in map(noise, range(100))]
    assert math.sqrt(float(torch.cat(found).square().mean())) * 600 == pytest.approx(math.sqrt(2), rel=0.1)


def test_a_distance_that_came_out_small_by_chance_has_no_small_error() -> None:
    """Equal samples, where a Frechet distance is all quadratic; with a smaller least variance 90 % would hold."""
    truth = sum(frechet(clumps(100, 2 * s), clumps(100, 2 * s + 1)) for s in range(1000, 1300)) / 300
    held = []
    for s in range(150):
        found = frechet_replicates(clumps(100, 2 * s), clumps(100, 2 * s + 1))
        e = found.estimate(0, ABOUT, unit="u", scale="distance")
        held.append(e.low <= truth <= e.high)
    assert sum(held) / len(held) > 0.95


def test_halves_of_a_mean() -> None:
    x, y = noise(1), noise(2)
    found = halve(lambda a, b: torch.stack([x[a].mean(), x[a].mean() - y[b].mean()]), 600, 600)
    assert float(found.whole[0]) == pytest.approx(float(x.mean()))
    errors = torch.tensor([1 / math.sqrt(600), math.sqrt(2 / 600)], dtype=torch.float64)
    torch.testing.assert_close(found.stderr(), errors, rtol=0.35, atol=0)


def test_what_two_statistics_share_cancels_in_their_difference() -> None:
    x, y = noise(3), noise(4)
    both = [halve(lambda a, b, t=t: (x[a].mean() + t * y[b].mean())[None], 600, 600) for t in (0.1, 0.2)]
    gap = both[1] - both[0]
    assert float(gap.whole) == pytest.approx(0.1 * float(y.mean()))
    assert float(gap.stderr()) < 0.2 * float(both[0].stderr())


def test_intervals_by_scale() -> None:
    spread = torch.linspace(-1, 1, GROUPS, dtype=torch.float64)[:, None]

    def at(value: float, width: float) -> Groups:
        whole = torch.tensor([value], dtype=torch.float64)
        return Groups(whole, value + width * spread, torch.zeros(0, 1))

    plain = at(2.0, 0.02).estimate(0, ABOUT, unit="u")
    assert plain.high - 2 == pytest.approx(2 - plain.low)
    skew = at(2.0, 0.02).estimate(0, ABOUT, unit="u", scale="distance")
    assert skew.low * skew.high == pytest.approx(4)
    assert skew.high > plain.high
    share = at(0.99, 0.02).estimate(0, ABOUT, unit="u", scale="proportion")
    assert share.high == 1
    # no spread at all: the error of 102 hits among 104 (Agresti & Coull), by Student's t of 29 degrees of freedom
    full = at(1.0, 0.0).estimate(0, ABOUT, unit="u", scale="proportion")
    assert full.stderr == pytest.approx(math.sqrt(102 / 104 * 2 / 104 / 100))
    assert full.low == pytest.approx(1 - 2.04523 * full.stderr, rel=1e-4)
    assert at(0.5, 0.2).estimate(
        0, ABOUT, unit="u", scale="proportion"
    ).stderr == pytest.approx(  # spread enough of its own
        at(0.5, 0.2).estimate(0, ABOUT, unit="u").stderr
    )
    assert (plain.n, plain.split, plain.seed, plain.unit) == (100, "heldout", 0, "u")


def test_halves_err_by_what_means_vary() -> None:
    """Root mean square over many samples: within a tenth of the truth, 1 / sqrt(n)."""
    found = [halve(lambda a, b, x=noise(s, 200): x[a].mean()[None], 200, 200) for s in range(60)]
    squares = torch.cat([f.stderr().square() for f in found])
    assert math.sqrt(float(squares.mean()) * 200) == pytest.approx(1, rel=0.1)


def test_halves_keep_half_of_either_sample() -> None:
    kept: list[tuple[int, int]] = []

    def count(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        kept.append((int(a.sum()), int(b.sum())))
        return torch.zeros(1)

    halve(count, 50, 31)
    assert kept == [(50, 31)] + [(25, 15)] * (len(kept) - 1)
    assert len(kept) > 20

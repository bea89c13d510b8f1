"""Choices on the selection split: the ELBO gain, the prior's share, and the smallest of those that tie."""

import math

import pytest
import torch
from torch import Tensor

from zoo import ZOO, posteriors
from zprime.errors import NumericalError
from zprime.fitting import fit
from zprime.latent import (
    AggregatedSettings,
    Defensive,
    ExemplarsSettings,
    Gaussian,
    GaussianSettings,
    MixtureSettings,
    Prior,
)
from zprime.latent.kind import Settings
from zprime.latent.selection import EPSILONS, Codes, RowScores, best_epsilon, paired, smallest_of_best
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

CODES = Codes.draw(posteriors(2), Prior(2), rng=stream(0), points=100)


def test_codes_are_draws_of_every_row_with_the_priors_density() -> None:
    assert len(CODES.z) == 24 * 5
    assert torch.equal(CODES.log_prior, Prior(2).log_prob(CODES.z))
    assert len(Codes.draw(posteriors(2), Prior(2), rng=stream(0)).z) == 24 * 16  # no more than 16 a row
    again = Codes.draw(posteriors(2), Prior(2), rng=stream(0), points=100)
    assert torch.equal(again.z, CODES.z)


@pytest.mark.parametrize("share", EPSILONS)
def test_the_gain_with_a_share_is_that_of_the_defensive_mixture_row_by_row(share: float) -> None:
    assert 0.01 <= share <= 0.1
    r = ZOO["mixture"](2, torch.float64)
    mixed = Defensive(r, share)
    expected = (mixed.log_prob(CODES.z) - CODES.log_prior).reshape(5, 24).mean(0)
    torch.testing.assert_close(CODES.gain(r.log_prob(CODES.z), share).value, expected, rtol=1e-10, atol=1e-10)


def test_a_narrow_r_that_misses_rows_takes_a_large_share_and_a_good_one_the_smallest() -> None:
    scale = torch.tensor([0.4, 0.4], dtype=torch.float64)
    narrow = Gaussian(torch.zeros(2, dtype=torch.float64), scale)
    share, gain = best_epsilon(CODES, narrow)
    assert share == 0.1
    assert gain.mean > CODES.gain(narrow.log_prob(CODES.z)).mean
    assert float(gain.value.min()) > math.log(0.1)
    assert best_epsilon(CODES, ZOO["gaussian"](2, torch.float64))[0] == 0.01


def test_a_density_that_is_nan_is_an_error_that_names_the_kind() -> None:
    broken = Gaussian(torch.tensor([math.nan, 0.0]), torch.ones(2))
    text = r"gaussian \(diagonal\): its log-density is NaN at 120 of 120 codes of the selection split; this fit"
    with pytest.raises(NumericalError, match=text):
        best_epsilon(CODES, broken)


def test_paired_difference_has_the_error_of_the_differences() -> None:
    a, b = RowScores(torch.tensor([1.0, 2.0, 4.0])), RowScores(torch.tensor([0.0, 2.0, 2.0]))
    assert (a - b).mean == pytest.approx(1.0)
    assert (a - b).stderr == pytest.approx(1 / math.sqrt(3))
    assert paired(a, b) == pytest.approx((1.0, 1 / math.sqrt(3)))
    assert paired(RowScores(a.value[:1]), RowScores(b.value[:1])) == (1.0, math.inf)


def test_rows_count_by_their_weights() -> None:
    """A weight of 2/3 is that of a row that stands twice as often; one of 0 is none."""
    value = torch.tensor([1.0, 4.0, 100.0])
    weighted = RowScores(value, torch.tensor([2 / 3, 1 / 3, 0.0]))
    assert weighted.mean == pytest.approx(2.0)
    assert RowScores(value[:2], torch.tensor([0.5, 0.5])).stderr == pytest.approx(RowScores(value[:2]).stderr)
    # var(sum w_i x_i) = sum w_i^2 var(x_i): by drawing rows again and again
    rng = stream(0, "rows")
    share = torch.rand(50, generator=rng).double()
    share = share / share.sum()
    means = [RowScores(torch.randn(50, generator=rng).double(), share) for _ in range(2000)]
    spread = float(torch.tensor([g.mean for g in means]).std())
    assert sum(g.stderr or 0.0 for g in means) / 2000 == pytest.approx(spread, rel=0.06)


def reweighted(p: MemoryPosteriors, weights: Tensor) -> MemoryPosteriors:
    return MemoryPosteriors(p.mean, p.scale, weights=(weights / weights.sum()).double(), labels=p.labels)


def test_weights_of_the_selection_split_decide() -> None:
    """Half the rows lie left, half right; what is chosen follows the half that counts."""
    mean = torch.cat([torch.full((40, 2), -2.0), torch.full((40, 2), 2.0)]).double()
    p = MemoryPosteriors(mean, torch.full_like(mean, 0.3))
    left = Gaussian(torch.full((2,), -2.0).double(), torch.full((2,), 0.4).double())
    right = Gaussian(torch.full((2,), 2.0).double(), torch.full((2,), 0.4).double())
    for side, weights in enumerate((torch.arange(80) < 40, torch.arange(80) >= 40)):
        codes = Codes.draw(reweighted(p, weights.double() + 1e-9), Prior(2), rng=stream(0), points=100)
        found = [best_epsilon(codes, r)[1] for r in (left, right)]
        assert smallest_of_best(found, [1, 1]) == side
        assert found[side].mean > 1
    assert best_epsilon(Codes.draw(p, Prior(2), rng=stream(0)), left)[0] == 0.1  # half of them are missed
    counted = Codes.draw(reweighted(p, (torch.arange(80) < 40).double()), Prior(2), rng=stream(0))
    assert best_epsilon(counted, left)[0] == 0.01  # rows that do not count are not defended


@pytest.mark.parametrize(
    ("kind", "within"),
    [
        (MixtureSettings(components=3, start="merge", polish=0, least_rows=0.0), 1e-6),
        (ExemplarsSettings(), 0.15),
        (GaussianSettings(), 1e-6),
        (AggregatedSettings(), 1e-6),
    ],
    ids=lambda v: getattr(v, "kind", None),
)
def test_a_row_of_weight_two_is_a_row_that_stands_twice(kind: Settings, within: float) -> None:
    """Up to the draws that the choices rest on."""
    p = posteriors(2)
    twice = torch.cat([torch.arange(p.n), torch.arange(0, p.n, 2)])
    weights = torch.where(torch.arange(p.n) % 2 == 0, 2.0, 1.0)
    a = fit(kind, reweighted(p, weights), selection=reweighted(p, weights), keep_duplicates=True)
    b = fit(kind, p.take(twice), selection=p.take(twice), keep_duplicates=True)
    z = p.draw(rng=stream(0), draws=200)
    gap = a.distribution.log_prob(z) - b.distribution.log_prob(z)
    assert float(gap.square().mean().sqrt()) < within
    assert a.chosen.gain == pytest.approx(b.chosen.gain, abs=0.25)


def gains(*means: float, noise: float = 0.0, n: int = 100) -> list[RowScores]:
    """Rows that differ together, so that differences are exact but for `noise`."""
    common = 3 * torch.randn(n, generator=stream(0, "common"), dtype=torch.float64)
    rng = stream(0, "noise")
    return [RowScores(common + m + noise * torch.randn(n, generator=rng, dtype=torch.float64)) for m in means]


@pytest.mark.parametrize(
    ("means", "sizes", "expected"),
    [
        ((0.0, 1.0, 2.0), (1, 2, 3), 2),  # the best stands out
        ((1.97, 1.0, 2.0), (1, 2, 3), 0),  # 0.03 nats are a tie: the smallest
        ((1.90, 1.97, 2.0), (1, 2, 3), 1),  # 0.10 are none
        ((1.97, 2.0, 1.98), (2, 2, 2), 1),  # of one size: the better
    ],
)
def test_of_those_that_tie_the_smallest_is_taken(
    means: tuple[float, ...], sizes: tuple[int, ...], expected: int
) -> None:
    assert smallest_of_best(gains(*means), list(sizes)) == expected


def test_a_difference_within_its_own_standard_error_is_a_tie() -> None:
    loud = gains(0.0, -0.12, noise=3.0, n=400)
    gap = loud[1] - loud[0]
    assert gap.stderr is not None
    assert 0.05 < gap.mean < gap.stderr
    assert smallest_of_best(loud, [1, 2]) == 0
    assert smallest_of_best(gains(0.0, gap.mean), [1, 2]) == 1  # the same difference without noise
    one_row = [RowScores(torch.tensor([v])) for v in (0.0, 0.01, 5.0)]
    assert smallest_of_best(one_row, [1, 1, 9]) == 2  # no error is known: only 0.05 nats count as a tie


def test_rows_and_draws_are_not_confused() -> None:
    """Gains are averaged over the draws of one row: a row with one odd draw is one row."""
    p = MemoryPosteriors(
        torch.tensor([[0.0], [50.0]], dtype=torch.float64), torch.full((2, 1), 1e-3, dtype=torch.float64)
    )
    codes = Codes.draw(p, Prior(1), rng=stream(0), points=8)
    gain = codes.gain(codes.log_prior + codes.z[:, 0])
    torch.testing.assert_close(gain.value, torch.tensor([0.0, 50.0], dtype=torch.float64), rtol=0, atol=0.01)

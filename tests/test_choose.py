"""Choices on the selection split: the code gain, the prior's share, and the smallest of those that tie."""

import math

import pytest
import torch
from torch import Tensor

from zoo import ZOO, posteriors
from zprime.errors import NumericalError
from zprime.latent import Defensive, Gaussian, Prior
from zprime.latent.choose import SHARES, Codes, best_share, paired, smallest_of_best
from zprime.posteriors import InMemory
from zprime.rng import generator

CODES = Codes.draw(posteriors(2), rng=generator(0), points=100)


def test_codes_are_draws_of_every_row_with_the_priors_density() -> None:
    assert len(CODES.z) == 24 * 5
    assert torch.equal(CODES.prior, Prior(2).log_prob(CODES.z))
    assert len(Codes.draw(posteriors(2), rng=generator(0)).z) == 24 * 16  # no more than 16 a row
    again = Codes.draw(posteriors(2), rng=generator(0), points=100)
    assert torch.equal(again.z, CODES.z)


@pytest.mark.parametrize("share", SHARES)
def test_the_gain_with_a_share_is_that_of_the_defensive_mixture_row_by_row(share: float) -> None:
    r = ZOO["mixture"](2, torch.float64)
    mixed = Defensive(r, share) if share else r
    expected = (mixed.log_prob(CODES.z) - CODES.prior).reshape(5, 24).mean(0)
    torch.testing.assert_close(CODES.gain(r.log_prob(CODES.z), share), expected, rtol=1e-10, atol=1e-10)


def test_a_narrow_r_that_misses_rows_takes_a_share_and_a_good_one_takes_none() -> None:
    scale = torch.tensor([0.4, 0.4], dtype=torch.float64)
    narrow = Gaussian(torch.zeros(2, dtype=torch.float64), scale)
    share, gain = best_share(CODES, narrow)
    assert share == 0.1
    assert float(gain.mean()) > float(CODES.gain(narrow.log_prob(CODES.z)).mean())
    assert float(gain.min()) > math.log(0.1)
    assert best_share(CODES, ZOO["gaussian"](2, torch.float64))[0] == 0.0


def test_a_density_that_is_nan_is_an_error_that_names_the_kind() -> None:
    broken = Gaussian(torch.tensor([math.nan, 0.0]), torch.ones(2))
    text = r"gaussian \(diagonal\): its log-density is NaN at 120 of 120 codes of the selection split; this fit"
    with pytest.raises(NumericalError, match=text):
        best_share(CODES, broken)


def test_paired_difference_has_the_error_of_the_differences() -> None:
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 2.0, 2.0])
    mean, stderr = paired(a, b)
    assert mean == pytest.approx(1.0)
    assert stderr == pytest.approx(1 / math.sqrt(3))
    assert paired(a[:1], b[:1]) == (1.0, math.inf)


def gains(*means: float, noise: float = 0.0, n: int = 100) -> list[Tensor]:
    """Rows that differ together, so that differences are exact but for `noise`."""
    common = 3 * torch.randn(n, generator=generator(0, "common"), dtype=torch.float64)
    rng = generator(0, "noise")
    return [common + m + noise * torch.randn(n, generator=rng, dtype=torch.float64) for m in means]


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
    mean, stderr = paired(loud[1], loud[0])
    assert 0.05 < mean < stderr
    assert smallest_of_best(loud, [1, 2]) == 0
    assert smallest_of_best(gains(0.0, mean), [1, 2]) == 1  # the same difference without noise
    one_row = [torch.tensor([0.0]), torch.tensor([0.01]), torch.tensor([5.0])]
    assert smallest_of_best(one_row, [1, 1, 9]) == 2  # no error is known: only 0.05 nats count as a tie


def test_rows_and_draws_are_not_confused() -> None:
    """Gains are averaged over the draws of one row: a row with one odd draw is one row."""
    p = InMemory(torch.tensor([[0.0], [50.0]], dtype=torch.float64), torch.full((2, 1), 1e-3, dtype=torch.float64))
    codes = Codes.draw(p, rng=generator(0), points=8)
    gain = codes.gain(codes.prior + codes.z[:, 0])
    torch.testing.assert_close(gain, torch.tensor([0.0, 50.0], dtype=torch.float64), rtol=0, atol=0.01)

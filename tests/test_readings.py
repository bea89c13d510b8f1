"""Readings of an encoder's second answer: another one is only called better where it clearly is."""

import math

import pytest
import torch
from torch import Tensor

from zprime.bring.readings import READINGS, check, check_moments, possible, read
from zprime.errors import ArrayError, UsageError

N = 100
RAW = torch.full((N, 1), 0.25)  # a standard deviation of 0.25, or a variance whose root is 0.5, or a logarithm


def elbo(gap: float, error: float):
    """Nats a row: 0 for the claimed reading (std), and for the variance's a mean of `gap` with this standard error."""
    noise = torch.linspace(-1, 1, N)
    noise = noise / noise.std() * error * math.sqrt(N)

    def of(scale: Tensor) -> Tensor:
        return gap + noise if float(scale[0, 0]) == 0.5 else torch.full((N,), -9.0 if float(scale[0, 0]) > 1 else 0.0)

    return of


@pytest.mark.parametrize(
    ("gap", "error", "refused"),
    [
        (0.2, 0.049, True),  # 4.08 standard errors
        (0.2, 0.051, False),  # 3.9: it may be chance
        (0.11, 0.001, True),
        (0.09, 0.001, False),  # clearly above 0, and too little to matter
        (-1.0, 0.001, False),
    ],
)
def test_another_reading_must_be_better_by_four_errors_and_a_tenth_of_a_nat(
    gap: float,
    error: float,
    refused: bool,  # noqa: FBT001
) -> None:
    if not refused:
        check(RAW, "std", elbo(gap, error))
        return
    with pytest.raises(UsageError, match=f"{gap:.1f} ± {error:.1f} nats a row lower than read as variance"):
        check(RAW, "std", elbo(gap, error))


def test_readings_are_each_others_inverse() -> None:
    scale = torch.tensor([[0.1, 0.7, 1.0, 3.0]])
    raw = {"std": scale, "variance": scale.square(), "log-variance": 2 * scale.log(), "log-std": scale.log()}
    assert raw.keys() == READINGS.keys()
    for name, value in raw.items():
        torch.testing.assert_close(read(value, name), scale)
        assert name in possible(value)
    assert possible(torch.tensor([[-1.0]])) == ["log-variance", "log-std"]
    with pytest.raises(ArrayError, match="a variance is above 0"):
        read(torch.tensor([[-1.0]]), "variance")


@pytest.mark.parametrize(("factor", "refused"), [(1.9, False), (2.1, True)])
def test_codes_must_be_within_a_factor_2_of_the_priors_variance(factor: float, refused: bool) -> None:  # noqa: FBT001
    """Means without variance: the codes' variance is `factor` that of the prior with the answer as a scale."""
    unit = torch.tensor([1.0, 3.0]).double()
    mean, raw = torch.zeros(50, 2), (math.sqrt(factor) * unit).expand(50, 2)
    if refused:
        with pytest.raises(UsageError, match=f"a factor {factor:.1f} away from the prior's"):
            check_moments(mean, raw, "std", unit)
    else:
        check_moments(mean, raw, "std", unit)

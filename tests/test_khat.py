"""Pareto k-hat beside arviz-stats, on planted tails, and where there is no tail to fit."""

import math
import warnings

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from zprime.rng import stream
from zprime.statistics.pareto import pareto_khat


def reference(log_weights: Tensor) -> Tensor:
    """It takes log-likelihoods, whose negatives are the log-weights of leave-one-out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(np.asarray(array_stats.psislw(-log_weights.numpy(), axis=-1)[1]).reshape(-1))


@pytest.mark.parametrize("k", [25, 100, 225, 226, 400, 3000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_the_same_numbers_as_arviz_stats(k: int, spread: float) -> None:
    log_weights = spread * torch.randn(40, k, generator=stream(0, "w", k), dtype=torch.float64) + 700
    torch.testing.assert_close(pareto_khat(log_weights), reference(log_weights), rtol=1e-9, atol=1e-9)


def test_it_finds_the_index_of_planted_pareto_tails() -> None:
    u = torch.rand(5000, generator=stream(0, "u"), dtype=torch.float64)
    planted = torch.tensor([0.2, 0.5, 0.9, 1.5], dtype=torch.float64)
    found = pareto_khat(-planted[:, None] * u.log())  # weights u^-k have a Pareto tail of index k
    torch.testing.assert_close(found, planted, rtol=0, atol=0.2)


def test_equal_weights_have_no_tail_and_lonely_ones_none_that_could_be_fitted() -> None:
    equal = torch.zeros(1, 400, dtype=torch.float64)
    lonely = torch.full((1, 400), -5000.0, dtype=torch.float64)
    lonely[0, 7] = 0.0
    few = torch.zeros(1, 20, dtype=torch.float64)
    assert pareto_khat(equal)[0] == -math.inf
    assert pareto_khat(lonely)[0] == math.inf
    assert torch.isnan(pareto_khat(few)[0])

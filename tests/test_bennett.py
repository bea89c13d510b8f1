"""Bennett's shift: exact where the log-ratio is known, with a standard error that holds."""

import math

import pytest
import torch

from zprime.rng import stream
from zprime.statistics.bennett import bennett, spread


def ratio(seed: int, n: int, m: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log N(x; a, 1) - log N(x; 0, 1) at rows from either."""
    x = torch.randn(n, generator=stream(seed, "p"), dtype=torch.float64)
    y = apart + torch.randn(m, generator=stream(seed, "r"), dtype=torch.float64)
    return apart * x - apart**2 / 2, apart * y - apart**2 / 2


@pytest.mark.parametrize(("n", "m"), [(200, 200), (100, 400)])
@pytest.mark.parametrize("wrong", [0.0, 0.3, -1.0])
def test_finds_a_planted_shift(n: int, m: int, wrong: float) -> None:
    found = [bennett(*(g + wrong for g in ratio(seed, n, m, 1.0))) for seed in range(100)]
    deltas = torch.tensor([f.delta for f in found])
    error = float(deltas.std()) / 10
    assert float(deltas.mean()) == pytest.approx(-wrong, abs=3 * error)
    assert float(deltas.std()) == pytest.approx(sum(f.stderr for f in found) / 100, rel=0.25)


def test_is_the_root_of_its_equation() -> None:
    from_p, from_r = ratio(0, 50, 80, 1.5)
    offset = math.log(80 / 50)
    d = bennett(from_p, from_r).delta
    left = torch.sigmoid(from_p + d + offset).sum()
    right = torch.sigmoid(-from_r - d - offset).sum()
    assert float(left) == pytest.approx(float(right), abs=1e-9)


def test_a_row_far_off_hardly_moves_it() -> None:
    """Every term is bounded, whatever the tails of g."""
    from_p, from_r = ratio(0, 200, 200, 1.0)
    before = bennett(from_p, from_r).delta
    from_p[0] = -1e6
    assert bennett(from_p, from_r).delta == pytest.approx(before, abs=0.05)


def test_no_overlap_has_no_error() -> None:
    assert bennett(torch.full((50,), -200.0), torch.full((50,), 200.0)).stderr == math.inf
    assert spread([torch.zeros(1)]) == math.inf

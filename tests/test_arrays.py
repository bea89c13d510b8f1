"""Checks on arrays, by the text of their errors; the stable Gaussian log-densities against scipy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from zprime.arrays import (
    blocks,
    check_finite,
    check_matrix,
    cholesky,
    count_columns,
    gaussian_log_prob,
    standard_kl,
    standard_log_prob,
)
from zprime.errors import ArrayError, NumericalError
from zprime.rng import stream


@given(st.integers(0, 200), st.integers(1, 50))
def test_blocks_cover_every_row_once_in_order(n: int, size: int) -> None:
    cut = list(blocks(n, size))
    assert [i for b in cut for i in range(b.start, b.stop)] == list(range(n))
    assert all(0 < b.stop - b.start <= size for b in cut)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(3), r"codes: expected shape \[n, 2\], got \[3\]"),
        (torch.zeros(3, 4), r"codes: expected shape \[n, 2\], got \[3, 4\]"),
        (torch.zeros(0, 2), r"codes: expected at least one row and one column, got \[0, 2\]"),
        (
            torch.zeros(3, 2, dtype=torch.int64),
            r"codes: expected floating-point numbers, got torch.int64; use x.float\(\)",
        ),
        (
            torch.tensor([[0.0, 0.0], [0.0, torch.inf]]),
            r"codes: expected finite numbers, got inf in 1 of 2 rows \(row 1\)",
        ),
    ],
)
def test_check_matrix_says_what_it_got(x: torch.Tensor, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        check_matrix("codes", x, d=2)


def test_check_matrix_returns_what_it_was_given() -> None:
    x = torch.ones(2, 3)
    assert check_matrix("x", x) is x
    with pytest.raises(ValueError, match=r"x: expected shape \[n, d\], got \[3\]"):  # ArrayError is a ValueError too
        check_matrix("x", torch.ones(3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_check_finite_names_the_rows_and_counts_them(bad: float) -> None:
    x = torch.zeros(20, 2, 3)
    x[[4, 7, 8, 9, 11, 12, 19], 1, 2] = bad
    with pytest.raises(
        ArrayError, match=rf"data: expected finite numbers, got {bad} in 7 of 20 rows \(row 4, 7, 8, 9, 11, \.\.\.\)"
    ):
        check_finite("data", x)


def test_check_finite_lets_large_numbers_pass_whose_sum_overflows() -> None:
    check_finite("data", torch.full((4, 4), 3e38))
    check_finite("data", torch.tensor([[3e38, -3e38]] * 3))
    check_finite("data", torch.zeros(2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("d", [1, 5])
def test_densities_equal_scipys(d: int) -> None:
    z, mean, log_scale = torch.randn(3, 7, d, generator=stream(0, "z"), dtype=torch.float64)
    scale = log_scale.exp()
    expected = [
        multivariate_normal.logpdf(a.numpy(), b.numpy(), (c**2).diag().numpy())
        for a, b, c in zip(z, mean, scale, strict=True)
    ]
    assert gaussian_log_prob(z, mean, scale).tolist() == pytest.approx(expected, abs=1e-12)
    standard = multivariate_normal(cov=torch.eye(d).numpy()).logpdf(z.numpy())
    assert standard_log_prob(z).tolist() == pytest.approx(standard.tolist(), abs=1e-12)
    assert standard_log_prob(z.float()).dtype == torch.float64


def test_kl_to_the_standard_normal_equals_torchs() -> None:
    mean, log_scale = torch.randn(2, 9, 3, generator=stream(0, "z"), dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_scale.exp()), normal(0.0, 1.0))
    torch.testing.assert_close(standard_kl(mean, log_scale.exp()), expected, rtol=1e-12, atol=1e-12)


def test_cholesky_names_whose_covariance_cannot_be_factored_and_its_range() -> None:
    good = torch.tensor([[4.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    assert torch.equal(cholesky("x", good), torch.tensor([[2.0, 0.0], [1.0, 2.0]], dtype=torch.float64))
    singular = torch.tensor([[2.5e7, 2.5e7], [2.5e7, 2.5e7]], dtype=torch.float64)
    text = r"mixture\(2\): a covariance is not positive definite .* \(variances from 4.0e\+00 to 2.5e\+07\)"
    with pytest.raises(NumericalError, match=text):
        cholesky("mixture(2)", torch.stack([good, singular]))


def test_count_columns_are_whole_numbers_beside_a_few_that_are_not() -> None:
    counts = torch.tensor([[0.0, 3.0], [2.0, 0.0]]).repeat(1, 10)
    found = count_columns(counts)
    assert found is not None
    assert bool(found.all())
    covariate = torch.cat([counts, torch.tensor([[0.5], [-1.0]])], 1)
    found = count_columns(covariate)
    assert found is not None
    assert found.tolist() == [True] * 20 + [False]
    assert count_columns(counts.clamp(max=1)) is None  # 0 and 1 only
    assert count_columns(counts + 0.5) is None
    assert count_columns(counts - 1) is None
    assert count_columns(counts.reshape(2, 1, 4, 5)) is None
    assert count_columns(counts[:0]) is None

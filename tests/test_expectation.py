"""The E-step of EM on components, compiled and in torch, against shares written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from zprime.kernels import Expectation, compiled, expectation
from zprime.rng import stream

SHAPES = [(1, 1, 1), (5, 1, 3), (97, 2, 4), (300, 3, 7), (1000, 5, 13), (193, 16, 40), (40, 30, 5)]


def case(n: int, d: int, k: int, *, diagonal: bool, far: float = 1.0) -> tuple[Tensor, ...]:
    """Data with their weights; log-weights, means and covariances of components."""
    rng = stream(0, "expectation", n, d, k)
    mean = far * torch.randn(n, d, generator=rng, dtype=torch.float64)
    variance = 0.05 + torch.rand(n, d, generator=rng, dtype=torch.float64)
    weight = torch.rand(n, generator=rng, dtype=torch.float64)
    weight[n // 2 :: 5] = 0 if n > 1 else 1
    centre = torch.randn(k, d, generator=rng, dtype=torch.float64)
    root = torch.randn(k, d, d, generator=rng, dtype=torch.float64)
    covariance = root @ root.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)
    if diagonal:
        covariance = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
    return (
        mean,
        variance,
        weight / weight.sum(),
        torch.randn(k, generator=rng).double().log_softmax(0),
        centre,
        covariance,
    )


def direct(
    mean: Tensor, variance: Tensor | None, weight: Tensor, log_weight: Tensor, centre: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of shares, of shares times first and times second moments, and the bound, with no square expanded."""
    n, d = mean.shape
    own = torch.zeros(n, d, dtype=torch.float64) if variance is None else variance
    log_c = torch.distributions.MultivariateNormal(centre, covariance).log_prob(mean[:, None])
    trace = torch.einsum("kjj,nj->nk", torch.linalg.inv(covariance), own)
    log_c = log_weight + log_c + 0.5 * d * math.log(2 * math.pi) - 0.5 * trace
    share = log_c.softmax(1) * weight[:, None]
    second = mean[:, :, None] * mean[:, None] + torch.diag_embed(own)
    return (
        share.sum(0),
        share.T @ mean,
        torch.einsum("nk,nij->kij", share, second),
        weight @ log_c.logsumexp(1),
    )


def parameters(log_weight: Tensor, centre: Tensor, covariance: Tensor, *, diagonal: bool) -> Tensor:
    """What the features are multiplied with, by its definition."""
    k, d = centre.shape
    precision = torch.linalg.inv(covariance)
    shift = (precision @ centre[:, :, None])[..., 0]
    constant = log_weight - 0.5 * torch.logdet(covariance) - 0.5 * (shift * centre).sum(1)
    if diagonal:
        second = -0.5 * precision.diagonal(dim1=1, dim2=2)
    else:
        second = torch.stack([-precision[:, i, j] * (0.5 if i == j else 1) for i in range(d) for j in range(i, d)], 1)
    return torch.cat([second, shift, constant[:, None]], 1).T


def check(
    mean: Tensor,
    variance: Tensor | None,
    weight: Tensor,
    *components: Tensor,
    diagonal: bool,
    rows: Tensor | None = None,
) -> None:
    data = Expectation(mean, variance, diagonal=diagonal)
    w = parameters(*components, diagonal=diagonal)
    given = weight if rows is None else weight[rows]
    statistics, bound = data.statistics(given, w, rows)
    if rows is not None:
        mean, variance, weight = mean[rows], None if variance is None else variance[rows], given
    share, first, second, expected = direct(mean, variance, weight, *components)
    d = mean.shape[1]
    upper = torch.arange(d).expand(2, -1) if diagonal else torch.triu_indices(d, d)
    wanted = torch.cat([second[:, upper[0], upper[1]], first, share[:, None]], 1)
    size = float(wanted.abs().max())
    torch.testing.assert_close(statistics, wanted, rtol=1e-9, atol=1e-11 * size)
    assert bound == pytest.approx(float(expected), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_equals_the_sums_written_out(n: int, d: int, k: int, diagonal: bool, backend: str) -> None:
    mean, variance, *rest = case(n, d, k, diagonal=diagonal)
    check(mean, variance, *rest, diagonal=diagonal)
    check(mean, None, *rest, diagonal=diagonal)


def test_some_rows_in_any_order_and_more_than_once(backend: str) -> None:
    given = case(300, 4, 6, diagonal=False)
    check(*given, diagonal=False, rows=torch.tensor([7, 299, 0, 7, 150] * 30))


def test_more_features_than_are_multiplied_in_one_go(backend: str) -> None:
    check(*case(130, 25, 3, diagonal=False), diagonal=False)


def test_data_far_from_every_component(backend: str) -> None:
    """Shares that underflow beside each other, densities that do so together."""
    check(*case(100, 3, 5, diagonal=False, far=300.0), diagonal=False)


def test_a_component_without_weight_takes_nothing_and_spoils_nothing(backend: str) -> None:
    mean, variance, weight, log_weight, *rest = case(50, 3, 4, diagonal=False)
    log_weight[2] = -torch.inf
    statistics, bound = Expectation(mean, variance, diagonal=False).statistics(
        weight, parameters(log_weight, *rest, diagonal=False)
    )
    assert math.isfinite(bound)
    assert float(statistics[2].abs().max()) < 1e-200
    assert float(statistics[:, -1].sum()) == pytest.approx(1)


def test_what_is_no_number_shows(backend: str) -> None:
    mean, variance, weight, *rest = case(50, 3, 4, diagonal=False)
    mean[17] = torch.nan
    statistics, bound = Expectation(mean, variance, diagonal=False).statistics(
        weight, parameters(*rest, diagonal=False)
    )
    assert math.isnan(bound)
    assert bool(statistics.isnan().any())


def test_any_layout_of_memory_will_do(backend: str) -> None:
    mean, variance, weight, *rest = case(200, 3, 4, diagonal=False)
    every_second = torch.stack([weight, weight], 1)[:, 0]
    check(mean.T.contiguous().T, variance.T.contiguous().T, every_second, *rest, diagonal=False)


@pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")
def test_threads_change_no_bit_and_blocks_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, variance, weight, *rest = case(40_000, 4, 5, diagonal=False)
    data, w = Expectation(mean, variance, diagonal=False), parameters(*rest, diagonal=False)
    one = data.statistics(weight, w)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = data.statistics(weight, w)
    assert torch.equal(one[0], several[0])
    assert one[1] == several[1]
    monkeypatch.setattr(compiled, "WORK", 1)
    pieces = data.statistics(weight, w)
    torch.testing.assert_close(pieces[0], one[0], rtol=1e-12, atol=1e-14)


def test_features_that_are_too_many_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "module", None)
    monkeypatch.setattr(expectation, "KEPT", 10)
    monkeypatch.setattr(expectation, "ROWS", 17)
    check(*case(60, 3, 4, diagonal=True), diagonal=True)

"""The hot paths against torch's and scipy's own densities in float64, and against quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

from oracles import torch_mixture
from zprime.kernels import (
    compiled,
    dense,
    diagonal_log_ratio,
    full_log_ratio,
    full_mixture_log_prob,
    mixture_log_prob,
    mixture_torch,
)
from zprime.rng import stream

SCALES = [1e-4, 1e-2, 1.0, 1e2]


def case(n: int, d: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of unit spread, scales within a factor e of `scale`, weights; points near a mean, between and far off."""
    rng = stream(seed, "case", n, d)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    scales = scale * (2 * torch.rand(n, d, generator=rng, dtype=torch.float64) - 1).exp()
    log_weight = torch.randn(n, generator=rng, dtype=torch.float64).log_softmax(0)
    noise = torch.randn(3, 12, d, generator=rng, dtype=torch.float64)
    z = torch.cat([mean[:12] + scales[:12] * noise[0], noise[1], 1e4 * noise[2]])
    return z, mean, scales, log_weight


def rounding(z: Tensor, scale: float) -> Tensor:
    """What an expanded square may lose in float64: 1e-15 of the squares that are expanded."""
    return 1e-11 + 4e-16 * z.shape[1] * (z.square().amax(1) + 10) * math.e**2 / scale**2


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_diagonal_mixture_equals_torchs(d: int, scale: float) -> None:
    z, mean, scales, log_weight = case(50, d, scale)
    expected = torch_mixture(mean, scales, log_weight).log_prob(z)
    error = (mixture_log_prob(z, mean, scales, log_weight) - expected).abs()
    assert (error <= rounding(z, scale)).all(), (error / rounding(z, scale)).max()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_full_mixture_equals_torchs(d: int, scale: float) -> None:
    z, mean, scales, log_weight = case(12, d, scale)
    tril = torch.diag_embed(scales) + 0.3 * scale * torch.randn(
        12, d, d, generator=stream(0), dtype=torch.float64
    ).tril(-1)
    expected = torch_mixture(mean, tril, log_weight).log_prob(z)
    torch.testing.assert_close(full_mixture_log_prob(z, mean, tril, log_weight), expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
@pytest.mark.parametrize(("d", "scale"), [(16, 0.01), (32, 0.003), (64, 0.1)])
def test_float32_storage_loses_nothing_near_the_components(
    d: int, scale: float, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored as float32, summed in float64: the same numbers as torch's mixture of the very same stored values."""
    if kernels == "torch":
        monkeypatch.setattr(compiled, "module", None)
    *tensors, log_weight = case(500, d, scale)
    z, mean, scales = (t.float() for t in tensors)
    z = z[:12]
    expected = torch_mixture(mean, scales, log_weight).log_prob(z.double())
    found = mixture_log_prob(z, mean, scales, log_weight)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-9)
    wide = mixture_log_prob(z.double(), mean, scales, log_weight)
    torch.testing.assert_close(wide, expected, rtol=0, atol=4e-9)


def test_one_dimension_equals_scipys() -> None:
    z, mean, scales, log_weight = case(50, 1, 1.0)
    terms = norm.logpdf(z.numpy(), mean.numpy().T, scales.numpy().T) + log_weight.numpy()
    np.testing.assert_allclose(mixture_log_prob(z, mean, scales, log_weight).numpy(), logsumexp(terms, 1), rtol=1e-12)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_components_of_weight_zero_count_for_nothing(*, full: bool) -> None:
    z, mean, scales, log_weight = case(20, 3, 0.5)
    log_weight[::2] = -torch.inf
    z = torch.cat([z, mean[:1]])  # right on a component of weight zero
    shape, density = (torch.diag_embed(scales), full_mixture_log_prob) if full else (scales, mixture_log_prob)
    kept = density(z, mean[1::2], shape[1::2], log_weight[1::2])
    torch.testing.assert_close(density(z, mean, shape, log_weight), kept, rtol=1e-12, atol=1e-12)
    assert (density(z, mean[::2], shape[::2], log_weight[::2]) == -torch.inf).all()


@pytest.mark.parametrize("sizes", [(3, 4, 7), (1, 1, 1), (100, 5, 5), (256, 2048, 65536)])
def test_leave_out_equals_a_brute_force_mask_at_every_tile_size(
    sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "module", None)
    for name, value in zip(("POINTS", "COMPONENTS", "PANEL"), sizes, strict=True):
        monkeypatch.setattr(mixture_torch, name, value)
    z, mean, scales, log_weight = case(23, 3, 0.4)
    position = torch.arange(len(z)) % 25 - 1  # -1 leaves nothing out; 23 is no position
    terms = (
        -0.5 * ((z[:, None] - mean) / scales).square().sum(2)
        - scales.log().sum(1)
        - 1.5 * math.log(2 * math.pi)
        + log_weight
    )
    masked = terms.masked_fill(position[:, None] == torch.arange(23), -torch.inf)
    found = mixture_log_prob(z, mean, scales, log_weight, leave_out=position)
    torch.testing.assert_close(found, torch.logsumexp(masked, 1), rtol=1e-11, atol=1e-9)
    assert (
        mixture_log_prob(z[:1], mean[:1], scales[:1], log_weight[:1], leave_out=torch.tensor([0])).item() == -torch.inf
    )


@pytest.mark.parametrize("points", [1, 5, 8192])
def test_full_mixture_does_not_depend_on_blocks(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, mean, scales, log_weight = case(12, 3, 0.4)
    whole = full_mixture_log_prob(z, mean, torch.diag_embed(scales), log_weight)
    monkeypatch.setattr(dense, "POINTS", points)
    torch.testing.assert_close(
        full_mixture_log_prob(z, mean, torch.diag_embed(scales), log_weight), whole, rtol=1e-13, atol=0
    )


def theory(mu: Tensor, s: Tensor, m: Tensor, t: Tensor) -> Tensor:
    """log E_q[N(z; m, t^2) / N(z; 0, I)] as docs/theory.md writes it (section 3), for every pair."""
    mu, s, m, t = mu[:, None], s[:, None], m[None], t[None]
    total = s**2 + t**2
    v, c = s**2 * t**2 / total, (mu * t**2 + m * s**2) / total
    terms = -0.5 * total.log() - (mu - m) ** 2 / (2 * total) - 0.5 * torch.log1p(-v) + c**2 / (2 * (1 - v))
    return torch.where((v < 1).all(2), terms.nan_to_num(0).sum(2), torch.inf)


def pairs(d: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q and r with scales between `low` and `high`, means up to 2 apart in units of the larger scale."""
    rng = stream(0, "pairs", d)
    s, t = (low * (high / low) ** torch.rand(n, d, generator=rng, dtype=torch.float64) for n in (30, 20))
    mu = torch.randn(30, d, generator=rng, dtype=torch.float64)
    m = mu[:20] + torch.maximum(s[:20], t) * (2 * torch.rand(20, d, generator=rng, dtype=torch.float64) - 1)
    return mu, s, m, t


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.0), (0.01, 1.0), (0.5, 1.3), (1e-4, 1e2)])
@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_log_ratio_equals_the_theory_page_in_both_kernels(d: int, low: float, high: float) -> None:
    mu, s, m, t = pairs(d, low, high)
    expected = theory(mu, s, m, t)
    finite = torch.isfinite(expected)
    found = diagonal_log_ratio(mu, s, m, t)
    assert torch.equal(torch.isfinite(found), finite)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    full, centre, factor = full_log_ratio(mu, s, m, torch.diag_embed(t))
    assert torch.equal(torch.isfinite(full), finite)
    torch.testing.assert_close(full, expected, rtol=1e-7, atol=1e-6)
    a = s[:, None] ** 2 + t**2 - s[:, None] ** 2 * t**2
    product = (mu[:, None] * t**2 + m * s[:, None] ** 2) / a
    torch.testing.assert_close(centre[finite], product[finite], rtol=1e-6, atol=1e-8)
    precision = factor @ factor.mT
    expected_precision = torch.diag_embed(a / (s[:, None] ** 2 * t**2))
    torch.testing.assert_close(precision[finite], expected_precision[finite], rtol=1e-6, atol=1e-8)
    assert centre[~finite].isnan().all()  # there is no such product


@pytest.mark.parametrize("d", [1, 16, 64])
def test_log_ratio_in_float32_is_right_to_1e_4_nats_where_it_matters(d: int, backend: str) -> None:
    """Scales from 0.01 to 1, q and r within a few scales of each other; elsewhere right to 1e-5 of the value."""
    mu, s, m, t = (x.float() for x in pairs(d, 0.01, 1.0))
    found = diagonal_log_ratio(mu, s, m, t)
    assert found.dtype == torch.float32
    expected = theory(mu.double(), s.double(), m.double(), t.double())
    error = (found.double() - expected).abs()
    assert (error <= 1e-4 + 1e-5 * expected.abs()).all()
    near = expected > -20
    assert near.any()
    assert float(error[near].max()) < 1e-4


@pytest.mark.parametrize("d", [1, 3, 5, 16])
def test_log_ratio_in_float32_diverges_where_it_does_in_float64(d: int, backend: str) -> None:
    """Scales of both below and above 1, for which A is above 0, below it, and exactly 0."""
    mu, s, m, t = (x.float() for x in pairs(d, 0.01, 3.0))
    s[0], t[0] = 2.0, (4 / 3) ** 0.5
    s[1], t[1] = 2.0, 1.0
    expected = theory(mu.double(), s.double(), m.double(), t.double())
    product = s.double()[:, None] ** 2 * (1 - t.double() ** 2) + t.double() ** 2
    clear = (product.abs() > 1e-5).all(2)  # elsewhere rounding decides
    found = diagonal_log_ratio(mu, s, m, t)
    assert torch.equal(found.isinf()[clear], expected.isinf()[clear])
    assert expected[clear].isinf().any() or d == 16
    assert not found.isnan().any()


def test_log_ratio_of_the_prior_is_exactly_0(backend: str) -> None:
    rng = stream(0, "prior")
    mu, s = 3 * torch.randn(40, 7, generator=rng), 0.01 + 2 * torch.rand(40, 7, generator=rng)
    assert torch.equal(diagonal_log_ratio(mu, s, torch.zeros(3, 7), torch.ones(3, 7)), torch.zeros(40, 3))


def test_log_ratio_in_float32_holds_over_the_scales_it_is_tested_for(backend: str) -> None:
    """Products of A over many dimensions leave float32 on both sides; components are no multiple of any block."""
    rng = stream(0, "wide scales")
    mu, m = torch.randn(3, 90, generator=rng), torch.randn(700, 90, generator=rng)
    for low, high in ((1e-4, 2e-4), (0.3, 0.9), (50.0, 99.0)):
        least, most = (low, high) if high < 1 else (0.5, 0.9)
        s = least + (most - least) * torch.rand(3, 90, generator=rng)
        t = low + (high - low) * torch.rand(700, 90, generator=rng)
        expected = theory(mu.double(), s.double(), m.double(), t.double())
        found = diagonal_log_ratio(mu, s, m, t)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("high", [0.9, 2.0])
def test_blocks_of_pairs_change_no_bit_of_a_log_ratio(
    high: float, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = stream(0, "blocks")
    mu, mean = torch.randn(7, 5, generator=rng), torch.randn(11, 5, generator=rng)
    s, scale = (0.1 + high * torch.rand(n, 5, generator=rng) for n in (7, 11))
    whole = diagonal_log_ratio(mu, s, mean, scale)
    assert bool(whole.isinf().any()) == (high > 1)
    assert not bool(whole.isinf().all())
    monkeypatch.setattr("zprime.kernels.mixture.NEAR", 1)
    monkeypatch.setattr(compiled, "WORK", 1)
    assert torch.equal(diagonal_log_ratio(mu, s, mean, scale), whole)


def test_a_log_ratio_with_the_inverse_given_is_the_same() -> None:
    rng = stream(0, "inverse")
    tril = torch.randn(2, 3, 3, generator=rng, dtype=torch.float64).tril(-1) + torch.eye(3).double()
    mu, s, mean = torch.randn(4, 3, generator=rng), torch.full((4, 3), 0.5), torch.randn(2, 3, generator=rng)
    found = full_log_ratio(mu, s, mean, tril, inverse=torch.cholesky_inverse(tril))
    assert all(map(torch.equal, found, full_log_ratio(mu, s, mean, tril)))


@pytest.mark.parametrize(
    ("mu", "s", "m", "t"), [(0.5, 0.8, -1.0, 0.3), (2.0, 0.05, 1.9, 0.1), (0.3, 1.2, 0.1, 1.3), (0.0, 0.4, 0.0, 50.0)]
)
def test_log_ratio_equals_quadrature(mu: float, s: float, m: float, t: float) -> None:
    peak = (mu / s**2 + m / t**2) / (s**-2 + t**-2 - 1)
    value, _ = quad(
        lambda z: math.exp(norm.logpdf(z, mu, s) + norm.logpdf(z, m, t) - norm.logpdf(z)),
        -60,
        60,
        points=[peak, mu, m],
        epsabs=0,
        limit=500,
    )
    column = [torch.tensor([[x]], dtype=torch.float64) for x in (mu, s, m, t)]
    assert diagonal_log_ratio(*column).item() == pytest.approx(math.log(value), abs=1e-7)
    assert full_log_ratio(*column[:3], column[3][:, None])[0].item() == pytest.approx(math.log(value), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("s", "t", "finite"),
    [
        (1.5, 1.2, True),
        (1.5, 1.4, False),
        (1.1, 50.0, False),
        (50.0, 1.1, False),
        (1.0, 100.0, True),
        (50.0, 1.0, True),
    ],
)
def test_diverges_where_and_only_where_both_scales_are_too_large(
    s: float, t: float, *, finite: bool, dtype: torch.dtype
) -> None:
    """1/s^2 + 1/t^2 <= 1 in any one dimension makes E_q[r/p] infinite."""
    assert (1 / s**2 + 1 / t**2 > 1) == finite
    q = torch.zeros(1, 5, dtype=dtype), torch.tensor([[0.5, s, 0.5, 0.5, 1.1]], dtype=dtype)
    r = torch.zeros(2, 5, dtype=dtype), torch.tensor([[0.5, t, 0.5, 0.5, 1.1], [0.5] * 5], dtype=dtype)
    for found in (diagonal_log_ratio(*q, *r), full_log_ratio(*q, r[0], torch.diag_embed(r[1]))[0]):
        assert torch.isfinite(found).tolist() == [[finite, True]]
        assert finite or found[0, 0] == torch.inf


def test_an_indefinite_precision_off_the_axes_diverges() -> None:
    """Each axis alone would converge; along the diagonal r is far wider than p."""
    tril = torch.linalg.cholesky(torch.tensor([[[1.3, 1.2], [1.2, 1.3]]], dtype=torch.float64))
    wide, unit = torch.full((1, 2), 1.5, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    assert torch.isfinite(diagonal_log_ratio(unit, wide, unit, torch.full((1, 2), 1.3**0.5, dtype=torch.float64))).all()
    assert full_log_ratio(unit, wide, unit, tril)[0].item() == torch.inf
    assert torch.isfinite(full_log_ratio(unit, wide * 0.6, unit, tril)[0]).all()


@pytest.mark.parametrize("where", ["points", "components", "one component"])
def test_what_float32_cannot_tell_apart_is_not_dropped(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 1e9, which float32 knows to 32 nats or so: terms beyond that error of the largest are not the least.

    The points lie 3e4 away, all round, from components that differ by a few thousandths; or the components do, in two
    groups on either side of the points; or the points lie half way between one component and all others.
    """
    monkeypatch.setattr(compiled, "module", None)
    rng = stream(0, "far", where)
    mean = 1e-3 * torch.randn(4000, 2, generator=rng, dtype=torch.float64)
    z = 1e-3 * torch.randn(256, 2, generator=rng, dtype=torch.float64)
    far = torch.tensor([3e4, 0.0]).double()
    if where == "points":
        z = 3e4 * z / z.norm(dim=1, keepdim=True)
    elif where == "components":
        mean[::2] += far
        mean[1::2] -= far
    else:
        mean[0] += far
        z = z + far / 2
    scale, log_weight = torch.ones_like(mean), torch.full((4000,), -math.log(4000)).double()
    gap = z[:, None] - mean
    direct = torch.logsumexp(log_weight - math.log(2 * math.pi) - 0.5 * gap.square().sum(2), 1)
    for tolerance in (0.0, 1e-3):
        found = mixture_log_prob(z, mean, scale, log_weight, tolerance=tolerance)
        torch.testing.assert_close(found, direct, rtol=0, atol=1e-6 + tolerance)

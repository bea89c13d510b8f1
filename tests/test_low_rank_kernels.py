"""Density and score of mixtures of low rank: compiled for every instruction set of this machine, and in torch.

All against dense Gaussians in float64, and against one another.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from zprime.kernels import LowRankMixture, compiled, low_rank_torch
from zprime.kernels import low_rank as kernel
from zprime.rng import stream

needs_compiled = pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def case(k: int, d: int, r: int, *, apart: float = 1.0, scale: float = 1.0) -> Parts:
    """Means of spread `apart`, standard deviations about `scale`, factors of about that size: float64."""
    rng = stream(0, "low rank", k, d, r)
    mean, scales = (torch.randn(k, d, generator=rng, dtype=torch.float64) for _ in range(2))
    factor = torch.randn(k, d, r, generator=rng, dtype=torch.float64)
    log_weight = torch.randn(k, generator=rng, dtype=torch.float64).log_softmax(0)
    return apart * mean, scale * (0.3 * scales).exp(), 0.5 * scale * factor, log_weight


def points(parts: Parts, m: int) -> Tensor:
    """Draws, points between the components, and one far off."""
    mean, scale, factor, _ = parts
    rng = stream(1, "points", m)
    at = torch.arange(m) % len(mean)
    u, e = (torch.randn(m, x, generator=rng, dtype=torch.float64) for x in factor.shape[:0:-1])
    z = mean[at] + scale[at] * e + (factor[at] @ u[..., None])[..., 0]
    z[1::5] += torch.randn(mean.shape[1], generator=rng, dtype=torch.float64)
    z[4::50] *= 100
    return z


def dense(parts: Parts, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-terms, log-density and its gradient by autograd, from d x d covariances."""
    mean, scale, factor, log_weight = parts
    covariance = torch.diag_embed(scale.square()) + factor @ factor.mT
    normal = MultivariateNormal(mean, covariance)
    point = z.double().clone().requires_grad_()
    value = MixtureSameFamily(Categorical(logits=log_weight), normal).log_prob(point)
    (score,) = torch.autograd.grad(value.sum(), point)
    return normal.log_prob(z.double()[:, None]) + log_weight, value.detach(), score


def check(parts: Parts, z: Tensor, *, rtol: float = 1e-10, atol: float = 1e-9) -> None:
    """Terms, value and score, alone and together, are the dense ones."""
    mixture = LowRankMixture(*parts)
    terms, value, score = dense(parts, z)
    close = torch.testing.assert_close
    close(mixture.terms(z), terms, rtol=rtol, atol=atol)
    close(mixture.log_prob(z), value, rtol=rtol, atol=atol)
    both = mixture.log_prob_and_score(z)
    assert torch.equal(both[0], mixture.log_prob(z))
    close(both[1], score, rtol=1e-7, atol=1e-7 * float(score.abs().max()))


@pytest.mark.parametrize("r", [0, 1, 3, 8, 13])
@pytest.mark.parametrize("d", [1, 7, 16, 33, 130])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_is_the_dense_form(k: int, d: int, r: int, backend: str) -> None:  # noqa: ARG001
    parts = case(k, d, r)
    check(parts, points(parts, 53))


@pytest.mark.parametrize("m", [1, 5, 6, 8, 12, 95, 96, 97, 200])
def test_is_the_dense_form_for_any_number_of_points(m: int, backend: str) -> None:  # noqa: ARG001
    parts = case(2, 6, 2)
    check(parts, points(parts, m))


def test_rank_d_is_the_dense_form(backend: str) -> None:  # noqa: ARG001
    parts = case(3, 9, 9)
    check(parts, points(parts, 40))


@pytest.mark.parametrize(("apart", "scale"), [(1e6, 1.0), (1e3, 1e-3), (1.0, 1e-6), (1e-6, 1e-6), (1e8, 1e6)])
def test_far_means_and_tiny_scales(apart: float, scale: float, backend: str) -> None:  # noqa: ARG001
    """Without far points, of which the dense form is wrong itself."""
    parts = case(4, 12, 3, apart=apart, scale=scale)
    z = points(parts, 40)
    z = z[(torch.arange(40) % 5 == 0) | (torch.arange(40) % 5 == 2)]
    _, value, _ = dense(parts, z)
    torch.testing.assert_close(LowRankMixture(*parts).log_prob(z), value, rtol=1e-8, atol=1e-6)


def test_float32_points_are_those_of_float64(backend: str) -> None:  # noqa: ARG001
    parts = case(3, 10, 2)
    z = points(parts, 30).float()
    mixture = LowRankMixture(*parts)
    for a, b in zip(mixture.log_prob_and_score(z), mixture.log_prob_and_score(z.double()), strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_rows_need_not_be_contiguous(backend: str) -> None:  # noqa: ARG001
    parts = case(2, 8, 2)
    z = points(parts, 20)
    apart = torch.stack([z, z], 2)[:, :, 0]
    turned = z.T.contiguous().T
    strided = tuple(torch.stack([t, t], -1)[..., 0] for t in parts)
    value, score = LowRankMixture(*parts).log_prob_and_score(z)
    whole = LowRankMixture(*parts)
    for mixture, rows in ((whole, apart), (whole, turned), (LowRankMixture(*strided), z)):
        assert not (rows.is_contiguous() and mixture.mean.is_contiguous())
        a, b = mixture.log_prob_and_score(rows)
        torch.testing.assert_close(a, value, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(b, score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("r", [0, 2])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_point_that_is_not_finite_gives_nan_and_no_other_does(bad: float, r: int, backend: str) -> None:  # noqa: ARG001
    parts = case(3, 8, r)
    z = points(parts, 20)
    mixture = LowRankMixture(*parts)
    value, score = mixture.log_prob_and_score(z)
    z[7, 3] = bad
    broken = mixture.log_prob_and_score(z)
    assert bool(mixture.terms(z)[7].isnan().all())
    assert bool(broken[0][7].isnan())
    assert bool(broken[1][7].isnan().all())
    kept = torch.arange(20) != 7
    torch.testing.assert_close(broken[0][kept], value[kept], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(broken[1][kept], score[kept], rtol=1e-12, atol=1e-12)


def test_no_points(backend: str) -> None:  # noqa: ARG001
    mixture = LowRankMixture(*case(3, 5, 2))
    value, score = mixture.log_prob_and_score(torch.empty(0, 5))
    assert value.shape == (0,)
    assert score.shape == (0, 5)
    assert mixture.terms(torch.empty(0, 5)).shape == (0, 3)


def test_weights_of_zero_count_for_nothing(backend: str) -> None:  # noqa: ARG001
    mean, scale, factor, weight = case(3, 6, 2)
    weight[1] = -math.inf
    z = points((mean, scale, factor, weight), 20)
    kept = torch.tensor([0, 2])
    less = LowRankMixture(mean[kept], scale[kept], factor[kept], weight[kept])
    for a, b in zip(
        LowRankMixture(mean, scale, factor, weight).log_prob_and_score(z), less.log_prob_and_score(z), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    none = LowRankMixture(mean, scale, factor, torch.full_like(weight, -math.inf))
    assert bool((none.log_prob(z) == -math.inf).all())


def test_the_score_is_a_finite_difference(backend: str) -> None:  # noqa: ARG001
    parts = case(4, 5, 2)
    mixture, z, h = LowRankMixture(*parts), points(parts, 4), 1e-5
    _, score = mixture.log_prob_and_score(z)
    for j in range(5):
        step = h * torch.eye(5, dtype=torch.float64)[j]
        slope = (mixture.log_prob(z + step) - mixture.log_prob(z - step)) / (2 * h)
        torch.testing.assert_close(score[:, j], slope, rtol=1e-6, atol=1e-6)


def test_precisions_are_the_diagonals_of_the_inverses() -> None:
    mean, scale, factor, weight = case(3, 6, 2)
    inverse = torch.linalg.inv(torch.diag_embed(scale.square()) + factor @ factor.mT)
    found = LowRankMixture(mean, scale, factor, weight).precisions
    torch.testing.assert_close(found, inverse.diagonal(dim1=1, dim2=2))


def test_the_two_forms_in_torch_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near means by expanded squares, far ones by differences, in blocks of a few rows too."""
    parts = case(5, 20, 3)
    z = points(parts, 50)
    made = []
    for limit, numbers in ((low_rank_torch.EXPANDED, 1 << 18), (0.0, 1 << 18), (low_rank_torch.EXPANDED, 1)):
        monkeypatch.setattr(low_rank_torch, "EXPANDED", limit)
        monkeypatch.setattr(low_rank_torch, "NUMBERS", numbers)
        form = low_rank_torch.Blocks(LowRankMixture(*parts).factors)
        assert form.near == (limit > 0)
        made.append(form.evaluate(z, terms=True, score=True))
    for other in made[1:]:
        for a, b in zip(made[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@needs_compiled
def test_threads_and_neighbours_of_a_point_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(6, 40, 5)
    mixture, z = LowRankMixture(*parts), points(parts, 1000)
    value, score = mixture.log_prob_and_score(z)
    monkeypatch.setattr(compiled, "SMALL", 0)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for a, b in zip(mixture.log_prob_and_score(z), (value, score), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)
    order = torch.randperm(1000, generator=stream(0, "order"))[:337]
    for a, b in zip(mixture.log_prob_and_score(z[order]), (value[order], score[order]), strict=True):
        assert torch.equal(a, b)


@needs_compiled
def test_the_compiled_kernel_is_used_and_refuses_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(2, 8, 2)
    z, mixture = points(parts, 5), LowRankMixture(*parts)
    f, out = mixture.factors, torch.empty(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="shapes differ"):
        compiled.module.low_rank(z, f.mean, f.inverse, f.factor, f.constant, None, out, None, 1)

    def never(*_: object) -> None:
        raise AssertionError("torch was used")

    monkeypatch.setattr(kernel.low_rank_torch, "Blocks", never)
    mixture.log_prob(z)

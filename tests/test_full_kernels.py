"""Log-density of mixtures with full covariance: compiled for every instruction set of this machine, and in torch."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from zprime.components import Full
from zprime.kernels import Whitened, compiled, dense
from zprime.rng import stream

needs_compiled = pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")
Parts = tuple[Tensor, Tensor, Tensor]


def case(k: int, d: int, *, apart: float = 1.0, scale: float = 1.0) -> Parts:
    """Means of spread `apart`, Cholesky factors of about `scale`, log-weights: float64."""
    rng = stream(0, "full", k, d)
    mean = apart * torch.randn(k, d, generator=rng, dtype=torch.float64)
    root = torch.randn(k, d, d, generator=rng, dtype=torch.float64)
    tril = torch.linalg.cholesky(root @ root.mT / d + 0.3 * torch.eye(d, dtype=torch.float64))
    return mean, scale * tril, torch.randn(k, generator=rng, dtype=torch.float64).log_softmax(0)


def points(parts: Parts, m: int) -> Tensor:
    """Draws, points between the components, and a few far off."""
    mean, tril, _ = parts
    rng = stream(1, "points", m)
    at = torch.arange(m) % len(mean)
    z = mean[at] + (tril[at] @ torch.randn(m, mean.shape[1], 1, generator=rng, dtype=torch.float64))[..., 0]
    z[1::5] += torch.randn(mean.shape[1], generator=rng, dtype=torch.float64)
    z[4::50] *= 100
    return z


def truth(parts: Parts, z: Tensor) -> Tensor:
    mean, tril, log_weight = parts
    return MixtureSameFamily(Categorical(logits=log_weight), MultivariateNormal(mean, scale_tril=tril)).log_prob(z)


@pytest.mark.parametrize("d", [1, 2, 5, 7, 8, 13, 16, 33])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_is_that_of_torch_distributions(k: int, d: int, backend: str) -> None:  # noqa: ARG001
    parts = case(k, d)
    z = points(parts, 53)
    torch.testing.assert_close(Whitened(*parts).log_prob(z), truth(parts, z), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("m", [1, 5, 6, 8, 12, 23, 95, 96, 97, 200])
def test_for_any_number_of_points(m: int, backend: str) -> None:  # noqa: ARG001
    parts = case(2, 6)
    z = points(parts, m)
    torch.testing.assert_close(Whitened(*parts).log_prob(z), truth(parts, z), rtol=1e-12, atol=1e-11)


def test_no_points(backend: str) -> None:  # noqa: ARG001
    assert Whitened(*case(3, 5)).log_prob(torch.empty(0, 5)).shape == (0,)


@pytest.mark.parametrize(("apart", "scale"), [(1e6, 1.0), (1e3, 1e-3), (1.0, 1e-6), (1e-6, 1e-6), (1e8, 1e6)])
def test_far_means_and_tiny_scales(apart: float, scale: float, backend: str) -> None:  # noqa: ARG001
    """Differences are taken first: as exact as the input. Without far points, whose density is of large numbers."""
    parts = case(4, 12, apart=apart, scale=scale)
    z = points(parts, 40)[::5]
    torch.testing.assert_close(Whitened(*parts).log_prob(z), truth(parts, z), rtol=1e-8, atol=1e-6)


def test_float32_points_are_those_of_float64(backend: str) -> None:  # noqa: ARG001
    parts = case(3, 10)
    z, mixture = points(parts, 30).float(), Whitened(*parts)
    torch.testing.assert_close(mixture.log_prob(z), mixture.log_prob(z.double()), rtol=0, atol=0)


def test_rows_need_not_be_contiguous(backend: str) -> None:  # noqa: ARG001
    parts = case(2, 8)
    z = points(parts, 20)
    found = Whitened(*(torch.stack([t, t], -1)[..., 0] for t in parts)).log_prob(z.T.contiguous().T)
    torch.testing.assert_close(found, Whitened(*parts).log_prob(z), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_point_that_is_not_finite_gives_nan_and_no_other_does(bad: float, backend: str) -> None:  # noqa: ARG001
    parts = case(3, 9)
    z, mixture = points(parts, 20), Whitened(*parts)
    before = mixture.log_prob(z)
    z[7, 3] = bad
    after, kept = mixture.log_prob(z), torch.arange(20) != 7
    assert bool(after[7].isnan())
    torch.testing.assert_close(after[kept], before[kept], rtol=1e-13, atol=1e-13)


def test_weights_of_zero_count_for_nothing(backend: str) -> None:  # noqa: ARG001
    mean, tril, weight = case(3, 6)
    weight[1] = -math.inf
    z, kept = points((mean, tril, weight), 20), torch.tensor([0, 2])
    less = Whitened(mean[kept], tril[kept], weight[kept]).log_prob(z)
    torch.testing.assert_close(Whitened(mean, tril, weight).log_prob(z), less, rtol=1e-13, atol=1e-13)
    none = Whitened(mean, tril, torch.full_like(weight, -math.inf))
    assert bool((none.log_prob(z) == -math.inf).all())


def test_a_component_that_is_left_out_counts_for_nothing(backend: str) -> None:  # noqa: ARG001
    mean, tril, weight = case(3, 6)
    z, mixture = points((mean, tril, weight), 20), Whitened(mean, tril, weight)
    less = mixture.log_prob(z, leave_out=torch.ones(20, dtype=torch.long))
    weight[1] = -math.inf
    torch.testing.assert_close(less, Whitened(mean, tril, weight).log_prob(z), rtol=1e-12, atol=1e-12)
    every = mixture.log_prob(z, leave_out=torch.full((20,), -1))
    torch.testing.assert_close(every, mixture.log_prob(z), rtol=1e-12, atol=1e-12)


def test_many_components_are_added_up_in_parts(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:  # noqa: ARG001
    parts = case(11, 5)
    z = points(parts, 60)
    whole = Whitened(*parts).log_prob(z)
    monkeypatch.setattr(dense, "TOGETHER", 4)
    torch.testing.assert_close(Whitened(*parts).log_prob(z), whole, rtol=1e-13, atol=1e-13)


def test_the_score_is_the_gradient(backend: str) -> None:  # noqa: ARG001
    mean, tril, weight = case(4, 5)
    z = points((mean, tril, weight), 30).requires_grad_()
    (found,) = torch.autograd.grad(Full(weight, mean, tril).log_prob(z).sum(), z)
    (expected,) = torch.autograd.grad(truth((mean, tril, weight), z).sum(), z)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@needs_compiled
@pytest.mark.parametrize("k", [6, 1300, 5000])  # in 1, 3 and 10 parts
def test_threads_and_neighbours_of_a_point_change_no_bit(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    parts = case(k, 4, apart=0.1)  # every component counts
    mixture, z = Whitened(*parts), points(parts, 1000)
    value = mixture.log_prob(z)
    monkeypatch.setattr(compiled, "SMALL", 0)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(mixture.log_prob(z), value)
    finally:
        torch.set_num_threads(before)
    order = torch.randperm(1000, generator=stream(0, "order"))
    for some in (order[:337], *order[337:537].split(1)):
        assert torch.equal(mixture.log_prob(z[some]), value[some])


@needs_compiled
def test_the_compiled_kernel_is_used_and_refuses_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(2, 8)
    z, mixture = points(parts, 5), Whitened(*parts)
    given, out = (mixture.mean, mixture.whiten, mixture.constant), torch.empty(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="shapes differ"):
        compiled.module.full(z, *given, out, 1)
    monkeypatch.setattr(Whitened, "_terms", lambda *_: pytest.fail("torch was used"))
    mixture.log_prob(z)

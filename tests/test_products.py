"""Log E_q[N_k/p] of components with full covariance, compiled, beside the form in torch that holds every pair."""

import pytest
import torch
from torch import Tensor

from zprime.components import Full
from zprime.kernels import Products, compiled, full_log_ratio, products
from zprime.rng import stream

needs_compiled = pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")


def case(m: int, k: int, d: int, *, widest: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Posteriors with scales up to `widest`, and components with covariances of all shapes about the prior's."""
    rng = stream(k, "case", d)
    mu, s = torch.randn(m, d, generator=rng), widest * torch.rand(m, d, generator=rng).clamp(min=0.02)
    root = torch.randn(k, d, d, generator=rng, dtype=torch.float64) / d**0.5
    tril = torch.linalg.cholesky(widest * root @ root.mT + 0.05 * torch.eye(d))
    return mu, s, torch.randn(k, d, generator=rng, dtype=torch.float64), tril


@pytest.mark.parametrize(("k", "d"), [(1, 1), (7, 2), (8, 5), (19, 16), (4, 64)])
@pytest.mark.parametrize("widest", [0.9, 2.0])
def test_log_ratios_and_products_are_those_of_every_pair(backend: str, k: int, d: int, widest: float) -> None:
    mu, s, mean, tril = case(30, k, d, widest=widest)
    every, centre, factor = full_log_ratio(mu, s, mean, tril)
    prepared = Products(mean, tril)
    fast = prepared.fast(mu, s)
    assert fast is (backend != "torch")
    terms, chosen = prepared.beside(mu, s, fast=fast)
    assert torch.equal(terms.isinf(), every.isinf())
    finite = ~every.isinf()
    if d > 1:  # the wide ones diverge in part, and no lane spoils the ones beside it
        assert bool(finite.all()) is (widest < 1)
    torch.testing.assert_close(terms[finite], every[finite], rtol=1e-11, atol=1e-10)
    which = torch.randint(k, (30, 4), generator=stream(0, "which"))
    row = torch.arange(30)[:, None]
    found, roots = chosen(which)
    torch.testing.assert_close(found, centre[row, which], rtol=1e-9, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(roots, factor[row, which], rtol=1e-12, atol=1e-12)


@needs_compiled
def test_threads_change_no_bit() -> None:
    mu, s, mean, tril = case(400, 50, 16)
    prepared, threads = Products(mean, tril), torch.get_num_threads()
    found = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(prepared.beside(mu, s, fast=True)[0])
    finally:
        torch.set_num_threads(threads)
    assert compiled.SMALL < 400 * 50 * 16**2
    assert torch.equal(*found)


def test_what_the_kernel_does_not_take_goes_by_every_pair() -> None:
    mu, s, mean, tril = case(4, 3, 2)
    prepared = Products(mean, tril)
    assert not prepared.fast(mu, torch.diag_embed(s))  # full covariances
    assert not prepared.fast(mu * 1e6, s)  # another form is needed there
    for k, d, compiled_there in ((4, 65, False), (4, 64, True), (3, 33, False), (3, 32, True)):
        wide = case(2, k, d)
        assert Products(*wide[2:]).fast(*wide[:2]) is (compiled_there and compiled.module is not None), (k, d)
    terms, chosen = prepared.beside(mu, torch.diag_embed(s), fast=False)
    torch.testing.assert_close(terms, full_log_ratio(mu, s, mean, tril)[0])
    centre, factor = chosen(torch.zeros(4, 1, dtype=torch.long))
    assert centre.shape == (4, 1, 2)
    assert factor.shape == (4, 1, 2, 2)


@needs_compiled
def test_draws_of_a_tilted_posterior_are_those_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    mu, s, mean, tril = case(40, 9, 6)
    log_weight = torch.log_softmax(torch.randn(9, generator=stream(0, "weights"), dtype=torch.float64), 0)

    def tilted() -> tuple[Tensor, Tensor]:
        found = Full(log_weight, mean, tril).tilt(mu, s, draws=12, rng=stream(1, "draws"))
        return found.log_ratio, found.draws

    with_it = tilted()
    monkeypatch.setattr(compiled, "module", None)
    without = tilted()
    for a, b in zip(with_it, without, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@needs_compiled
def test_every_pair_is_factorised_once_however_many_draws_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mu, s, mean, tril = case(6, 3, 4)
    factorised: list[int] = []
    real = torch.linalg.cholesky_ex

    def counted(a: Tensor) -> tuple[Tensor, Tensor]:
        factorised.append(len(a))
        return real(a)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counted)
    Full(torch.zeros(3, dtype=torch.float64), mean, tril).tilt(mu, s, draws=500, rng=stream(0, "draws"))
    assert sum(factorised) <= 6 * 3


@needs_compiled
def test_blocks_are_small_where_draws_are_many_or_a_call_would_be_long() -> None:
    few, wide = Products(*case(1, 20, 16)[2:]), Products(*case(1, 20, 64)[2:])
    assert few.size(fast=True) == products.NUMBERS // 20
    assert few.size(fast=True, draws=99) == products.NUMBERS // (99 * 16**2)
    assert wide.size(fast=True) == compiled.WORK // (products.LANES * 20 * 64**3) < products.NUMBERS // 20
    mu, s, mean, tril = case(50, 20, 16)
    whole = Full(torch.zeros(20, dtype=torch.float64), mean, tril).tilt(mu, s, draws=9, rng=stream(1, "draws"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "NUMBERS", 16 * 2 * 99 * 16)  # some rows a block
        parts = Full(torch.zeros(20, dtype=torch.float64), mean, tril).tilt(mu, s, draws=9, rng=stream(1, "draws"))
    assert torch.equal(whole.log_ratio, parts.log_ratio)
    torch.testing.assert_close(whole.draws, parts.draws, rtol=1e-12, atol=1e-12)


def test_no_gradient_is_kept_and_none_of_what_is_prepared() -> None:
    mu, s, mean, tril = case(4, 3, 2)
    components = Full(torch.zeros(3, dtype=torch.float64), mean, tril.requires_grad_())
    before = set(vars(components))
    found = components.tilt(mu.requires_grad_(), s, draws=2, rng=stream(0, "draws"))
    assert not found.log_ratio.requires_grad
    assert not found.draws.requires_grad
    assert set(vars(components)) == before  # as much again as the components themselves, and pickled with them


def test_divergent_posteriors_have_no_draws() -> None:
    mu, s, mean, tril = case(40, 9, 6, widest=2.0)
    found = Full(torch.zeros(9, dtype=torch.float64), mean, tril).tilt(mu, s, draws=5, rng=stream(1, "draws"))
    infinite = found.log_ratio.isinf()
    assert bool(infinite.any())
    assert bool(found.draws[infinite].isnan().all())
    assert not bool(found.draws[~infinite].isnan().any())

"""Mixtures as values: choices of components, draws, and agreement of the two shapes."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from zprime.components import Diagonal, Full, choose, choose_rows, total_and_choice
from zprime.rng import stream


def both(d: int = 3, k: int = 5) -> tuple[Diagonal, Full]:
    """The same mixture in both shapes."""
    rng = stream(0, "components")
    log_weight = torch.randn(k, generator=rng, dtype=torch.float64).log_softmax(0)
    mean = torch.randn(k, d, generator=rng, dtype=torch.float64)
    scale = 0.2 + 0.6 * torch.rand(k, d, generator=rng, dtype=torch.float64)
    return Diagonal(log_weight, mean, scale), Full(log_weight, mean, torch.diag_embed(scale))


def queries(d: int = 3) -> tuple[Tensor, Tensor]:
    rng = stream(0, "queries")
    return torch.randn(9, d, generator=rng, dtype=torch.float64), 0.1 + torch.rand(
        9, d, generator=rng, dtype=torch.float64
    )


def test_choices_have_the_frequencies_of_the_weights() -> None:
    weights = torch.tensor([0.5, 0.0, 0.2, 0.0, 0.3, 0.0], dtype=torch.float64)
    found = torch.bincount(choose(weights.log(), 20_000, stream(0, "choose")), minlength=6)
    assert found[[1, 3, 5]].sum() == 0
    assert chisquare(found[[0, 2, 4]].numpy(), 20_000 * weights[[0, 2, 4]].numpy()).pvalue > 1e-4
    assert chisquare(found[[0, 2, 4]].numpy(), [9000, 4500, 6500]).pvalue < 1e-4  # the planted error trips it


@pytest.mark.parametrize("k", [2, 3, 7, 49, 60_000])
def test_equal_weights_are_chosen_as_any_others_would_be(k: int) -> None:
    log_weight = torch.full((k,), -math.log(k), dtype=torch.float64)
    cumulative = log_weight.exp().cumsum(0)
    u = torch.rand(100_000, generator=stream(0), dtype=torch.float64) * cumulative[-1]
    expected = torch.searchsorted(cumulative, u, right=True).clamp_(max=k - 1)
    assert torch.equal(choose(log_weight, 100_000, stream(0)), expected)


@pytest.mark.parametrize("u", [0.0, 1 / 49, 2 / 49, 3 / 49, 1 - 2**-53])
def test_equal_weights_at_the_edge_of_a_step(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 / 49 summed up is not k / 49: the step that is guessed may be the next one."""
    monkeypatch.setattr(torch, "rand", lambda n, **options: torch.full((n,), u, dtype=torch.float64))
    log_weight = torch.full((49,), -math.log(49), dtype=torch.float64)
    cumulative = log_weight.exp().cumsum(0)
    expected = torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp_(max=48)
    assert torch.equal(choose(log_weight, 60, stream(0)), expected.expand(60))


def test_not_even_a_uniform_number_of_zero_chooses_a_component_of_weight_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weight = torch.tensor([0.0, 0.0, 0.4, 0.0, 0.6], dtype=torch.float64).log()
    assert choose_rows(log_weight[None], torch.tensor([[0.0, 0.4, 1 - 2**-53]], dtype=torch.float64)).tolist() == [
        [2, 4, 4]
    ]
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.zeros(n, dtype=torch.float64))
    assert choose(log_weight, 3, stream(0)).tolist() == [2, 2, 2]


def test_choices_among_more_components_than_torchs_multinomial_takes() -> None:
    n = 2**24 + 7
    found = choose(torch.full((n,), -1.0), 10_000, stream(0, "choose"))
    assert 0 <= int(found.min()) < n // 1000
    assert n - n // 1000 < int(found.max()) < n
    assert abs(float(found.double().mean()) / n - 0.5) < 5 / (12 * 10_000) ** 0.5


def test_rows_choose_by_their_own_weights_and_infinite_ones_win() -> None:
    inf = torch.inf
    terms = torch.tensor(
        [[0.0, -inf, 1.0], [-inf, 800.0, -800.0], [inf, 3.0, inf], [5.0, 5.0, -inf]], dtype=torch.float64
    )
    u = torch.rand(4, 30_000, generator=stream(0, "u"), dtype=torch.float64)
    found = torch.stack([torch.bincount(row, minlength=3) for row in choose_rows(terms, u)]).double() / 30_000
    e = torch.e / (1 + torch.e)
    expected = torch.tensor([[1 - e, 0, e], [0, 1, 0], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=5 * (0.25 / 30_000) ** 0.5)
    assert torch.equal(found == 0, expected == 0)


def test_both_shapes_are_the_same_mixture() -> None:
    diagonal, full = both()
    z = torch.randn(50, 3, generator=stream(0), dtype=torch.float64)
    torch.testing.assert_close(full.log_prob(z), diagonal.log_prob(z), rtol=1e-12, atol=1e-12)
    tilts = [r.tilt(*queries(), draws=1, rng=stream(0)) for r in (diagonal, full)]
    torch.testing.assert_close(tilts[1].log_ratio, tilts[0].log_ratio, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [0, 1], ids=["diagonal", "full"])
def test_draws_come_in_random_order_with_the_right_share_of_each_component(shape: int) -> None:
    r = both()[shape]
    narrow = type(r)(r.log_weight, r.mean, getattr(r, "scale", getattr(r, "scale_tril", None)) * 1e-3)
    z = narrow.sample(9000, rng=stream(0, "draws"))
    which = torch.cdist(z, r.mean).argmin(1)
    for part in (which, which[:3000], which[6000:]):
        assert (
            chisquare(torch.bincount(part, minlength=5).numpy(), len(part) * r.log_weight.exp().numpy()).pvalue > 1e-4
        )


def test_no_draws_and_no_rows_are_no_error() -> None:
    for r in both():
        assert r.sample(0, rng=stream(0)).shape == (0, 3)
        assert r.tilt(*queries(), draws=0, rng=stream(0)).draws.shape == (9, 0, 3)


@pytest.mark.parametrize("shape", [0, 1], ids=["diagonal", "full"])
def test_where_the_tilt_diverges_there_is_no_draw(shape: int) -> None:
    """Row 1 has one component that makes the integral infinite: q_r does not exist."""
    mean = torch.zeros(2, 2, dtype=torch.float64)
    scale = torch.tensor([[1.5, 0.5], [0.4, 0.5]], dtype=torch.float64)
    log_weight = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    r = (Diagonal(log_weight, mean, scale), Full(log_weight, mean, torch.diag_embed(scale)))[shape]
    out = r.tilt(mean, torch.tensor([[0.9, 0.9], [1.6, 0.9]], dtype=torch.float64), draws=50, rng=stream(0))
    assert torch.isfinite(out.log_ratio).tolist() == [True, False]
    assert out.log_ratio[1] == torch.inf
    assert torch.isfinite(out.draws[0]).all()
    assert not torch.isfinite(out.draws[1]).all(1).any()


@pytest.mark.parametrize("k", [1, 7, 513, 5000, 40_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_in_parts_and_its_choice_are_those_of_all_terms_at_once(k: int, dtype: torch.dtype) -> None:
    rng = stream(0, "parts", k)
    terms = (5 * torch.randn(10, k, generator=rng)).to(dtype)
    terms[:, -1] -= 300  # far below, and it may not be chosen
    terms[0, k // 2 :] = -torch.inf if k > 1 else 0.0
    u = torch.rand(10, 50, generator=rng, dtype=torch.float64)
    u[:, 0], u[:, 1] = 0.0, 1 - 2**-53
    total, chosen = total_and_choice(terms, u)
    torch.testing.assert_close(total, torch.logsumexp(terms.double(), 1), rtol=0, atol=1e-6)
    wanted = choose_rows(terms, u)
    assert torch.equal(chosen[:, 2:], wanted[:, 2:])
    assert bool((chosen[1:, 1] < max(1, k - 1)).all())
    assert total_and_choice(terms, u[:, :0])[1].shape == (10, 0)


def test_a_sum_with_a_term_beyond_all_others_is_as_it_was() -> None:
    terms = torch.tensor([[0.0, torch.inf, torch.inf], [1.0, 2.0, 3.0]])
    u = torch.tensor([[0.2, 0.8], [0.0, 0.99]], dtype=torch.float64)
    total, chosen = total_and_choice(terms, u)
    assert total[0] == torch.inf
    assert torch.equal(chosen, choose_rows(terms, u))

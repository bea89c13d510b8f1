"""p(x|z) of tokens, each given those before it: density, draws and the likeliest row, beside sums over all rows."""

import itertools

import pytest
import torch
from torch import Tensor

from zprime.likelihoods import Autoregressive, draw
from zprime.rng import stream

WORDS, STEPS = 3, 3
Z = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
ALL = torch.tensor(list(itertools.product(range(WORDS), repeat=STEPS)))


def scores(z: Tensor, x: Tensor) -> Tensor:
    """Of every word at every step, from z and the sum of the words before it."""
    before = torch.cumsum(x, 1) - x
    words = torch.arange(WORDS)
    return torch.sin(z.sum(1)[:, None, None] + before[..., None] + words) + 0.5 * z[:, :1, None] * words


def by_hand(z: Tensor, row: list[int]) -> float:
    total = 0.0
    for step, word in enumerate(row):
        at = scores(z[None], torch.tensor([row]))[0, step]
        total += float(at[word] - torch.logsumexp(at, 0))
    return total


def test_the_density_is_the_product_over_the_steps_and_sums_to_1() -> None:
    for z in Z:
        p = Autoregressive(scores, z.expand(len(ALL), 2), steps=STEPS)
        found = p.log_prob(ALL.float())
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(found, torch.tensor([by_hand(z, row) for row in ALL.tolist()]))


def test_draws_have_that_density() -> None:
    n = 6000
    x = draw(Autoregressive(scores, Z[1].expand(n, 2), steps=STEPS), rng=stream(0, "draws"))
    assert x.dtype == torch.float32
    share = torch.stack([(x == row).all(1).double().mean() for row in ALL])
    wanted = Autoregressive(scores, Z[1].expand(len(ALL), 2), steps=STEPS).log_prob(ALL).exp().double()
    assert bool(((share - wanted).abs() < 4.5 * (wanted * (1 - wanted) / n).sqrt() + 1e-4).all())
    assert float((share - 1 / len(ALL)).abs().max()) > 0.05  # far from equal shares


def test_the_mean_takes_the_likeliest_token_at_every_step() -> None:
    for z, row in zip(Z, Autoregressive(scores, Z, steps=STEPS).mean.long().tolist(), strict=True):
        for step in range(STEPS):
            others = [by_hand(z, [*row[:step], w]) for w in range(WORDS)]
            assert others[row[step]] == max(others)


def test_scores_in_half_precision_are_summed_in_float32() -> None:
    p = Autoregressive(lambda z, x: scores(z, x).half(), Z, steps=STEPS)
    assert p.log_prob(ALL[:2]).dtype == torch.float32


def test_log_p_has_a_gradient_in_z() -> None:
    z = Z.clone().requires_grad_()
    Autoregressive(scores, z, steps=STEPS).log_prob(ALL[3:5]).sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().min()) > 0

"""What kinds fitted by gradient steps share: whitening, fresh draws, and the loop that stops at its best."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from ring import fit, ring
from tasks import task
from zprime.latent import Prior, gradient
from zprime.latent.flow import FlowSettings
from zprime.latent.gaussian import moments
from zprime.latent.gradient import Ascent, Problem, Schedule, ascend, fresh, some_codes
from zprime.latent.kind import Fit, Task
from zprime.latent.network import MLP, Whitening, build, by_rows, precise
from zprime.latent.selection import Codes
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.rng import stream


@pytest.fixture
def short(monkeypatch) -> None:
    """Five steps an epoch."""
    monkeypatch.setattr(gradient, "STEPS", 5)


@final
@dataclass(frozen=True)
class Toy(Schedule):
    """How long and how fast, of no kind in particular."""

    kind: ClassVar[str] = "toy"

    def fit(self, task: Task) -> Fit[Any]:
        raise NotImplementedError


def climb(
    objective: Any, evaluate: Any, p: Tensor, schedule: Schedule, *, progress: Progress = silent, **extra: Any
) -> Ascent:
    problem = Problem("toy", [p], objective, evaluate, "nought", **extra)
    return ascend(problem, schedule, task(ring(6), rng=stream(0), progress=progress))


def test_whitened_draws_have_mean_0_and_covariance_1_and_come_back() -> None:
    """Of the aggregated posterior itself: exactly, by its moments; scales from 1e-4 to 1e3 and a strong correlation."""
    rng = stream(0)
    mean = torch.randn(40, 3, generator=rng, dtype=torch.float64) @ torch.tensor(
        [[1e3, 9e2, 0], [0, 1e2, 0], [0, 0, 1e-4]], dtype=torch.float64
    )
    p = MemoryPosteriors(mean, torch.tensor([10.0, 1.0, 1e-4], dtype=torch.float64).expand(40, 3).contiguous())
    w = Whitening.of(p)
    m, covariance = moments(p)
    back = torch.linalg.solve_triangular(w.scale_tril, covariance, upper=False)
    torch.testing.assert_close(
        torch.linalg.solve_triangular(w.scale_tril, back.T, upper=False), torch.eye(3, dtype=torch.float64)
    )
    assert w.log_det == pytest.approx(0.5 * float(torch.logdet(covariance)), rel=1e-9)
    z = p.draw(rng=rng)
    torch.testing.assert_close(w.colour(w.whiten(z)), z, rtol=1e-10, atol=1e-10)
    assert torch.equal(w.whiten(m[None]), torch.zeros(1, 3, dtype=torch.float64))


def test_codes_that_are_one_to_rounding_still_whiten() -> None:
    """Two coordinates equal to 16 digits: the Cholesky factor fails, and the variances alone are used."""
    x = 1e8 * torch.randn(50, 1, generator=stream(0), dtype=torch.float64)
    w = Whitening.of(MemoryPosteriors(x.expand(-1, 2).contiguous(), torch.full((50, 2), 1e-6, dtype=torch.float64)))
    assert torch.isfinite(w.scale_tril).all()
    assert (w.scale_tril.diagonal() > 0).all()


def test_fresh_codes_take_every_row_alike() -> None:
    """Rows at 0, 10, 20, ...: 50 draws of 12 rows show each row 4 times, and two rows once more."""
    p = MemoryPosteriors(10.0 * torch.arange(12)[:, None], torch.full((12, 1), 0.1))
    z = fresh(p, 50, rng=stream(0))
    row = (z[:, 0] / 10).round().long()
    counts = torch.bincount(row, minlength=12)
    assert sorted(counts.tolist()) == [4] * 10 + [5] * 2
    assert len(z.unique()) == 50
    assert not torch.equal(row[:12], torch.arange(12))
    assert not torch.equal(z, fresh(p, 50, rng=stream(1)))


def test_fresh_codes_respect_weights() -> None:
    weights = torch.tensor([0.7, 0.3, 0.0])
    p = MemoryPosteriors(10.0 * torch.arange(3)[:, None], torch.full((3, 1), 0.1), weights=weights)
    counts = torch.bincount((fresh(p, 4000, rng=stream(0))[:, 0] / 10).round().long(), minlength=3)
    assert counts[2] == 0
    assert abs(int(counts[0]) - 2800) < 4 * math.sqrt(4000 * 0.21)


def test_some_codes_are_of_few_rows_and_the_same_at_every_look() -> None:
    p = ring(300)
    a, b = (some_codes(task(p, rng=stream(0)), rows=40, points=100) for _ in range(2))
    assert (a.rows, len(a.z)) == (40, 120)
    assert torch.equal(a.z, b.z)
    whole = some_codes(task(p, rng=stream(0)), rows=1000, points=100)
    assert torch.equal(whole.z, Codes.draw(p, Prior(2), rng=stream(0), points=100).z)


def test_ascent_finds_the_top_and_keeps_the_best_not_the_last(short) -> None:
    """The objective pulls to 3, the score peaks at 1: what is kept is the epoch nearest to 1."""
    p = torch.zeros(1, requires_grad=True)
    seen: list[float] = []

    def evaluate() -> float:
        seen.append(float(p.detach()))
        return -abs(seen[-1] - 1)

    out = climb(lambda z, g: -(p - 3).square().sum(), evaluate, p, Toy(30, 4, 0.1, 0))
    nearest = min(range(len(seen)), key=lambda i: abs(seen[i] - 1))
    assert out.epoch == nearest
    assert 0 < nearest < 30
    assert float(p.detach()) == seen[nearest]
    assert seen[-1] == pytest.approx(3, abs=0.2)
    assert out.trace["selection"] == [-abs(v - 1) for v in seen]
    assert len(out.trace["objective"]) == 30
    assert out.outcome.ok
    assert (
        out.outcome.message == f"best after epoch {nearest} of 30: {1 - abs(seen[nearest] - 1):.3g} nats above nought"
    )


def test_patience_counts_epochs_without_a_better_score(short) -> None:
    p = torch.zeros(1, requires_grad=True)
    scores = iter([0.0, 1.0, 0.5, 0.6, 0.7, 2.0])
    out = climb(lambda z, g: p.sum(), lambda: next(scores), p, Toy(50, 4, 0.1, 3))
    assert out.trace["selection"] == [0.0, 1.0, 0.5, 0.6, 0.7]
    assert out.epoch == 1


def test_loss_that_is_not_finite_restores_the_best_and_says_where(short) -> None:
    p = torch.zeros(1, requires_grad=True)
    calls = iter(range(1000))

    def objective(z: Tensor, g: torch.Generator) -> Tensor:
        return p.sum() * (math.nan if next(calls) == 12 else 1.0)

    out = climb(objective, lambda: float(p.detach()), p, Toy(9, 4, 0.25, 0))
    assert not out.outcome.ok
    assert "the objective became nan at epoch 3, step 3" in out.outcome.message
    assert "epoch 2 is kept" in out.outcome.message
    assert "lower lr (now 0.25)" in out.outcome.message
    assert float(p.detach()) == out.trace["selection"][2] > 2


def test_score_that_is_not_finite_ends_the_fit(short) -> None:
    p = torch.zeros(1, requires_grad=True)
    scores = iter([0.0, 1.0, math.inf])
    out = climb(lambda z, g: p.sum(), lambda: next(scores), p, Toy(9, 4, 0.1, 0))
    assert (out.outcome.ok, out.epoch) == (False, 1)
    assert "the score on the selection split became inf at epoch 2" in out.outcome.message


def test_no_gain_over_the_start_keeps_the_start_and_advises(short) -> None:
    p = torch.zeros(1, requires_grad=True)
    out = climb(lambda z, g: p.sum(), lambda: -float(p.detach()), p, Toy(4, 4, 0.1, 0))
    assert (out.outcome.ok, out.epoch, float(p.detach())) == (False, 0, 0.0)
    assert "no epoch of 4 scored better on the selection split than the start, nought" in out.outcome.message
    assert "take the simpler kind" in out.outcome.message


def test_score_that_still_rises_asks_for_more_epochs(short) -> None:
    p = torch.zeros(1, requires_grad=True)
    scores = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    out = climb(lambda z, g: p.sum(), lambda: next(scores), p, Toy(5, 4, 0.1, 2))
    assert "still rose by 1 nats in the last fifth of 5 epochs" in out.outcome.message
    assert "raise epochs" in out.outcome.message
    assert (out.outcome.ok, out.epoch) == (False, 5)


def test_progress_is_told_every_epoch_and_the_end(short) -> None:
    p, told = torch.zeros(1, requires_grad=True), []
    climb(lambda z, g: p.sum(), lambda: 0.0, p, Toy(3, 4, 0.1, 0), progress=lambda *a: told.append(a))
    assert told == [("toy", 0, 3), ("toy", 1, 3), ("toy", 2, 3), ("toy", 3, 3)]


def test_only_the_parameters_given_get_gradients_and_after_is_called(short) -> None:
    p, other, calls = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True), []
    climb(lambda z, g: (p * other).sum(), lambda: 0.0, p, Toy(2, 4, 0.1, 0), after_step=lambda: calls.append(1))
    assert other.grad is None
    assert p.grad is None
    assert len(calls) == 10


def test_epochs_see_fresh_codes_from_streams_of_their_own(short) -> None:
    """Two epochs, no code twice; the second epoch's codes are the same in a run that began elsewhere."""
    p, seen = torch.zeros(1, requires_grad=True), []

    def look(z: Tensor, g: torch.Generator) -> Tensor:
        seen.append(z)
        return p.sum()

    climb(look, lambda: 0.0, p, Toy(2, 4, 0.1, 0))
    z = torch.cat(seen)
    assert len(z) == 40
    assert len(z[:, 0].unique()) == 40
    again, seen[:] = list(seen), []
    climb(lambda z, g: look(z, g) + torch.randn(1, generator=g).sum(), lambda: 0.0, p, Toy(2, 4, 0.1, 0))
    for a, b in zip(again[5:], seen[5:], strict=True):
        assert torch.equal(a, b)


def test_rate_falls_from_lr_to_a_twentieth() -> None:
    s = Toy(101, 4, 2.0, 0)
    assert s.learning_rate(1) == 2.0
    assert s.learning_rate(51) == pytest.approx(0.5 * (2.0 + s.learning_rate(101)), rel=0.05)
    assert s.learning_rate(101) == pytest.approx(0.1, rel=0.01)
    assert all(s.learning_rate(e) > s.learning_rate(e + 1) for e in range(1, 101))


def test_built_weights_are_decided_by_the_stream_and_the_last_layer_is_zero() -> None:
    before = torch.get_rng_state()
    a, b, c = (build(lambda: MLP(3, (5, 4), 2), rng=stream(s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[0].weight, b[0].weight)
    assert not torch.equal(a[0].weight, c[0].weight)
    assert torch.equal(a(torch.randn(7, 3, generator=stream(0))), torch.zeros(7, 2))
    assert [m.out_features for m in a if isinstance(m, nn.Linear)] == [5, 4, 2]


def test_precise_changes_the_dtype_of_a_copy_only() -> None:
    net = MLP(2, (3,), 1)
    assert precise(net, torch.float32) is net
    assert precise(net, torch.float16) is net
    assert next(precise(net, torch.float64).parameters()).dtype == torch.float64
    assert next(net.parameters()).dtype == torch.float32


def test_by_rows_is_the_whole_in_pieces() -> None:
    x = torch.randn(10, 2, generator=stream(0))
    sizes: list[int] = []

    def f(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part.sum(1)

    assert torch.equal(by_rows(f, x, 4), x.sum(1))
    assert sizes == [4, 4, 2]


def test_steps_much_too_long_end_in_advice_and_a_usable_distribution() -> None:
    """A whole fit that goes wrong: what comes back is a density all the same."""
    out = fit(FlowSettings("maf", transforms=2, hidden=(8,), epochs=2, batch=16, lr=1e6), ring(20))
    assert not out.outcome.ok
    assert "lower lr" in out.outcome.message
    assert torch.isfinite(out.distribution.log_prob(ring().mean)).all()


def test_one_steep_batch_does_not_stop_the_ascent() -> None:
    """Gradients are clipped: else Adam divides all that follow by a gradient of 1e6 that came once."""
    p = torch.zeros(1, requires_grad=True)
    calls = 0

    def objective(z: Tensor, g: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        return (1e6 if calls == 1 else 1.0) * p.sum()

    climb(objective, lambda: float(p.detach()), p, Toy(1, 4, 0.01, 0))
    assert calls == 100
    assert float(p.detach()) > 0.5  # of 100 steps of 0.01

"""What the kinds fitted by gradient steps have in common: fresh draws, a score, one loop with early stopping."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.kind import Outcome, Settings, Task
from zprime.latent.selection import TIE, Codes, best_epsilon
from zprime.networks import gradient_step
from zprime.posteriors import MemoryPosteriors
from zprime.rng import fork

STEPS = 100  # gradient steps an epoch, whatever the number of rows
CLIP = 5.0  # largest norm of a gradient
RISING = 0.02  # of all that was gained, the last fifth of the epochs may still have brought so much
FLOOR = 0.05  # the learning rate ends at so many times its start


@dataclass(frozen=True)
class Schedule(Settings):
    """How long and how fast to fit: what the settings of every kind fitted by gradient steps begin with.

    Attributes:
        epochs: at most; an epoch is 100 steps of Adam on fresh posterior draws, whatever the number of rows.
        batch: posterior draws a step.
        lr: learning rate at the start; it falls to a twentieth along half a cosine.
        patience: stop after this many epochs without a better score on the selection split; 0 never stops early.
    """

    small_steps: ClassVar[bool] = True
    epochs: int
    batch: int
    lr: float
    patience: int

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        at_least("epochs", self.epochs, 1)
        at_least("batch", self.batch, 2)
        at_least("patience", self.patience, 0)
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr: expected a number above 0, got {self.lr}")

    def learning_rate(self, epoch: int) -> float:
        """Of an epoch, counted from 1."""
        return self.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)))


def at_least(name: str, value: int, least: int) -> None:
    """Raise `UsageError` unless `value` is `least` or more."""
    if value < least:
        raise UsageError(f"{name}: expected at least {least}, got {value}")


def widths(name: str, value: Sequence[int]) -> None:
    """Raise `UsageError` unless `value` is the width of one hidden layer or more, each at least 1."""
    if not value or any(h < 1 for h in value):
        raise UsageError(f"{name}: expected the width of one hidden layer or more, each at least 1, got {tuple(value)}")


def fresh(data: MemoryPosteriors, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
    """Fresh codes from the aggregated posterior in random order; without weights, every row as often as any other."""
    if data.weights is not None:
        return data.sample(n, rng=rng)
    draws, rest = divmod(n, data.n)
    parts = [data.draw(rng=rng, draws=draws)] if draws else []
    if rest:
        parts.append(data.take(torch.randperm(data.n, generator=rng)[:rest]).draw(rng=rng))
    return torch.cat(parts)[torch.randperm(n, generator=rng)]


def some_codes(task: Task, *, rows: int, points: int) -> Codes:
    """Selection codes of at most `rows` rows, about `points` in all: for kinds whose density is slow."""
    data = task.selection.gather()
    if data.n > rows:
        data = data.take(torch.randperm(data.n, generator=fork(task.rng, "selection rows"))[:rows].sort().values)
    return Codes.draw(data, task.prior, rng=task.rng, points=points)


def score(codes: Codes, r: LatentDistribution) -> float:
    """Mean ELBO gain of `r` in nats, with its best epsilon."""
    _, gains = best_epsilon(codes, r)
    return gains.mean


@dataclass(frozen=True)
class Ascent:
    """How `ascend` went.

    Attributes:
        outcome: of the fit.
        trace: `objective` (mean over each epoch) and `selection` (score at the start and after each epoch), nats.
        epoch: the best one, whose parameters are in place; 0 is the start.
    """

    outcome: Outcome
    trace: dict[str, list[float]]
    epoch: int


@dataclass(frozen=True)
class Problem:
    """What `ascend` maximises.

    Attributes:
        label: for progress.
        parameters: what is fitted, in place.
        objective: of a batch of codes z and a source of randomness; a number to raise, nats a draw.
        score: ELBO gain on the selection split, nats; the same function of the parameters at every call.
        start: what the parameters are before the first step, in words, for the advice.
        after_step: called after every step, to bring parameters back to where they may be.
    """

    label: str
    parameters: Sequence[Tensor]
    objective: Callable[[Float[Tensor, "b d"], torch.Generator], Tensor]
    score: Callable[[], float]
    start: str = "the moment-matched Gaussian"
    after_step: Callable[[], None] = lambda: None


def ascend(problem: Problem, schedule: Schedule, task: Task) -> Ascent:
    """Maximise the objective by Adam on fresh draws from the training posteriors; leave the parameters at their best.

    Best is the highest score on the selection split. Every epoch draws from a stream of its own.
    """
    parameters, data = problem.parameters, task.train.gather()
    optimiser = torch.optim.Adam(list(parameters), lr=schedule.lr, fused=True)
    first = problem.score()
    scores, means = [first], []
    best, kept = 0, [p.detach().clone() for p in parameters]
    broken = ""
    for epoch in range(1, schedule.epochs + 1):
        task.progress(problem.label, epoch - 1, schedule.epochs)
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(epoch)
        stream = fork(task.rng, "epoch", epoch)
        total = 0.0
        codes = fresh(data, STEPS * schedule.batch, rng=stream)
        for step, part in enumerate(blocks(len(codes), schedule.batch)):
            value = problem.objective(codes[part], stream)
            total += float(value.detach())
            if not math.isfinite(total):
                broken = f"the objective became {float(value.detach())} at epoch {epoch}, step {step + 1}"
                break
            gradient_step(optimiser, -value, clip=CLIP)
            problem.after_step()
        now = math.nan if broken else problem.score()
        if not broken and not math.isfinite(now):
            broken = f"the score on the selection split became {now} at epoch {epoch}"
        if broken:
            break
        means.append(total / STEPS)
        scores.append(now)
        if now > scores[best] or not math.isfinite(scores[best]):
            best, kept = epoch, [p.detach().clone() for p in parameters]
        if schedule.patience and epoch - best >= schedule.patience:
            break
    task.progress(problem.label, schedule.epochs, schedule.epochs)
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
            p.grad = None
    return Ascent(
        _outcome(scores, best, schedule, problem.start, broken), {"objective": means, "selection": scores}, best
    )


def _outcome(scores: list[float], best: int, schedule: Schedule, start: str, broken: str) -> Outcome:
    """Say how it ended, in a sentence of advice."""
    if broken:
        return Outcome(
            ok=False,
            message=f"{broken}: the steps were too long, or the codes have outliers; epoch {best} is kept; "
            f"lower lr (now {schedule.lr:g}) and fit again",
        )
    if best == 0:
        return Outcome(
            ok=False,
            message=f"no epoch of {len(scores) - 1} scored better on the selection split than the start, {start}, "
            "which is kept: either nothing is left to gain, or the training rows are too few; take the simpler kind, "
            "or lower lr",
        )
    rise = scores[-1] - scores[max(0, len(scores) - 1 - max(1, schedule.epochs // 5))]
    if len(scores) == schedule.epochs + 1 and rise > max(TIE, RISING * (scores[best] - scores[0])):
        return Outcome(
            ok=False,
            message=f"the score on the selection split still rose by {rise:.2g} nats in the last fifth of "
            f"{schedule.epochs} epochs: the fit is usable and could be better; raise epochs",
        )
    gained = scores[best] - scores[0]
    return Outcome(message=f"best after epoch {best} of {len(scores) - 1}: {gained:.3g} nats above {start}")

"""What the kinds fitted by gradient steps share: whitening, fresh draws, networks, one loop with early stopping."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import blocks, check_matrix
from zprime.distribution import LatentDistribution, Outcome
from zprime.errors import UsageError
from zprime.latent.gaussian import moments
from zprime.latent.selection import TIE, Codes, best_epsilon
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import Progress
from zprime.rng import fork

STEPS = 100  # gradient steps an epoch, whatever the number of rows
CLIP = 5.0  # largest norm of a gradient
ROWS = 1024  # points that a network sees at once where nothing is trained: its numbers stay in cache
RISING = 0.02  # share of all that was gained which the last fifth may still have brought
FLOOR = 0.05  # the learning rate ends at this share of its start

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Whitening:
    """u = L^-1 (z - m), with the mean m and the Cholesky factor L of the covariance of the aggregated posterior.

    A density s of u is the density `s(u) / det L` of z. So a fit to u starts at N(0, I), the moment match of z, and
    sees the same scales whatever the latent space.
    """

    mean: Float[Tensor, " d"]
    scale_tril: Float[Tensor, "d d"]

    @classmethod
    def of(cls, posteriors: Posteriors) -> "Whitening":
        """Moments of the aggregated posterior, in the posteriors' dtype."""
        mean, covariance = moments(posteriors)
        factor, info = torch.linalg.cholesky_ex(covariance)
        if int(info):  # scales so far apart that rounding took the last digit: keep the variances alone
            factor = covariance.diagonal().sqrt().diag()
        dtype = next(iter(posteriors.shards())).mean.dtype
        return cls(mean.to(dtype), factor.to(dtype))

    @classmethod
    def none(cls, posteriors: Posteriors) -> "Whitening":
        """Leave z as it is."""
        dtype = next(iter(posteriors.shards())).mean.dtype
        return cls(torch.zeros(posteriors.d, dtype=dtype), torch.eye(posteriors.d, dtype=dtype))

    @property
    def d(self) -> int:
        """Latent dimension."""
        return len(self.mean)

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor]) -> "Whitening":
        """What `tensors` gave."""
        return cls(tensors["mean"], tensors["scale_tril"])

    @property
    def log_det(self) -> float:
        """The log-determinant of L, in nats."""
        return float(self.scale_tril.diagonal().double().log().sum())

    def whiten(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From z to u, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.d)
        gap = z.double() - self.mean.double()
        u: Tensor = torch.linalg.solve_triangular(self.scale_tril.double(), gap.T, upper=False)
        return u.T.contiguous()

    def colour(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From u to z, in the posteriors' dtype."""
        return (self.mean.double() + u.double() @ self.scale_tril.double().T).to(self.mean.dtype)

    def noise(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Standard normal numbers for the networks, float32, shape [*shape, d]."""
        return torch.randn(*shape, self.d, generator=rng, device=self.mean.device)

    def tensors(self) -> dict[str, Tensor]:
        """Mean and Cholesky factor."""
        return {"mean": self.mean, "scale_tril": self.scale_tril}


@dataclass(frozen=True, repr=False, eq=False)
class NetworkDistribution(LatentDistribution, Generic[M]):
    """A latent distribution that is a network on whitened z.

    Attributes:
        net: the network.
        whitening: between z and the network's u.
    """

    net: M
    whitening: Whitening

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.whitening.d

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the network, mean, Cholesky factor."""
        return {**self.whitening.tensors(), **weights(self.net)}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to fit: what the settings of every kind fitted by gradient steps begin with.

    Attributes:
        epochs: at most; an epoch is 100 steps of Adam on fresh posterior draws, whatever the number of rows.
        batch: posterior draws a step.
        lr: learning rate at the start; it falls to a twentieth along half a cosine.
        patience: stop after this many epochs without a better score on the selection split; 0 never stops early.
    """

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

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1."""
        return self.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)))


def at_least(name: str, value: int, least: int) -> None:
    """Raise `UsageError` unless `value` is `least` or more."""
    if value < least:
        raise UsageError(f"{name}: expected at least {least}, got {value}")


def widths(name: str, value: Sequence[int]) -> None:
    """Raise `UsageError` unless `value` is the width of one hidden layer or more, each at least 1."""
    if not value or any(h < 1 for h in value):
        raise UsageError(f"{name}: expected the width of one hidden layer or more, each at least 1, got {tuple(value)}")


def build(make: Callable[[], M], *, rng: torch.Generator) -> M:
    """Make a network whose random weights come from the stream of `rng`; torch's own generator does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.initial_seed())
        return make()


def skeleton(make: Callable[[], M], tensors: Mapping[str, Tensor]) -> M:
    """Make a network and give it stored weights, under the names `net.*`.

    Raises:
        RuntimeError: names or shapes do not fit (`distribution.rebuild` turns it into an ArtifactError).
    """
    net = build(make, rng=torch.Generator())
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}, strict=True)
    device = next(iter(tensors.values())).device
    return net.to(device).requires_grad_(requires_grad=False)


def weights(net: nn.Module) -> dict[str, Tensor]:
    """What `skeleton` takes back."""
    return {f"net.{k}": v.detach() for k, v in net.state_dict().items()}


def frozen(net: M) -> M:
    """A copy without gradients, which later steps do not move."""
    return copy.deepcopy(net).requires_grad_(requires_grad=False)


def precise(net: M, dtype: torch.dtype) -> M:
    """The network with its float32 weights in the dtype that a density is asked for in."""
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    return net if next(net.parameters()).dtype == wanted else copy.deepcopy(net).to(wanted)


class MLP(nn.Sequential):
    """Hidden layers with SiLU; the last layer starts at zero, so that what it is added to is where a fit starts."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *hidden), hidden, strict=False):
            layers += [nn.Linear(a, b), nn.SiLU()]
        last = nn.Linear(hidden[-1], outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(*layers, last)


def by_rows(f: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], rows: int = ROWS) -> Tensor:
    """Apply `f` to blocks of rows, and put the answers together; without gradients unless `x` asks for its own."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
        return torch.cat([f(x[part]) for part in blocks(len(x), rows)]) if len(x) else f(x)


def fresh(data: MemoryPosteriors, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
    """Fresh codes from the aggregated posterior in random order; without weights, every row as often as any other."""
    if data.weights is not None:
        return data.sample(n, rng=rng)
    draws, rest = divmod(n, data.n)
    parts = [data.draw(rng=rng, draws=draws)] if draws else []
    if rest:
        parts.append(data.take(torch.randperm(data.n, generator=rng)[:rest]).draw(rng=rng))
    return torch.cat(parts)[torch.randperm(n, generator=rng)]


def some_codes(selection: Posteriors, *, rng: torch.Generator, rows: int, points: int) -> Codes:
    """Selection codes of at most `rows` rows, `points` or so in all, where a score is dear."""
    data = selection.gather()
    if data.n > rows:
        data = data.take(torch.randperm(data.n, generator=fork(rng, "selection rows"))[:rows].sort().values)
    return Codes.draw(data, rng=rng, points=points)


def score(codes: Codes, r: LatentDistribution) -> float:
    """Mean ELBO gain of `r` in nats with its best share of the prior: as it will be shipped."""
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


def ascend(
    parameters: Sequence[Tensor],
    objective: Callable[[Float[Tensor, "b d"], torch.Generator], Tensor],
    evaluate: Callable[[], float],
    data: MemoryPosteriors,
    schedule: Schedule,
    *,
    label: str,
    start: str,
    rng: torch.Generator,
    progress: Progress,
    after: Callable[[], None] = lambda: None,
) -> Ascent:
    """Maximise `objective` by Adam on fresh posterior draws; leave the parameters at their best score.

    Args:
        parameters: what is fitted, in place.
        objective: of a batch of codes z and a source of randomness; a number to raise, nats a draw.
        evaluate: the score on the selection split, nats; the same function of the parameters at every call.
        data: training posteriors.
        schedule: how long and how fast.
        label: for `progress`.
        start: what the parameters are before the first step, in words, for the advice.
        rng: every epoch draws from a stream of its own.
        progress: called once an epoch.
        after: called after every step, to bring parameters back to where they may be.
    """
    optimiser = torch.optim.Adam(list(parameters), lr=schedule.lr, fused=True)
    first = evaluate()
    scores, means = [first], []
    best, kept = 0, [p.detach().clone() for p in parameters]
    broken = ""
    for epoch in range(1, schedule.epochs + 1):
        progress(label, epoch - 1, schedule.epochs)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(epoch)
        stream = fork(rng, "epoch", epoch)
        total = 0.0
        codes = fresh(data, STEPS * schedule.batch, rng=stream)
        for step, part in enumerate(blocks(len(codes), schedule.batch)):
            value = objective(codes[part], stream)
            total += float(value.detach())
            if not math.isfinite(total):
                broken = f"the objective became {float(value.detach())} at epoch {epoch}, step {step + 1}"
                break
            # not backward(): it would leave gradients in a frozen encoder's parameters as well
            for p, gradient in zip(parameters, torch.autograd.grad(-value, list(parameters)), strict=True):
                p.grad = gradient
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            after()
        now = math.nan if broken else evaluate()
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
    progress(label, schedule.epochs, schedule.epochs)
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
            p.grad = None
    return Ascent(_outcome(scores, best, schedule, start, broken), {"objective": means, "selection": scores}, best)


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

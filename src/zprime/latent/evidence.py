"""A mixture goes on to the evidence: by extreme deconvolution, or by its weights alone, stopped early."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import memory
from zprime.distribution import need_standard
from zprime.errors import UsageError
from zprime.latent.deconvolution import FLOOR, Step, as_dtype, log_ratio, log_terms, narrowest, step
from zprime.latent.gaussians import Mixture
from zprime.latent.kind import Task
from zprime.latent.selection import EPSILONS, RowScores, best_share
from zprime.latent.subset import reweighed
from zprime.posteriors import WORDS, Posteriors

OBJECTIVES = ("posteriors", "evidence", "weights")
"""What a mixture may be fitted to: the posteriors, or the evidence, with all of its parameters or by weights alone."""

STEPS = 100
PATIENCE = 10  # steps without a better gain on the selection split after which no further one is made


def check_objective(objective: str, *, codes: str, low_rank: bool) -> None:
    """Raise `UsageError` for settings of a mixture that do not go with its objective."""
    if objective == "posteriors":
        return
    if codes != "posteriors":
        raise UsageError(
            f"codes: expected 'posteriors' with objective {objective!r}, which weighs rows by the widths of their "
            f"posteriors, got {codes!r}"
        )
    if low_rank:
        raise UsageError(
            f"covariance: expected full or diagonal with objective {objective!r}, got low-rank; its step is not known "
            "for factors: set covariance to 'diagonal'"
        )


def check_task(objective: str, task: Task) -> None:
    """Raise `UsageError` for posteriors or a prior with which E_q[r/p] has another form."""
    if objective == "posteriors":
        return
    what = f"mixture with objective {objective!r}"
    if task.train.form != "diagonal" or task.train.datum is not None:
        got = WORDS[task.train.form] if task.train.datum is None else "several components a datum"
        raise UsageError(f"{what}: takes one posterior of {WORDS['diagonal']} a datum, got {got}; take 'posteriors'")
    need_standard(task.prior, what)


@dataclass(frozen=True)
class Evidence:
    """Exact-posterior gains of the selection split: what a fit to the evidence is stopped and chosen by."""

    selection: Posteriors

    def best(self, r: Mixture) -> tuple[float, RowScores]:
        """The share of the prior that serves best, and with it each row's log E_q[((1-e) r + e p)/p] in nats."""
        return self.of(log_ratio(self.selection, r))

    def of(self, ratio: Float[Tensor, " n"]) -> tuple[float, RowScores]:
        """The same of rows whose log E_q[r/p] is known."""
        zero = torch.zeros_like(ratio)
        mixed = {e: torch.logaddexp(ratio + math.log1p(-e), zero + math.log(e)) for e in EPSILONS}
        return best_share({e: RowScores(v, self.selection.weights) for e, v in mixed.items()})


@dataclass(frozen=True)
class Refit:
    """A mixture fitted to the evidence.

    Attributes:
        mixture: that of the step with the best gain on the selection split.
        steps: how many steps it had.
        trace: `evidence`, the mean log E_q[r/p] of training rows at each step, and `gain`, on the selection split.
        few: components dropped because they had few rows.
    """

    mixture: Mixture
    steps: int
    trace: dict[str, list[float]]
    few: int = 0

    @property
    def told(self) -> str:
        """How it went, in words."""
        gains = self.trace["gain"]
        less = f"; {self.few} components had too few rows there and were left out (least_rows)" if self.few else ""
        return (
            f"{self.steps} steps to the evidence, kept of {len(gains) - 1} by the exact-posterior gain on the "
            f"selection split, {gains[0]:+.2f} before and {gains[self.steps]:+.2f} after{less}"
        )


def refit(
    objective: str,
    r: Mixture,
    task: Task,
    *,
    least_rows: float = 0.0,
    iterations: int = STEPS,
    tolerance: float = 0.0,
) -> Refit:
    """Go on from a mixture by steps that raise the evidence of the training rows, and keep the best of them.

    That is the one with the largest exact-posterior gain on the selection split. Before it is measured, components
    with fewer than `least_rows` rows are dropped, at step 0 too. (Rows are counted by the shares of E_q[r/p] here, so
    there may be some, although the fit to the posteriors dropped its own.) So what is kept is not worse there than the
    mixture that is given where that loses no component, and else not worse than what is left of it.

    Args:
        objective: `evidence` moves weights, means and covariances; `weights` moves the weights alone.
        r: where to begin, with full or diagonal covariances.
        task: training rows, and those of the selection split.
        least_rows: effective rows that every component has at least; those with fewer are dropped.
        iterations: steps at most; 100 are the most that are made.
        tolerance: stop where a step raises the evidence by less, nats a row.
    """
    train, evidence, progress = task.train, Evidence(task.selection), task.progress
    steps, begin = min(iterations, STEPS), as_dtype(r, torch.float64)
    make = _weigh(begin, train, evidence) if objective == "weights" else _move(train, evidence)
    trace: dict[str, list[float]] = {"evidence": [], "gain": []}
    current, few, best, at = begin, 0, Refit(r, 0, trace), torch.arange(len(r.mean))
    for t in range(steps + 1):
        progress(f"mixture({len(r.mean)}): evidence", t, steps)
        found, gain = make(current, at)
        while len(thin := _thinned(found.rows, least_rows)) < len(current.mean):
            few, current, at = few + len(current.mean) - len(thin), _some(current, thin), at[thin]
            found, gain = make(current, at)
        trace["evidence"].append(found.evidence)
        trace["gain"].append(gain)
        if t == 0 or gain > trace["gain"][best.steps]:
            kept = replace(current, least_rows=float(found.rows.min()))
            best = Refit(kept, t, trace, few)
        risen = trace["evidence"][-1] - trace["evidence"][-2] if t else math.inf
        if t - best.steps >= PATIENCE or risen < tolerance:
            break
        current = found.following
    progress(f"mixture({len(r.mean)}): evidence", steps, steps)
    return replace(best, mixture=as_dtype(best.mixture, r.mean.dtype))


Make = Callable[[Mixture, Int[Tensor, " k"]], tuple[Step, float]]
"""Given a mixture, and which of the first one's components it has: a step, and its own gain on the selection split."""


def _move(train: Posteriors, evidence: Evidence) -> Make:
    floor = FLOOR * narrowest(train)
    return lambda r, _: (step(train, r, floor=floor), evidence.best(r)[1].mean)


def _weigh(r: Mixture, train: Posteriors, evidence: Evidence) -> Make:
    """Steps of the weights alone (docs/theory.md, section 4): no term changes but by its weight."""
    k, n = len(r.mean), train.n + evidence.selection.n
    memory.need(16 * n * k, f"mixture: {n:,} rows times {k:,} components", "set components lower")
    flat = replace(r, log_weight=torch.zeros_like(r.log_weight))
    terms, chosen = (log_terms(p, flat) for p in (train, evidence.selection))
    mass, peak = train.log_weights.exp(), terms.amax(1, keepdim=True)
    likely = (terms - peak).exp()

    def make(r: Mixture, at: Tensor) -> tuple[Step, float]:
        weight, e = r.log_weight.exp(), likely[:, at]
        following, explained = reweighed(e, mass, weight)
        share = e * weight * (mass / explained.clamp(min=1e-300))[:, None]
        square = share.square().sum(0)
        rows = torch.where(square > 0, share.sum(0).square() / square, 0.0)
        value = float(mass @ (explained.clamp(min=1e-300).log() + peak[:, 0]))
        gain = evidence.of((chosen[:, at] + r.log_weight).logsumexp(1))[1].mean
        return Step(value, rows, replace(r, log_weight=following.clamp(min=1e-300).log())), gain

    return make


def _thinned(rows: Float[Tensor, " k"], least: float) -> list[int]:
    """Components that stay: without a quarter of those that have fewer rows than `least`, and never none."""
    few = int((rows < least).sum())
    drop = min(-(-few // 4), len(rows) - 1)
    return sorted(rows.argsort(stable=True)[drop:].tolist())


def _some(r: Mixture, at: list[int]) -> Mixture:
    return replace(r, log_weight=r.log_weight[at].log_softmax(0), mean=r.mean[at], scale_tril=r.scale_tril[at])

"""mixture: K Gaussians reduced from N posteriors by EM on the posteriors themselves, without sampling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import memory
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.latent.em import ComponentEM, State
from zprime.latent.kind import FORMS, LEAST_ROWS, About, Fit, Outcome, Settings, Task, check_least_rows, check_tolerance
from zprime.latent.selection import EPSILONS, Codes, best_epsilon, point, smallest_of_best
from zprime.posteriors import WORDS, Form, MemoryPosteriors
from zprime.progress import Progress
from zprime.results.facts import Chosen, Setting
from zprime.rng import fork
from zprime.schema import FACTOR, FINITE, LOG_WEIGHTS, POSITIVE, Array, Maybe, Real, Schema

COMPONENTS = (2, 5, 10, 20, 50, 100, 200)
"""K that are tried where none is given."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Mixture(GaussianDistribution):
    """K Gaussians with full covariances (`scale_tril` [k, d, d]) or diagonal ones (`scale_tril` [k, d])."""

    kind: ClassVar[str] = "mixture"
    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {
            "log_weight": Array({"k": LOG_WEIGHTS}),
            "mean": Array({"k d": FINITE}),
            "scale_tril": Array({"k d": POSITIVE, "k d d": FACTOR}),
        },
    )
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale_tril: Float[Tensor, "k d d"] | Float[Tensor, "k d"]
    least_rows: float | None = None

    @cached_property
    def components(self) -> Diagonal | Full:
        """The K Gaussians."""
        shape: type[Diagonal] | type[Full] = Diagonal if self.scale_tril.ndim == 2 else Full
        return shape(self.log_weight, self.mean, self.scale_tril)

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return f"{len(self.mean)} Gaussians fitted to all posteriors"

    @property
    def label(self) -> str:
        """With the number of components."""
        return f"mixture({len(self.mean)})"

    def tensors(self) -> dict[str, Tensor]:
        """Log-weights, means, Cholesky factors (or standard deviations)."""
        return {"log_weight": self.log_weight, "mean": self.mean, "scale_tril": self.scale_tril}

    def config(self) -> dict[str, Any]:
        """The effective rows behind the component that has fewest."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["log_weight"], tensors["mean"], tensors["scale_tril"], config["least_rows"])


POLISHED = 20_000  # codes drawn for a step of polishing, at least
FULL = 512  # dimensions up to which `auto` takes full covariances, if they fit into memory


@dataclass(frozen=True)
class EMRun:
    """One run of EM.

    Attributes:
        state: where it ended.
        bounds: its bound at every step, nats.
        outcome: how it went.
        few: components that were dropped on the way because they had few rows.
    """

    state: State
    bounds: list[float]
    outcome: Outcome
    few: int = 0


@dataclass(frozen=True)
class Reduction:
    """What mixtures of every K are fitted to and chosen on, and the EM runs that were made.

    Attributes:
        em: the posteriors, prepared for EM.
        codes: of the selection split.
        dtype: of the mixtures.
        task: random numbers and progress.
        runs: (K, number of the start) -> run; a run that is there is not made again.
    """

    em: ComponentEM
    codes: Codes
    dtype: torch.dtype
    task: Task
    runs: dict[tuple[int, int], EMRun] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class MixtureSettings(Settings):
    """EM for the K-component mixture closest in KL to the aggregated posterior (docs/theory.md, section 6).

    Attributes:
        components: K; 0 tries 2, 5, 10, ... 200 (up to a fifth of the rows) and chooses on the selection split.
        covariance: `full` or `diagonal`; `auto` is `full` up to 512 dimensions, if that fits into memory, and
            `diagonal` above.
        method: `em`, or `merge` for greedy merging alone (Runnalls 2007), which proves a bound on its KL.
        start: where EM begins: `kmeans` (k-means++ seeds) or `merge`.
        codes: `posteriors` uses means and variances. `means` throws the variances away, as is often done: right for
            deterministic autoencoders only. `draws` takes one draw a row, as fitting any mixture to samples does.
        batch: rows a step of minibatch EM; 0 takes all rows in every step.
        epochs: passes of minibatch EM.
        polish: steps of EM on fresh posterior draws at the end, kept if the selection split improves.
        iterations: EM steps at most.
        tolerance: stop when the bound rises by less, in nats a row.
        restarts: starts of EM at the K that is taken; the one with the highest bound is kept. (While K is being chosen,
            each K has one start.) For k-means++ starts with all rows in every step.
        least_rows: effective rows that every component has at least (Kish 1965, of its responsibilities); components
            with fewer are dropped and EM goes on with the others (`merge` merges them), as long as there are two. 0
            keeps all: a component may then be a single row.
    """

    kind: ClassVar[str] = Mixture.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "K d^2 numbers",
        "seconds to a minute: EM on posteriors",
        "first choice: small, exact density, no rows",
    )
    components: int = 0
    covariance: str = "auto"
    method: str = "em"
    start: str = "kmeans"
    codes: str = "posteriors"
    batch: int = 0
    epochs: int = 3
    polish: int = 10
    iterations: int = 200
    tolerance: float = 1e-3
    restarts: int = 3
    least_rows: float = LEAST_ROWS

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        words = {
            "covariance": ("auto", "full", "diagonal"),
            "method": ("em", "merge"),
            "start": ("kmeans", "merge"),
            "codes": ("posteriors", "means", "draws"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {getattr(self, name)!r}"
                )
        if self.components < 0:
            raise UsageError(f"components: expected 1 or more, or 0 to choose, got {self.components}")
        for name, least in (("iterations", 1), ("epochs", 1), ("batch", 0), ("polish", 0), ("restarts", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        check_least_rows(self.least_rows)
        check_tolerance(self.tolerance)

    def fit(self, task: Task) -> Fit[Mixture]:
        """Reduce to one K, or to each of several and choose.

        Raises:
            UsageError: settings that cannot be used, e.g. more components than rows, or than the memory holds.
        """
        train = task.train
        self.check()
        if train.form != "diagonal" and "merge" in (self.method, self.start):
            raise UsageError(f"method: merging takes {WORDS['diagonal']}, got {WORDS[train.form]}; take em and kmeans")
        if self.components > train.n:
            raise UsageError(
                f"components: expected 1 to {train.n} (the number of posteriors), or 0 to choose, got {self.components}"
            )
        most = self.components or max([k for k in COMPONENTS if k <= max(1, train.n // 5)], default=1)
        if self.covariance == "auto":
            return self._auto(task, most)
        each = train.d if self.covariance == "diagonal" else train.d**2
        # covariances before and after a step, and factors, in float64
        memory.need(
            24 * most * each,
            f"mixture: {most:,} {self.covariance} covariances of {train.d:,} dimensions",
            "set components lower (--set mixture.components=20), or covariance to diagonal "
            "(--set mixture.covariance=diagonal)",
        )
        data = train.gather()
        if self.codes == "draws":
            drawn = data.draw(rng=fork(task.rng, "draws"))
            data = MemoryPosteriors(drawn, data.scale, row_ids=data.row_ids, weights=data.weights)
        spread = self.codes == "posteriors" and data.form != "points"
        em = ComponentEM(data, diagonal=self.covariance == "diagonal", spread=spread)
        codes = Codes.draw(task.selection, task.prior, rng=task.rng)
        reduction = Reduction(em, codes, data.mean.dtype, task)
        if self.components:
            return self._reduce(reduction, self.components)
        once = replace(self, restarts=1)
        tried = [k for k in COMPONENTS if k <= max(1, train.n // 5)] or [1]
        fits = [once._reduce(reduction, k) for k in tried]
        scored = [best_epsilon(codes, f.distribution) for f in fits]
        best = smallest_of_best([g for _, g in scored], [f.distribution.bytes for f in fits])
        curve = [point("components", k, f.distribution, e, g) for k, f, (e, g) in zip(tried, fits, scored, strict=True)]
        fit = self._reduce(reduction, tried[best]) if self.restarts > 1 else fits[best]
        outcome = fit.outcome
        if outcome.ok and tried[best] == COMPONENTS[-1]:
            outcome = Outcome(message=f"{outcome.message}; the largest K tried was the best: try a larger one")
        return replace(fit, outcome=outcome, curve=curve)

    def _auto(self, task: Task, most: int) -> Fit[Mixture]:
        """With full covariances where these are few numbers, else with diagonal ones."""
        d = task.train.d
        if d <= FULL and memory.fits(24 * most * d**2):
            return replace(self, covariance="full").fit(task)
        fit = replace(self, covariance="diagonal").fit(task)
        said = f"{d:,} dimensions are many: diagonal covariances; {fit.outcome.message}"
        return replace(fit, outcome=replace(fit.outcome, message=said))

    def _reduce(self, reduction: Reduction, k: int) -> Fit[Mixture]:
        """To K components, polished."""
        em, codes, runs = reduction.em, reduction.codes, reduction.runs
        rng, progress = reduction.task.rng, reduction.task.progress
        what = f"mixture({k})"
        trace: dict[str, list[float]] = {}
        decided: dict[str, Setting] = {"components": k}
        outcome = Outcome()
        rows, few = None, 0
        if self.method == "merge" or self.start == "merge":
            least = self.least_rows if self.method == "merge" else 0.0
            state, merged = em.merged(k, rng=fork(rng, "merge", k), progress=progress, least=least)
            trace["kl_bound"], rows, few = [merged.bound], merged.rows, k - len(merged.rows)
            outcome = Outcome(message=f"merged; KL(qbar || r) is at most {merged.bound:.3f} nats")
        else:
            state = em.start(k, rng=fork(rng, "start", k))
        if self.method == "em" and self.batch:
            run = self._passes(em, state, what, reduction.task)
            state, trace["bound"], outcome, few = run.state, run.bounds, run.outcome, run.few
        elif self.method == "em":
            starts = range(self.restarts if self.start == "kmeans" else 1)
            for i in starts:
                if (k, i) not in runs:
                    begin = em.start(k, rng=fork(rng, "start", k, i)) if i else state
                    runs[k, i] = self._run_em(em, begin, what, progress)
            best = max((runs[k, i] for i in starts), key=lambda run: run.bounds[-1])
            best = self._keep(em, best, lambda state: self._run_em(em, state, what, progress))
            state, trace["bound"], outcome, few = best.state, best.bounds, best.outcome, best.few
            if len(starts) > 1:
                decided["bounds"] = [runs[k, i].bounds[-1] for i in starts]
        rows = em.rows(state) if rows is None or self.method == "em" else rows
        mixture = _mixture(em, state, reduction.dtype, rows)
        if self.polish and em.spread:
            points = POLISHED if em.d <= FULL else POLISHED * FULL // em.d  # as many numbers

            def polish(state: State) -> EMRun:
                return EMRun(
                    em.polish(state, steps=self.polish, rng=fork(rng, "polish", k), points=points), [], outcome
                )

            run = self._keep(em, polish(state), polish)
            polished = _mixture(em, run.state, reduction.dtype, em.rows(run.state))
            gains = [codes.gain(m.log_prob(codes.z), EPSILONS[0]).mean for m in (mixture, polished)]
            decided["polished"] = gains[1] > gains[0]
            if decided["polished"]:
                mixture, few = polished, few + run.few
        if few:
            less = f"{few} of {k} components had fewer than {self.least_rows:g} rows and were left out (least_rows)"
            outcome = replace(outcome, message=f"{outcome.message}; {less}")
        return Fit(mixture, outcome, trace, Chosen(settings=decided))

    def _keep(self, em: ComponentEM, run: EMRun, again: Callable[[State], EMRun]) -> EMRun:
        """Drop components until every one has `least_rows` rows; after each dropping EM runs again."""
        few = 0
        while self.least_rows and (fewer := em.thinned(run.state, self.least_rows)) is not run.state:
            few += len(run.state.mean) - len(fewer.mean)
            run = again(fewer)
        return replace(run, few=few)

    def _passes(self, em: ComponentEM, state: State, what: str, task: Task) -> EMRun:
        """Minibatch EM; one more pass after every dropping of components."""
        k = len(state.mean)

        def passes(state: State, epochs: int) -> EMRun:
            rng = fork(task.rng, "batch", k)
            state, bounds = em.passes(state, batch=self.batch, epochs=epochs, rng=rng)
            return EMRun(state, bounds, Outcome(message=f"{self.epochs} passes of minibatches of {self.batch} rows"))

        task.progress(what, 0, 1)
        run = self._keep(em, passes(state, self.epochs), lambda state: passes(state, 1))
        task.progress(what, 1, 1)
        return run

    def _run_em(self, em: ComponentEM, state: State, what: str, progress: Progress) -> EMRun:
        """EM until a step raises the bound by less than `tolerance`."""
        k, trace, converged = len(state.mean), list[float](), False
        for step in range(self.iterations):
            progress(what, step, self.iterations)
            new, bound = em.step(state)
            trace.append(bound)
            converged = len(trace) > 1 and trace[-1] - trace[-2] < self.tolerance
            if converged:
                break
            state = new
        progress(what, self.iterations, self.iterations)
        if not converged:
            rise = f"rose by {trace[-1] - trace[-2]:.1e} nats" if len(trace) > 1 else "was looked at once"
            advice = f"the bound still {rise} after {len(trace)} steps: usually harmless; raise iterations"
            return EMRun(state, trace, Outcome(ok=False, message=advice))
        if len(state.mean) < k:
            gone = k - len(state.mean)
            message = f"{gone} of {k} components were left without data and dropped: lower components"
            return EMRun(state, trace, Outcome(message=message))
        return EMRun(state, trace, Outcome(message=f"converged in {len(trace)} steps"))


def _mixture(em: ComponentEM, state: State, dtype: torch.dtype, rows: Float[Tensor, " k"]) -> Mixture:
    """The mixture that a state of EM stands for; `rows` are the effective rows of its components."""
    log_weight, mean, tril = (t.to(dtype) for t in em.finish(state))
    return Mixture(log_weight, mean, tril, float(rows.min()))

"""mixture: K Gaussians reduced from N posteriors by EM on the posteriors themselves, without sampling."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast, final

from zprime import memory
from zprime.arrays import WIDE
from zprime.errors import UsageError
from zprime.latent import sizes
from zprime.latent.em import ComponentEM, EMRun, State, run_em
from zprime.latent.evidence import OBJECTIVES, Evidence, check_objective, check_task, refit
from zprime.latent.factor_em import FactorEM
from zprime.latent.gaussians import Mixture
from zprime.latent.kind import FORMS, LEAST_ROWS, About, Fit, Outcome, Settings, Task, check_least_rows, check_tolerance
from zprime.latent.reduction import Reduction, mixture_of
from zprime.latent.selection import EPSILONS, Codes, RowScores, best_epsilon, point, smallest_of_best
from zprime.latent.sizes import RANK
from zprime.posteriors import WORDS, Form, MemoryPosteriors
from zprime.progress import Progress, in_pieces
from zprime.results.facts import Chosen, CurvePoint, Setting
from zprime.rng import fork

POLISHED = 20_000  # codes drawn for a step of polishing, at least
FULL = 512  # dimensions up to which `auto` takes full covariances, if they fit into memory


@final
@dataclass(frozen=True)
class MixtureSettings(Settings):
    """EM for the K-component mixture closest in KL to the aggregated posterior (docs/theory.md, section 6).

    Attributes:
        components: K; 0 tries 2, 5, 10, ... 200 (with five rows at least for every mean, and factor of `low-rank`) and
            chooses on the selection split. Above 1,024 dimensions it stops after two that gain no more than the
            best before them (by 0.05 nats); so does the choice of a rank.
        covariance: `full`, `diagonal`, or `low-rank`: F F^T + diag(v) for every component, a mixture of factor
            analysers (Ghahramani & Hinton 1996). `auto` is `full` up to 512 dimensions, if that fits into memory;
            above, the selection split chooses between `diagonal` and `low-rank`.
        rank: columns of F, for `low-rank` only; 0 chooses K with 4, then 1, 2, 4, ... 64 on the selection split, with
            five rows at least for every mean and factor.
        method: `em`, or `merge` for greedy merging alone (Runnalls 2007), which proves a bound on its KL.
        start: where EM begins: `kmeans` (k-means++ seeds) or `merge`.
        codes: `posteriors` uses means and variances. `means` throws the variances away, as is often done: right for
            deterministic autoencoders only. `draws` takes one draw a row, as fitting any mixture to samples does.
        batch: rows a step of minibatch EM; 0 takes all rows in every step.
        epochs: passes of minibatch EM.
        polish: steps of EM on fresh posterior draws at the end, kept if the selection split improves; not for
            `low-rank`, and above 1,024 dimensions only for the K that is taken.
        iterations: EM steps at most.
        tolerance: stop when the bound rises by less, in nats a row. Above 1,024 dimensions EM stops at 0.05 nats, or
            after 40 steps, while K, rank and the best start are chosen, and goes on from there.
        restarts: starts of EM at the K that is taken; the one with the highest bound is kept. (While K is being chosen,
            each K has one start.) For k-means++ starts with all rows in every step.
        least_rows: effective rows that every component has at least (Kish 1965, of its responsibilities); components
            with fewer are dropped and EM goes on with the others (`merge` merges them), as long as there are two. 0
            keeps all: a component may then be a single row.
        objective: `posteriors`; or `evidence`, for steps of extreme deconvolution after it, which raise the
            exact-posterior gain (theory, section 11); or `weights`, for its steps of the weights alone. Then K and the
            last step are chosen by that gain. Full or diagonal covariances.
    """

    kind: ClassVar[str] = Mixture.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    added: ClassVar[frozenset[str]] = frozenset({"objective"})
    about: ClassVar[About] = About(
        "K d^2 numbers",
        "EM: seconds to a minute, most of it to choose K; a second with components=20",
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
    rank: int = 0
    objective: str = "posteriors"

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        words = {
            "covariance": ("auto", "full", "diagonal", "low-rank"),
            "method": ("em", "merge"),
            "start": ("kmeans", "merge"),
            "codes": ("posteriors", "means", "draws"),
            "objective": OBJECTIVES,
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {getattr(self, name)!r}"
                )
        if self.components < 0:
            raise UsageError(f"components: expected 1 or more, or 0 to choose, got {self.components}")
        least = {"iterations": 1, "epochs": 1, "batch": 0, "polish": 0, "restarts": 1, "rank": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"{name}: expected at least {value}, got {getattr(self, name)}")
        if self.rank and self.covariance in ("full", "diagonal"):
            raise UsageError(
                f"rank: expected 0 with covariance {self.covariance!r}, got {self.rank}; set covariance to 'low-rank'"
            )
        if self.low_rank and not self._plain:
            raise UsageError(
                f"covariance: low-rank is fitted by EM from k-means++ seeds on all rows, got method {self.method!r}, "
                f"start {self.start!r} and batch {self.batch}; set them to 'em', 'kmeans' and 0"
            )
        check_objective(self.objective, codes=self.codes, low_rank=self.low_rank)
        check_least_rows(self.least_rows)
        check_tolerance(self.tolerance)

    @property
    def low_rank(self) -> bool:
        """Whether components of low rank are asked for."""
        return self.covariance == "low-rank" or self.rank > 0

    @property
    def _plain(self) -> bool:
        return (self.method, self.start, self.batch) == ("em", "kmeans", 0)

    def fit(self, task: Task) -> Fit[Mixture]:
        """Reduce to one K, or to each of several and choose.

        Raises:
            UsageError: settings that cannot be used, e.g. more components than rows, or than the memory holds.
        """
        train = task.train
        self.check()
        check_task(self.objective, task)
        if train.form == "points" and "merge" in (self.method, self.start):
            raise UsageError(
                f"method: merging takes Gaussians, whose widths say what a merge costs, got {WORDS['points']}; "
                "take em and kmeans"
            )
        if train.form == "full" and self.covariance == "low-rank":
            raise UsageError(
                f"covariance: low-rank takes {WORDS['diagonal']}, got {WORDS['full']}; take full or diagonal"
            )
        if self.components > train.n:
            raise UsageError(
                f"components: expected 1 to {train.n} (the number of posteriors), or 0 to choose, got {self.components}"
            )
        if self.rank > train.d:
            raise UsageError(f"rank: expected 1 to {train.d} (the latent dimension), or 0 to choose, got {self.rank}")
        rank = (self.rank or min(RANK, train.d)) if self.low_rank else 0
        tried = [self.components] if self.components else sizes.components(train, rank)
        if self.covariance == "auto" and not rank:
            return self._auto(task, tried[-1])
        each = train.d * (1 + rank) if rank or self.covariance == "diagonal" else train.d**2
        # covariances before and after a step, and factors, in float64
        memory.need(
            24 * tried[-1] * each,
            f"mixture: {tried[-1]:,} {self.covariance} covariances of {train.d:,} dimensions",
            "set components lower (--set mixture.components=20), or covariance to diagonal "
            "(--set mixture.covariance=diagonal)",
        )
        data = train.gather()
        if self.codes == "draws" and data.form != "points":
            drawn = data.draw(rng=fork(task.rng, "draws"))
            data = MemoryPosteriors(drawn, data.scale, row_ids=data.row_ids, weights=data.weights)
        spread, diagonal = self.codes == "posteriors" and data.form != "points", self.covariance == "diagonal"
        em = FactorEM(data, rank, spread=spread) if rank else ComponentEM(data, diagonal=diagonal, spread=spread)
        codes = Codes.draw(task.selection, task.prior, rng=task.rng)
        evidence = None if self.objective == "posteriors" else Evidence(task.selection)
        reduction = Reduction(em, codes, data.mean.dtype, task, evidence=evidence)
        k, fit, curve = tried[0], None, list[CurvePoint]()
        if not self.components:
            k, fit, curve = self._best("components", {k: (reduction, k) for k in tried})
        if isinstance(em, FactorEM) and not self.rank:
            reductions = {r: replace(reduction, em=em.of(r), runs={}) for r in sizes.ranks(train, k)}
            reductions |= {rank: reduction} if rank in reductions else {}
            chosen, fit, by_rank = self._best("rank", {r: (each, k) for r, each in reductions.items()})
            reduction, curve = reductions[chosen], curve or by_rank
        if fit is None or self != self._once(data.d):
            fit = self._reduce(reduction, k)
        return replace(fit, outcome=fit.outcome if self.components else sizes.largest(fit.outcome, k), curve=curve)

    def _best(
        self, setting: str, tried: dict[int, tuple[Reduction, int]]
    ) -> tuple[int, Fit[Mixture], list[CurvePoint]]:
        """Of values of a setting, each with what is reduced to how many components, the one that serves best."""
        fits: list[Fit[Mixture]] = []
        scored: list[tuple[float, RowScores]] = []
        (first, _), *_ = tried.values()
        for reduction, k in in_pieces(first.task.progress, "fit, mixture", list(tried.values())):
            fits.append(self._once(reduction.em.d)._reduce(reduction, k))
            scored.append(reduction.scored(fits[-1].distribution))
            if sizes.past_best(reduction.em.d, [g.mean for _, g in scored]):
                break
        best = smallest_of_best([g for _, g in scored], [f.distribution.bytes for f in fits])
        curve = [point(setting, v, f.distribution, e, g) for v, f, (e, g) in zip(tried, fits, scored, strict=False)]
        return list(tried)[best], fits[best], curve

    def _once(self, d: int) -> "MixtureSettings":
        """How each of several values is tried: from one start, and where steps take long only roughly."""
        return replace(self._rough(d), restarts=1, polish=0 if d > WIDE else self.polish)

    def _rough(self, d: int) -> "MixtureSettings":
        """How EM runs while something is chosen."""
        tolerance, iterations = sizes.rough(d, self.tolerance, self.iterations)
        return replace(self, tolerance=tolerance, iterations=iterations)

    def _auto(self, task: Task, most: int) -> Fit[Mixture]:
        """With full covariances where these are few numbers; else diagonal or of low rank, what serves better."""
        d = task.train.d
        if d <= FULL and memory.fits(24 * most * d**2):
            return replace(self, covariance="full").fit(task)
        forms = ["diagonal"]
        plain = self._plain and task.train.form != "full" and self.objective == "posteriors"
        if d > FULL and plain and memory.fits(24 * most * d * (1 + RANK)):
            forms.append("low-rank")
        tried = self._once(d) if d > WIDE and len(forms) > 1 else self
        fits = [replace(tried, covariance=form).fit(task) for form in forms]
        best = 0
        if len(fits) > 1:
            codes = Codes.draw(task.selection, task.prior, rng=task.rng)
            gains = [best_epsilon(codes, f.distribution)[1] for f in fits]
            best = smallest_of_best(gains, [f.distribution.bytes for f in fits])
        fit = fits[best]
        if tried != self:  # only the form that is taken is finished
            k, rank = (cast("int", fit.chosen.settings.get(name, 0)) for name in ("components", "rank"))
            end = replace(self, covariance=forms[best], components=k, rank=rank).fit(task)
            fit = replace(
                end, outcome=end.outcome if self.components else sizes.largest(end.outcome, k), curve=fit.curve
            )
        factor = fit.distribution.factor
        form = "diagonal covariances" if factor is None else f"covariances of {factor.shape[2]} factors and a diagonal"
        said = f"{d:,} dimensions are many: {form}; {fit.outcome.message}"
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
            rough, wholly = self._rough(em.d), partial(self._run_em, em, what=what, progress=progress)
            roughly = partial(rough._run_em, em, what=what, progress=progress)
            starts = range(self.restarts if self.start == "kmeans" else 1)
            for i in starts:
                if (k, i) not in runs:
                    runs[k, i] = roughly(em.start(k, rng=fork(rng, "start", k, i)) if i else state)
            best = max((runs[k, i] for i in starts), key=lambda run: run.bounds[-1])
            best = self._keep(em, best, roughly)
            if rough != self:
                finished = self._keep(em, wholly(best.state), wholly)
                best = replace(finished, few=best.few + finished.few)
            state, trace["bound"], outcome, few = best.state, best.bounds, best.outcome, best.few
            if len(starts) > 1:
                decided["bounds"] = [runs[k, i].bounds[-1] for i in starts]
        rows = em.rows(state) if rows is None or self.method == "em" else rows
        if state.factor is not None:
            decided["rank"] = state.factor.shape[2]
        mixture = mixture_of(em, state, reduction.dtype, rows)
        if self.polish and em.spread and state.factor is None:
            points = POLISHED if em.d <= FULL else POLISHED * FULL**2 // em.d**2  # posteriors overlap less and less

            def polish(state: State) -> EMRun:
                made = em.polish(state, steps=self.polish, rng=fork(rng, "polish", k), points=points)
                return EMRun(made, [], outcome)

            run = self._keep(em, polish(state), polish)
            polished = mixture_of(em, run.state, reduction.dtype, em.rows(run.state))
            gains = [codes.gain(m.log_prob(codes.z), EPSILONS[0]).mean for m in (mixture, polished)]
            decided["polished"] = gains[1] > gains[0]
            if decided["polished"]:
                mixture, few = polished, few + run.few
        if few:
            less = f"{few} of {k} components had fewer than {self.least_rows:g} rows and were left out (least_rows)"
            outcome = replace(outcome, message=f"{outcome.message}; {less}")
        if reduction.evidence is None:
            return Fit(mixture, outcome, trace, Chosen(settings=decided))
        done = refit(
            self.objective,
            mixture,
            reduction.task,
            least_rows=self.least_rows,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        decided |= {"components": len(done.mixture.mean), "steps": done.steps}
        outcome = replace(outcome, message=f"{outcome.message}; {done.told}")
        return Fit(done.mixture, outcome, trace | done.trace, Chosen(settings=decided))

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
        return run_em(em, state, what, iterations=self.iterations, tolerance=self.tolerance, progress=progress)

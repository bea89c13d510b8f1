"""mixture: K Gaussians reduced from N posteriors by EM on the posteriors themselves, without sampling."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution, Outcome
from zprime.errors import UsageError
from zprime.latent.em import ComponentEM, State
from zprime.latent.selection import WORTH, Codes, best_epsilon, point, smallest_of_best
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import Progress, silent
from zprime.rng import fork

LADDER = (2, 5, 10, 20, 50, 100, 200)
Climb = tuple[State, list[float], Outcome]  # where EM ended, its bounds, and how it went


@final
@dataclass(frozen=True, repr=False, eq=False)
class Mixture(GaussianDistribution):
    """K Gaussians with full covariances (`scale_tril` [k, d, d]) or diagonal ones (`scale_tril` [k, d])."""

    kind: ClassVar[str] = "mixture"
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale_tril: Float[Tensor, "k d d"] | Float[Tensor, "k d"]

    @cached_property
    def components(self) -> Diagonal | Full:
        """The K Gaussians."""
        shape: type[Diagonal] | type[Full] = Diagonal if self.scale_tril.ndim == 2 else Full
        return shape(self.log_weight, self.mean, self.scale_tril)

    @property
    def label(self) -> str:
        """With the number of components."""
        return f"mixture({len(self.mean)})"

    def tensors(self) -> dict[str, Tensor]:
        """Log-weights, means, Cholesky factors (or standard deviations)."""
        return {"log_weight": self.log_weight, "mean": self.mean, "scale_tril": self.scale_tril}

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["log_weight"], tensors["mean"], tensors["scale_tril"])


@dataclass(frozen=True)
class MixtureSettings:
    """EM for the K-component mixture closest in KL to the aggregated posterior (docs/theory.md, section 6).

    Attributes:
        components: K; 0 tries 2, 5, 10, ... 200 (up to a fifth of the rows) and chooses on the selection split.
        covariance: `full` or `diagonal`.
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
    """

    kind: ClassVar[str] = "mixture"
    needs: ClassVar[frozenset[str]] = frozenset()
    components: int = 0
    covariance: str = "full"
    method: str = "em"
    start: str = "kmeans"
    codes: str = "posteriors"
    batch: int = 0
    epochs: int = 3
    polish: int = 10
    iterations: int = 200
    tolerance: float = 1e-3
    restarts: int = 3

    def check(self, n: int) -> None:
        """Raise `UsageError` for a value that cannot be used with `n` posteriors."""
        words = {
            "covariance": ("full", "diagonal"),
            "method": ("em", "merge"),
            "start": ("kmeans", "merge"),
            "codes": ("posteriors", "means", "draws"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name}: expected {' or '.join(known)}, got {getattr(self, name)!r}")
        if self.components < 0 or self.components > n:
            raise UsageError(
                f"components: expected 1 to {n} (the number of posteriors), or 0 to choose, got {self.components}"
            )
        for name, least in (("iterations", 1), ("epochs", 1), ("batch", 0), ("polish", 0), ("restarts", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[Mixture]:
        """Reduce to one K, or to each K of the ladder.

        Raises:
            UsageError: settings that cannot be used, e.g. more components than rows.
        """
        self.check(train.n)
        data = train.gather()
        if self.codes == "draws":
            drawn = data.draw(rng=fork(rng, "draws"))
            data = MemoryPosteriors(drawn, data.scale, row_ids=data.row_ids, weights=data.weights)
        em = ComponentEM(data, diagonal=self.covariance == "diagonal", spread=self.codes == "posteriors")
        codes = Codes.draw(selection, rng=rng)
        if self.components:
            return self._reduce(em, self.components, codes, data.mean.dtype, rng, progress, {})
        once = replace(self, restarts=1)
        tried = [k for k in LADDER if k <= max(1, train.n // 5)] or [1]
        climbs: dict[tuple[int, int], Climb] = {}
        fits = [once._reduce(em, k, codes, data.mean.dtype, rng, progress, climbs) for k in tried]
        shares = [best_epsilon(codes, f.distribution) for f in fits]
        best = smallest_of_best([g for _, g in shares], [f.distribution.bytes for f in fits])
        curve = [point("components", k, f.distribution, e, g) for k, f, (e, g) in zip(tried, fits, shares, strict=True)]
        found = fits[best]
        if self.restarts > 1:
            found = self._reduce(em, tried[best], codes, data.mean.dtype, rng, progress, climbs)
        outcome = found.outcome
        if outcome.ok and tried[best] == LADDER[-1]:
            outcome = Outcome(message=f"{outcome.message}; the largest K tried was the best: try a larger one")
        return replace(found, outcome=outcome, curve=curve)

    def _reduce(
        self,
        em: ComponentEM,
        k: int,
        codes: Codes,
        dtype: torch.dtype,
        rng: torch.Generator,
        progress: Progress,
        climbs: dict[tuple[int, int], Climb],
    ) -> Fit[Mixture]:
        """To K components, polished; what is in `climbs` (K, number of the start) is not climbed again."""
        what = f"mixture({k})"
        trace: dict[str, list[float]] = {}
        chosen: dict[str, Any] = {"components": k}
        outcome = Outcome()
        if self.method == "merge" or self.start == "merge":
            state, bound = em.merged(k, rng=fork(rng, "merge", k), progress=progress)
            trace["kl_bound"] = [bound]
            outcome = Outcome(message=f"merged; KL(qbar || r) is at most {bound:.3f} nats")
        else:
            state = em.start(k, rng=fork(rng, "start", k))
        if self.method == "em" and self.batch:
            progress(what, 0, 1)
            state, trace["bound"] = em.passes(state, batch=self.batch, epochs=self.epochs, rng=fork(rng, "batch", k))
            progress(what, 1, 1)
            outcome = Outcome(message=f"{self.epochs} passes of minibatches of {self.batch} rows")
        elif self.method == "em":
            starts = range(self.restarts if self.start == "kmeans" else 1)
            for i in starts:
                if (k, i) not in climbs:
                    begin = em.start(k, rng=fork(rng, "start", k, i)) if i else state
                    climbs[k, i] = self._climb(em, begin, what, progress)
            state, trace["bound"], outcome = max((climbs[k, i] for i in starts), key=lambda c: c[1][-1])
            if len(starts) > 1:
                chosen["bounds"] = [climbs[k, i][1][-1] for i in starts]
        mixture = Mixture(*(t.to(dtype) for t in em.finish(state)))
        if self.polish and self.codes == "posteriors":
            state = em.polish(state, steps=self.polish, rng=fork(rng, "polish", k))
            polished = Mixture(*(t.to(dtype) for t in em.finish(state)))
            gains = [codes.gain(m.log_prob(codes.z), WORTH).mean for m in (mixture, polished)]
            chosen["polished"] = gains[1] > gains[0]
            if chosen["polished"]:
                mixture = polished
        return Fit(mixture, outcome, trace, chosen)

    def _climb(self, em: ComponentEM, state: State, what: str, progress: Progress) -> Climb:
        """EM until the bound stands still."""
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
            return state, trace, Outcome(ok=False, message=advice)
        if len(state.mean) < k:
            gone = k - len(state.mean)
            message = f"{gone} of {k} components were left without data and dropped: lower components"
            return state, trace, Outcome(message=message)
        return state, trace, Outcome(message=f"converged in {len(trace)} steps")

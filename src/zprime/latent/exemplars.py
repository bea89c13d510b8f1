"""exemplars: the N posteriors, or some of them, smoothed by a kernel that keeps their mean and variances."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.distribution import LatentDistribution, need_standard
from zprime.errors import UsageError
from zprime.latent.centre import GAUSSIANS
from zprime.latent.exemplar_mixture import Exemplars, diagonal_kernel
from zprime.latent.gaussian import moments
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.latent.selection import EPSILONS, Codes, point
from zprime.latent.subset import Subset, at_random, k_medoids, npmle
from zprime.posteriors import WORDS, Form, MemoryPosteriors
from zprime.results.facts import Chosen, CurvePoint, Setting
from zprime.rng import fork

__all__ = ["GRID", "Exemplars", "ExemplarsSettings"]

GRID = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NPMLE_ROWS = 2000
POINTS = 5000  # codes that a bandwidth is chosen on: 60,000 x 5,000 pairs take 2 s, diagonal, and 4 s, full


@final
@dataclass(frozen=True)
class ExemplarsSettings(Settings):
    """Liu-West smoothing of the posteriors (Liu & West 2001; an exemplar prior after training, Norouzi et al. 2020).

    `covariance` is the kernel's. `diagonal` (the default) keeps every component diagonal, so that density and
    exact-posterior gain are closed forms at the speed of the aggregated posterior. It shrinks correlations of the
    latents by a^2; training by the ELBO leaves hardly any (held-out gain on the digits: 2.07, and 2.05 +- 0.09 with
    `full`). `full` keeps them.
    With 60,000 rows and d = 16 its density at 400,000 points takes 360 s of one thread against 190 s, and more as d^2
    grows. The closed form of the exact-posterior gain takes a Cholesky factor for every pair of a posterior and a
    row, 12 microseconds each, so it is offered up to 1,024 rows only.

    Posteriors with full covariances keep them: every component is full, whatever the kernel.

    Attributes:
        bandwidth: h, from 0 (the aggregated posterior) to 1 (one Gaussian); -1 tries 0.05, 0.1, ... 1 and chooses.
        method: choose by the ELBO gain of the `selection` split, or of the training rows, each under the mixture
            of the others (`leave-one-out`): of the other data, where posteriors have several components.
        rows: how many data to keep, with all components of each (`kmedoids`: how many components); 0 keeps all.
        subset: which: `random`, `kmedoids` (weighted by their clusters), `npmle` (the largest mixing
            weights by maximum likelihood, found on at most 2,000 rows and stopped early on the selection split; with
            `rows` 0 all of these that have any); the last for one Gaussian of independent dimensions a datum only.
        covariance: `diagonal` or `full`.
    """

    kind: ClassVar[str] = Exemplars.kind
    about: ClassVar[About] = About(
        "2 N d numbers, rows",
        "a search over bandwidths",
        "many rows, none of them private: smoothed posteriors",
    )
    takes: ClassVar[frozenset[Form]] = GAUSSIANS
    parts: ClassVar[bool] = True
    bandwidth: float = -1.0
    method: str = "selection"
    rows: int = 0
    subset: str = "random"
    covariance: str = "diagonal"

    def fit(self, task: Task) -> Fit[Exemplars]:
        """Choose the rows, then the bandwidth.

        Raises:
            UsageError: a setting that cannot be used, more rows than there are, or `npmle` under a prior that is not
                N(0, I).
        """
        self.check()
        rng, data = task.rng, task.train.gather()
        self._check_rows(data)
        centre, covariance = moments(data)
        tril = torch.linalg.cholesky(covariance)
        codes = _selection_codes(task)
        dtype = data.mean.dtype
        kernel = covariance.diagonal().sqrt() if self.covariance == "diagonal" else tril
        whole = Exemplars(
            data.mean, data.scale, centre.to(dtype), kernel.to(dtype), max(0.0, self.bandwidth), data.weights
        )
        if self.subset == "npmle":
            subset = self._weigh(data, whole, codes, task)
        elif self.rows in (0, data.data if self.subset == "random" else data.n):
            subset = Subset(torch.arange(data.n), data.weights, 0, {})
        elif self.subset == "random":
            subset = at_random(data, self.rows, rng=fork(rng, "subset"))
        else:
            whiten = torch.linalg.solve_triangular(tril, torch.eye(data.d, dtype=torch.float64), upper=False)
            subset = k_medoids(data, self.rows, whiten, rng=fork(rng, "subset"))
        r = _take(whole, subset)
        decided: dict[str, Setting] = {"rows": len(subset.rows), "bandwidth": r.bandwidth}
        if subset.trace:
            decided["steps"] = subset.steps
        if self.bandwidth >= 0:
            return Fit(r, Outcome(message="exact, nothing to choose"), subset.trace, Chosen(settings=decided))
        best, curve = self._choose(r, data, subset, codes, task)
        outcome = Outcome(message=f"bandwidth chosen from {len(GRID)} by the ELBO gain ({self.method})")
        if best == 1:
            outcome = Outcome(
                message="the best bandwidth is 1, where all rows are smoothed into one Gaussian: "
                "kind gaussian is the same and stores no rows"
            )
        chosen = Chosen(settings={**decided, "bandwidth": best})
        return Fit(replace(r, bandwidth=best), outcome, subset.trace, chosen, curve)

    def _choose(
        self,
        r: Exemplars,
        data: MemoryPosteriors,
        subset: Subset,
        codes: Codes,
        task: Task,
    ) -> tuple[float, list[CurvePoint]]:
        """Choose the bandwidth with the best ELBO gain, each with its best epsilon."""
        position: Tensor | None = None
        datum: Tensor | None = None
        if self.method == "leave-one-out":
            codes, position = _training_codes(data, subset, task)
            datum = None if data.datum is None else data.datum[subset.rows]
        curve: list[CurvePoint] = []
        for step, h in enumerate(GRID):
            task.progress("exemplars: bandwidth", step, len(GRID))
            tried = replace(r, bandwidth=h)
            log_prob = tried.log_prob(codes.z) if position is None else tried.log_prob_without(codes.z, position, datum)
            gains = {e: codes.gain(log_prob, e) for e in EPSILONS}
            epsilon = max(EPSILONS, key=lambda e: gains[e].mean)
            curve.append(point("bandwidth", h, tried, epsilon, gains[epsilon]))
        task.progress("exemplars: bandwidth", len(GRID), len(GRID))
        return max(curve, key=lambda p: p.gain).value, curve

    def _weigh(self, data: MemoryPosteriors, whole: Exemplars, codes: Codes, task: Task) -> Subset:
        """Mixing weights by maximum likelihood on at most 2,000 rows, at the bandwidth that suits equal weights.

        Unsmoothed, narrow posteriors do not see each other, and the first step overfits.
        """
        need_standard(task.prior, "exemplars with subset npmle")
        rng = task.rng
        some = at_random(data, min(data.n, NPMLE_ROWS), rng=fork(rng, "npmle"))
        r = _take(whole, some)
        if self.bandwidth < 0:
            r = replace(r, bandwidth=self._choose(r, data, some, codes, task)[0])
        # the weights are found with a diagonal kernel, and short of one Gaussian, where there are none to find
        components = diagonal_kernel(replace(r, bandwidth=min(r.bandwidth, GRID[-2])))
        rows = MemoryPosteriors(r.mean, r.scale, weights=r.weights)
        kept = npmle(rows, components, self.rows, codes, rng=fork(rng, "ties"), progress=task.progress)
        return replace(kept, rows=some.rows[kept.rows])

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.bandwidth != -1 and not 0 <= self.bandwidth <= 1:
            raise UsageError(f"bandwidth: expected 0 to 1, or -1 to choose, got {self.bandwidth:g}")
        for name, value, known in (
            ("method", self.method, ("selection", "leave-one-out")),
            ("subset", self.subset, ("random", "kmedoids", "npmle")),
            ("covariance", self.covariance, ("diagonal", "full")),
        ):
            if value not in known:
                raise UsageError(f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        if self.rows < 0:
            raise UsageError(f"rows: expected 1 or more, or 0 for all, got {self.rows}")

    def _check_rows(self, data: MemoryPosteriors) -> None:
        """Raise `UsageError` for a setting that cannot be used with these posteriors."""
        n, what = (data.n, "posteriors") if self.subset != "random" else (data.data, "data")
        what = "posteriors" if data.datum is None else what
        if self.rows > n:
            raise UsageError(f"rows: expected 1 to {n} (the number of {what}), or 0 for all, got {self.rows}")
        if self.method == "leave-one-out" and self.bandwidth == -1 and (data.data == 1 or self.rows == 1):
            raise UsageError(
                "method: leave-one-out expected at least two rows, got one: nothing would be left; use selection"
            )
        if self.subset == "npmle" and (data.form != "diagonal" or data.datum is not None):
            got = WORDS[data.form] if data.datum is None else "several components a datum"
            raise UsageError(
                f"subset: npmle takes one posterior of {WORDS['diagonal']} a datum, got {got}; take random or kmedoids"
            )


def _take(r: Exemplars, subset: Subset) -> Exemplars:
    """The same kernel on some of the rows."""
    weights = None if subset.weights is None else subset.weights.to(r.mean.dtype)
    return replace(r, mean=r.mean[subset.rows], scale=r.scale[subset.rows], weights=weights)


def _selection_codes(task: Task) -> Codes:
    """About 5,000 fresh codes of the selection split."""
    rows = torch.randperm(task.selection.n, generator=fork(task.rng, "selection rows"))[:POINTS]
    return _codes(task.selection.gather(), rows, task.prior, rng=fork(task.rng, "selection codes"))


def _codes(
    data: MemoryPosteriors, rows: Int[Tensor, " m"], prior: LatentDistribution, *, rng: torch.Generator
) -> Codes:
    """Fresh codes of some rows, about 5,000, with the prior's log-density at them."""
    some = data.take(rows)
    z = some.draw(rng=rng, draws=_draws(len(rows)))
    return Codes(z, prior.log_prob(z), len(rows), some.weights, some.datum)


def _training_codes(data: MemoryPosteriors, subset: Subset, task: Task) -> tuple[Codes, Int[Tensor, " m"]]:
    """About 5,000 fresh codes of training rows, and what is left out for each.

    That is its place among the exemplars, or -1; its datum, where posteriors have several components.
    """
    rows = torch.randperm(data.n, generator=fork(task.rng, "training rows"))[:POINTS]
    at = torch.searchsorted(subset.rows, rows).clamp(max=len(subset.rows) - 1)
    position = torch.where(subset.rows[at] == rows, at, -1)
    position = position if data.datum is None else data.datum[rows]
    codes = _codes(data, rows, task.prior, rng=fork(task.rng, "training codes"))
    return codes, position.repeat(_draws(len(rows)))


def _draws(rows: int) -> int:
    """Draws a row that give about 5,000 codes, 16 at most."""
    return max(1, min(16, -(-POINTS // rows)))

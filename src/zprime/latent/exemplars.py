"""exemplars: the N posteriors, or some of them, smoothed by a kernel that keeps their mean and variances."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import check_matrix
from zprime.components import Diagonal, Full, Tilted
from zprime.distribution import LatentDistribution, need_standard
from zprime.errors import UsageError
from zprime.latent.gaussian import moments
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.latent.selection import EPSILONS, Codes, point
from zprime.latent.smoothed import Smoothed
from zprime.latent.subset import Subset, at_random, k_medoids, npmle
from zprime.posteriors import MemoryPosteriors
from zprime.results.facts import Chosen, CurvePoint, Setting
from zprime.rng import fork
from zprime.schema import FACTOR, FINITE, POSITIVE, WEIGHTS, Array, Real, Schema

GRID = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NPMLE_ROWS = 2000
POINTS = 5000  # codes that a bandwidth is chosen on: 60,000 x 5,000 pairs take 2 s, diagonal, and 4 s, full


@final
@dataclass(frozen=True, repr=False, eq=False)
class Exemplars(LatentDistribution):
    """Liu & West's kernel: components `N(a (mu_i - m) + m, a^2 diag(s_i^2) + h^2 S)`, `a = sqrt(1 - h^2)`.

    With m and S the mean and covariance of the aggregated posterior the mixture has them too, for every bandwidth h:
    h = 0 is the aggregated posterior, h = 1 one Gaussian. Stored are the posteriors as they were, m, and in `tril` the
    Cholesky factor of S; or, shape [d], its standard deviations: then the kernel is diagonal, and correlations shrink
    by a^2.
    """

    kind: ClassVar[str] = "exemplars"
    schema: ClassVar[Schema] = Schema(
        {"bandwidth": Real(0, 1)},
        {
            "mean": Array({"n d": FINITE}),
            "scale": Array({"n d": POSITIVE}),
            "centre": Array({"d": FINITE}),
            "tril": Array({"d": POSITIVE, "d d": FACTOR}),
            "weights": Array({"n": WEIGHTS}, "real", optional=True),
        },
    )
    stores_rows: ClassVar[bool] = True
    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"]
    centre: Float[Tensor, " d"]
    tril: Float[Tensor, "d d"] | Float[Tensor, " d"]
    bandwidth: float
    weights: Float[Tensor, " n"] | None = None

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @cached_property
    def components(self) -> Diagonal | Full | Smoothed:
        """The mixture that this distribution is, in the dtype of what is stored."""
        h = self.bandwidth
        if h == 1:  # all components are the same
            one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
            shape: type[Diagonal] | type[Full] = Diagonal if self.tril.ndim == 1 else Full
            return shape(one, self.centre[None], self.tril[None])
        if self.tril.ndim == 1 or h == 0:
            return _diagonal(self)
        mean, scale = self._shrunk()
        dtype = self.mean.dtype
        return Smoothed(self._log_weight(), mean.to(dtype), scale.to(dtype), (h * self.tril.double()).to(dtype))

    def _log_weight(self) -> Float[Tensor, " n"]:
        n = len(self.mean)
        weights = torch.full((n,), 1 / n, dtype=torch.float64) if self.weights is None else self.weights.double()
        return weights.log().to(self.mean.device)

    def _shrunk(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """A (mu - m) + m and a s, float64."""
        a = math.sqrt(1 - self.bandwidth**2)
        mean = self.mean.double()
        # in this form nothing is rounded at h = 0
        return mean - (1 - a) * (mean - self.centre.double()), a * self.scale.double()

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "the posteriors, smoothed"

    @property
    def label(self) -> str:
        """With the number of rows and the bandwidth."""
        return f"exemplars({len(self.mean)}, h={self.bandwidth:g})"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        return self.components.log_prob(check_matrix("z", z, d=self.d))

    def log_prob_without(self, z: Float[Tensor, "n d"], position: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Log r(z) with one component masked for every point and the rest renormalised by 1 - w_i; -1 masks none."""
        r = self.components
        if isinstance(r, Full) or len(r.mean) == 1:
            return r.log_prob(z)
        if isinstance(r, Smoothed):
            others = r.value(z, leave_out=position)
        else:
            others = r.prepared.log_prob(z, leave_out=position)
        left = torch.log1p(-r.log_weight.double().exp()[position.clamp(min=0)])
        return others - torch.where(position >= 0, left, 0.0)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws: a row at random, its posterior drawn towards the middle, and the kernel's noise."""
        return self.components.sample(n, rng=rng)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form; None for full covariances of more than 1,024 rows, which would take hours."""
        return self.components.tilt(mean, scale, draws=draws, rng=rng)

    def tensors(self) -> dict[str, Tensor]:
        """Means and standard deviations of the rows, mean and factor of the whole; weights where they differ."""
        tensors = {"mean": self.mean, "scale": self.scale, "centre": self.centre, "tril": self.tril}
        return tensors if self.weights is None else {**tensors, "weights": self.weights}

    def config(self) -> dict[str, Any]:
        """The bandwidth."""
        return {"bandwidth": self.bandwidth}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors and bandwidth."""
        return cls(
            tensors["mean"],
            tensors["scale"],
            tensors["centre"],
            tensors["tril"],
            float(config["bandwidth"]),
            tensors.get("weights"),
        )


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

    Attributes:
        bandwidth: h, from 0 (the aggregated posterior) to 1 (one Gaussian); -1 tries 0.05, 0.1, ... 1 and chooses.
        method: choose by the ELBO gain of the `selection` split, or of the training rows, each under the mixture
            of the others (`leave-one-out`).
        rows: how many rows to keep; 0 keeps all.
        subset: which: `random`, `kmedoids` (weighted by their clusters), `npmle` (the largest mixing
            weights by maximum likelihood, found on at most 2,000 rows and stopped early on the selection split; with
            `rows` 0 all of these that have any).
        covariance: `diagonal` or `full`.
    """

    kind: ClassVar[str] = Exemplars.kind
    about: ClassVar[About] = About(
        "2 N d numbers, rows",
        "a search over bandwidths",
        "many rows, none of them private: smoothed posteriors",
    )
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
        self._check_rows(task.train.n)
        rng, data = task.rng, task.train.gather()
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
        elif self.rows in (0, data.n):
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
        if self.method == "leave-one-out":
            codes, position = _training_codes(data, subset, task)
        curve: list[CurvePoint] = []
        for step, h in enumerate(GRID):
            task.progress("exemplars: bandwidth", step, len(GRID))
            tried = replace(r, bandwidth=h)
            log_prob = tried.log_prob(codes.z) if position is None else tried.log_prob_without(codes.z, position)
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
        components = _diagonal(replace(r, bandwidth=min(r.bandwidth, GRID[-2])))
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

    def _check_rows(self, n: int) -> None:
        """Raise `UsageError` for a setting that cannot be used with `n` posteriors."""
        if self.rows > n:
            raise UsageError(f"rows: expected 1 to {n} (the number of posteriors), or 0 for all, got {self.rows}")
        if self.method == "leave-one-out" and self.bandwidth == -1 and (n == 1 or self.rows == 1):
            raise UsageError(
                "method: leave-one-out expected at least two rows, got one: nothing would be left; use selection"
            )


def _diagonal(r: Exemplars) -> Diagonal:
    """The mixture with the diagonal of S for S."""
    mean, scale = r._shrunk()
    kernel = (r.tril if r.tril.ndim == 1 else r.tril.square().sum(1).sqrt()).double()
    scale = (scale.square() + (r.bandwidth * kernel).square()).sqrt()
    return Diagonal(r._log_weight(), mean.to(r.mean.dtype), scale.to(r.mean.dtype))


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
    return Codes(z, prior.log_prob(z), len(rows), some.weights)


def _training_codes(data: MemoryPosteriors, subset: Subset, task: Task) -> tuple[Codes, Int[Tensor, " m"]]:
    """About 5,000 fresh codes of training rows, and where each stands among the exemplars, or -1."""
    rows = torch.randperm(data.n, generator=fork(task.rng, "training rows"))[:POINTS]
    at = torch.searchsorted(subset.rows, rows).clamp(max=len(subset.rows) - 1)
    position = torch.where(subset.rows[at] == rows, at, -1)
    codes = _codes(data, rows, task.prior, rng=fork(task.rng, "training codes"))
    return codes, position.repeat(_draws(len(rows)))


def _draws(rows: int) -> int:
    """Draws a row that give about 5,000 codes, 16 at most."""
    return max(1, min(16, -(-POINTS // rows)))

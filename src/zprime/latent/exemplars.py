"""exemplars: the N posteriors, or some of them, smoothed by a kernel that keeps their mean and covariance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.components import Diagonal, Full, Tilted
from zprime.distribution import Fit, LatentDistribution, Outcome, Progress, silent
from zprime.errors import UsageError
from zprime.kernels import mixture_log_prob
from zprime.latent.choose import SHARES, Codes
from zprime.latent.gaussian import moments
from zprime.latent.smoothed import Smoothed
from zprime.latent.subset import Subset, at_random, codes_of, k_medoids, npmle
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import fork

GRID = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
POINTS = 5000  # codes that a bandwidth is chosen on: 60,000 x 5,000 pairs take 2 s, diagonal, and 4 s, full


@final
@dataclass(frozen=True, repr=False)
class Exemplars(LatentDistribution):
    """Liu & West's kernel: components `N(a (mu_i - m) + m, a^2 diag(s_i^2) + h^2 S)`, `a = sqrt(1 - h^2)`.

    With m and S the mean and covariance of the aggregated posterior the mixture has them too, for every bandwidth h:
    h = 0 is the aggregated posterior, h = 1 one Gaussian. Stored are the posteriors as they were, m, and the Cholesky
    factor of S in `tril`; or, shape [d], the standard deviations: then S is its diagonal, and correlations shrink by a^2.
    """

    kind: ClassVar[str] = "exemplars"
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

    @property
    def components(self) -> Diagonal | Full | Smoothed:
        """The mixture that this distribution is, in the dtype of what is stored."""
        dtype, h, n = self.mean.dtype, self.bandwidth, len(self.mean)
        a = math.sqrt(1 - h**2)
        if h == 1:  # all components are the same
            one = torch.zeros(1, dtype=dtype, device=self.mean.device)
            shape: type[Diagonal] | type[Full] = Diagonal if self.tril.ndim == 1 else Full
            return shape(one, self.centre[None], self.tril[None])
        weights = torch.full((n,), 1 / n, dtype=torch.float64) if self.weights is None else self.weights.double()
        log_weight = weights.log().to(self.mean.device)
        # in this form nothing is rounded at h = 0
        mean = (self.mean.double() - (1 - a) * (self.mean.double() - self.centre.double())).to(dtype)
        if self.tril.ndim == 1 or h == 0:
            kernel = h * self.tril.double() if self.tril.ndim == 1 else torch.zeros(self.d, dtype=torch.float64)
            scale = ((a * self.scale.double()).square() + kernel.square()).sqrt()
            return Diagonal(log_weight, mean, scale.to(dtype))
        return Smoothed(log_weight, mean, (a * self.scale.double()).to(dtype), (h * self.tril.double()).to(dtype))

    @property
    def label(self) -> str:
        """With the number of rows and the bandwidth."""
        return f"exemplars({len(self.mean)}, h={self.bandwidth:g})"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64."""
        return self.components.log_prob(z)

    def log_prob_without(self, z: Float[Tensor, "n d"], position: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """log r(z) with one component masked for every point and the rest renormalised by 1 - w_i; -1 masks none."""
        r = self.components
        if isinstance(r, Full) or len(r.mean) == 1:
            return r.log_prob(z)
        if isinstance(r, Smoothed):
            out = r.log_prob(z, leave_out=position)
        else:
            out = mixture_log_prob(z, r.mean, r.scale, r.log_weight, leave_out=position)
        left = torch.log1p(-r.log_weight.double().exp()[position.clamp(min=0)])
        return out - torch.where(position >= 0, left, 0.0)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws: a row at random, its posterior drawn towards the middle, and the kernel's noise."""
        return self.components.sample(n, rng=rng)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form; None for full covariances of more than 4,096 rows, which would take hours."""
        return self.components.tilt(mean, scale, draws=draws, rng=rng)

    def tensors(self) -> dict[str, Tensor]:
        """Means and standard deviations of the rows, mean and factor of the whole; weights where they differ."""
        out = {"mean": self.mean, "scale": self.scale, "centre": self.centre, "tril": self.tril}
        return out if self.weights is None else {**out, "weights": self.weights}

    def config(self) -> dict[str, Any]:
        """The bandwidth."""
        return {"bandwidth": self.bandwidth}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors and bandwidth."""
        return cls(
            tensors["mean"], tensors["scale"], tensors["centre"], tensors["tril"], float(config["bandwidth"]), tensors.get("weights")
        )


@dataclass(frozen=True)
class ExemplarsSettings:
    """Liu-West smoothing of the posteriors (Liu & West 2001; an exemplar prior after training, Norouzi et al. 2020).

    `covariance` is the kernel's. `diagonal` (the default) keeps every component diagonal, so density and evidence gain
    are closed forms at the speed of the aggregated posterior; it shrinks correlations of the latents by a^2, and a
    trained VAE has hardly any. `full` keeps them: its density takes twice the time at d = 16 (60,000 rows at 400,000
    points, one thread: XXX minutes against YYY) and grows with d^2, but the closed form of the evidence gain takes a
    Cholesky factor for every pair of a posterior and a row, so it is offered up to 4,096 rows.

    Attributes:
        bandwidth: h, from 0 (the aggregated posterior) to 1 (one Gaussian); -1 tries 0.05, 0.1, ... 1 and chooses.
        method: choose by the code gain of the `selection` split, or of the training rows, each under the mixture
            of the others (`leave-one-out`).
        rows: how many rows to keep; 0 keeps all.
        subset: which: `random`, `kmedoids` (weighted by their clusters), `npmle` (mixing weights of maximum likelihood,
            stopped early on the selection split; with `rows` 0 all that have weight, of at most 2,000).
        covariance: `diagonal` or `full`.
    """

    kind: ClassVar[str] = "exemplars"
    needs: ClassVar[frozenset[str]] = frozenset()
    bandwidth: float = -1.0
    method: str = "selection"
    rows: int = 0
    subset: str = "random"
    covariance: str = "diagonal"

    def fit(
        self, train: Posteriors, *, selection: Posteriors, context: Any, rng: torch.Generator, progress: Progress = silent
    ) -> Fit[Exemplars]:
        """Choose the rows, then the bandwidth.

        Raises:
            UsageError: a setting that cannot be used, or more rows than there are.
        """
        self._check(train.n)
        data = train.gather()
        centre, covariance = moments(data)
        tril = torch.linalg.cholesky(covariance)
        codes = _selection_codes(selection, rng)
        subset = self._subset(data, tril, codes, rng, progress)
        dtype = data.mean.dtype
        kernel = covariance.diagonal().sqrt() if self.covariance == "diagonal" else tril
        start = Exemplars(
            data.mean[subset.rows],
            data.scale[subset.rows],
            centre.to(dtype),
            kernel.to(dtype),
            max(0.0, self.bandwidth),
            subset.weights if subset.weights is None else subset.weights.to(dtype),
        )
        chosen: dict[str, Any] = {"rows": len(subset.rows)}
        if subset.steps or subset.trace:
            chosen["steps"] = subset.steps
        if self.bandwidth >= 0:
            return Fit(start, Outcome(message="exact, nothing to choose"), subset.trace, {**chosen, "bandwidth": self.bandwidth})
        position: Tensor | None = None
        if self.method == "leave-one-out":
            codes, position = _training_codes(data, subset, rng)
        curve: list[dict[str, Any]] = []
        for step, h in enumerate(GRID):
            progress("exemplars: bandwidth", step, len(GRID))
            r = replace(start, bandwidth=h)
            log_prob = r.log_prob(codes.z) if position is None else r.log_prob_without(codes.z, position)
            gains = {e: codes.gain(log_prob, e) for e in SHARES}
            share = max(SHARES, key=lambda e: float(gains[e].mean()))
            g = gains[share]
            curve.append(
                {
                    "bandwidth": h,
                    "bytes": r.bytes,
                    "epsilon": share,
                    "gain": float(g.mean()),
                    "stderr": float(g.std() / math.sqrt(len(g))) if len(g) > 1 else None,
                }
            )
        progress("exemplars: bandwidth", len(GRID), len(GRID))
        best = max(curve, key=lambda row: float(row["gain"]))["bandwidth"]
        outcome = Outcome(message=f"bandwidth chosen from {len(GRID)} by the code gain ({self.method})")
        if best == 1:
            outcome = Outcome(
                message="the best bandwidth is 1, where all rows are smoothed into one Gaussian: kind gaussian is the same and stores no rows"
            )
        return Fit(replace(start, bandwidth=best), outcome, subset.trace, {**chosen, "bandwidth": best}, curve)

    def _check(self, n: int) -> None:
        """Raise `UsageError` for a setting that cannot be used."""
        if self.bandwidth != -1 and not 0 <= self.bandwidth <= 1:
            raise UsageError(f"bandwidth: expected 0 to 1, or -1 to choose, got {self.bandwidth:g}")
        for name, value, known in (
            ("method", self.method, ("selection", "leave-one-out")),
            ("subset", self.subset, ("random", "kmedoids", "npmle")),
            ("covariance", self.covariance, ("diagonal", "full")),
        ):
            if value not in known:
                raise UsageError(f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        if not 0 <= self.rows <= n:
            raise UsageError(f"rows: expected 1 to {n} (the number of posteriors), or 0 for all, got {self.rows}")
        if self.method == "leave-one-out" and self.bandwidth == -1 and (n == 1 or self.rows == 1):
            raise UsageError("method: leave-one-out expected at least two rows, got one: nothing would be left; use selection")

    def _subset(
        self, data: InMemory, tril: Float[Tensor, "d d"], codes: Codes, rng: torch.Generator, progress: Progress
    ) -> Subset:
        """The rows to keep."""
        if self.subset == "npmle":
            return npmle(data, self.rows, codes, rng=fork(rng, "npmle"), progress=progress)
        if self.rows in (0, data.n):
            return Subset.of(torch.arange(data.n), data.weights)
        if self.subset == "random":
            return at_random(data, self.rows, rng=fork(rng, "subset"))
        eye = torch.eye(data.d, dtype=torch.float64)
        whiten = torch.linalg.solve_triangular(tril, eye, upper=False)
        return k_medoids(data, self.rows, whiten, rng=fork(rng, "subset"))


def _selection_codes(selection: Posteriors, rng: torch.Generator) -> Codes:
    """About 5,000 fresh codes of the selection split."""
    rows = torch.randperm(selection.n, generator=fork(rng, "selection rows"))[:POINTS]
    return codes_of(selection.gather(), rows, rng=fork(rng, "selection codes"), draws=_draws(len(rows)))


def _training_codes(data: InMemory, subset: Subset, rng: torch.Generator) -> tuple[Codes, Int[Tensor, " m"]]:
    """About 5,000 fresh codes of training rows, and where each stands among the exemplars, or -1."""
    rows = torch.randperm(data.n, generator=fork(rng, "training rows"))[:POINTS]
    draws = _draws(len(rows))
    at = torch.searchsorted(subset.rows, rows).clamp(max=len(subset.rows) - 1)
    position = torch.where(subset.rows[at] == rows, at, -1)
    return codes_of(data, rows, rng=fork(rng, "training codes"), draws=draws), position.repeat(draws)


def _draws(rows: int) -> int:
    return max(1, min(16, -(-POINTS // rows)))

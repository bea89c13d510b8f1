"""gaussian: the one Gaussian closest in forward KL to every posterior, by matching moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import memory
from zprime.arrays import cholesky, is_full, variances
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.latent.factors import Matrix, RowsAndNoise, Scatter, Variances, factor_analysis
from zprime.latent.kind import FORMS, About, Fit, Outcome, Settings, Task, check_tolerance
from zprime.latent.selection import Codes, best_epsilon, point, smallest_of_best
from zprime.low_rank import LowRank
from zprime.posteriors import Form, Posteriors, Shard
from zprime.results.facts import Chosen
from zprime.schema import FACTOR, FINITE, POSITIVE, Array, Maybe, Real, Schema, need

COVARIANCES = ("auto", "full", "diagonal", "low-rank")
FULL = 1024  # dimensions up to which `auto` takes a full covariance, if it fits into memory
MOST = 64  # factors, at most, among which a rank is chosen


@final
@dataclass(frozen=True, repr=False, eq=False)
class Gaussian(GaussianDistribution):
    """N(mean, L L^T); a diagonal one keeps `scale_tril` as a vector, shape [d].

    One of low rank, N(mean, F F^T + diag(scale_tril^2)), keeps that vector and `factor`, F.
    """

    kind: ClassVar[str] = "gaussian"
    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {
            "mean": Array({"d": FINITE}),
            "scale_tril": Array({"d": POSITIVE, "d d": FACTOR}),
            "factor": Array({"d r": FINITE}, optional=True),
        },
    )
    mean: Float[Tensor, " d"]
    scale_tril: Float[Tensor, "d d"] | Float[Tensor, " d"]
    factor: Float[Tensor, "d r"] | None = None
    least_rows: float | None = None

    @cached_property
    def components(self) -> Diagonal | Full | LowRank:
        """A mixture of one."""
        one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
        if self.factor is not None:
            return LowRank(one, self.mean[None], self.scale_tril[None], self.factor[None])
        shape: type[Diagonal] | type[Full] = Diagonal if self.scale_tril.ndim == 1 else Full
        return shape(one, self.mean[None], self.scale_tril[None])

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "one Gaussian with the mean and covariance of the posteriors"

    @property
    def label(self) -> str:
        """With its covariance."""
        if self.factor is not None:
            return f"gaussian (rank {self.factor.shape[1]})"
        return "gaussian (diagonal)" if self.scale_tril.ndim == 1 else "gaussian"

    def tensors(self) -> dict[str, Tensor]:
        """Mean and Cholesky factor (or standard deviations, and the factor of low rank)."""
        tensors = {"mean": self.mean, "scale_tril": self.scale_tril}
        return tensors if self.factor is None else {**tensors, "factor": self.factor}

    def config(self) -> dict[str, Any]:
        """The effective rows behind it."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        r = cls(tensors["mean"], tensors["scale_tril"], tensors.get("factor"), config["least_rows"])
        if r.factor is not None:
            need("scale_tril", r.scale_tril.ndim == 1, "shape [d] beside a factor", list(r.scale_tril.shape))
        return r


def marginal_moments(posteriors: Posteriors) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and variances of the aggregated posterior, float64, as sums over shards: `moments` without a matrix."""
    (mean,) = posteriors.total(_mean)
    (variance,) = posteriors.total(_variance, mean)
    return mean, variance


def scatter_of(posteriors: Posteriors) -> tuple[Float[Tensor, " d"], Scatter]:
    """Mean and covariance of the aggregated posterior; the covariance as rows where these are fewer than dimensions."""
    if posteriors.n >= posteriors.d or posteriors.form == "full":
        mean, covariance = moments(posteriors)
        return mean, Matrix(covariance)
    mean, _ = marginal_moments(posteriors)
    weights, data = posteriors.log_weights.exp(), posteriors.gather()
    rows = (data.mean.double() - mean) * weights.sqrt()[:, None]
    return mean, RowsAndNoise(rows, weights @ data.scale.double().square())


def gaussian_of(mean: Float[Tensor, " d"], scatter: Scatter, *, what: str) -> Gaussian:
    """The Gaussian with this mean and covariance; `what` it is, for an error."""
    if isinstance(scatter, RowsAndNoise):
        return Gaussian(mean, scatter.noise.sqrt(), scatter.rows.T)
    if isinstance(scatter, Variances):
        return Gaussian(mean, scatter.variance.sqrt())
    return Gaussian(mean, cholesky(what, scatter.dense()))


def moments(posteriors: Posteriors) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of the aggregated posterior, float64, as sums over shards.

    `m = sum w_i mu_i`, `S = sum w_i (R_i + (mu_i - m)(mu_i - m)^T)`, R_i the covariance of q_i; in two passes, so
    that nothing cancels.
    """
    (mean,) = posteriors.total(_mean)
    (covariance,) = posteriors.total(_covariance, mean)
    return mean, covariance


def _mean(posteriors: Posteriors, s: Shard) -> list[Tensor]:
    return [posteriors.log_weights_of(s.rows).exp() @ s.mean.double()]


def _variance(posteriors: Posteriors, s: Shard, mean: Tensor) -> list[Tensor]:
    own = variances(s.mean, s.scale.double())
    return [posteriors.log_weights_of(s.rows).exp() @ ((s.mean.double() - mean).square() + own)]


def _covariance(posteriors: Posteriors, s: Shard, mean: Tensor) -> list[Tensor]:
    w, gap = posteriors.log_weights_of(s.rows).exp(), s.mean.double() - mean
    return [(gap * w[:, None]).T @ gap + own_covariance(s, w)]


def own_covariance(shard: Shard, weights: Float[Tensor, " n"]) -> Float[Tensor, "d d"]:
    """Weighted sum of the covariances of the rows of a shard, float64."""
    scale = shard.scale.double()
    if not is_full(shard.mean, scale):
        return torch.diag(weights @ scale.square())
    d, rooted = scale.shape[1], scale * weights.sqrt()[:, None, None]
    side_by_side = rooted.transpose(0, 1).reshape(d, -1)
    return side_by_side @ side_by_side.T


@final
@dataclass(frozen=True)
class GaussianSettings(Settings):
    """The minimiser of the mean of KL(q_i || r) over Gaussians r: the moment match (docs/theory.md, section 1).

    With `low-rank`, the minimiser among covariances F F^T + diag(v): that mean is KL(N(m, S) || r) plus what r cannot
    change, m and S the moments, so it is maximum-likelihood factor analysis of S (Rubin & Thayer 1982).

    Attributes:
        covariance: `full`, `diagonal` or `low-rank`; `auto` is `full` up to 1,024 dimensions, if that fits into memory,
            and `low-rank` above.
        rank: columns of F; 0 tries 1, 2, 4, ... below d, 64 at most, and chooses on the selection split. For `low-rank`
            only.
        iterations: EM steps at most, for `low-rank` only.
        tolerance: stop when a step of that EM gains less, in nats; above 1,024 dimensions 1e-6 nats a dimension.
    """

    kind: ClassVar[str] = Gaussian.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About("d^2 numbers", "one pass", "the hole is in mean or covariance")
    quick: ClassVar[bool] = True
    covariance: str = "auto"
    rank: int = 0
    iterations: int = 2000
    tolerance: float = 1e-8

    def check(self) -> None:
        """Raise `UsageError` for an unknown covariance, or a value out of range."""
        if self.covariance not in COVARIANCES:
            raise UsageError(
                f"covariance: expected {', '.join(COVARIANCES[:-1])} or {COVARIANCES[-1]}, got {self.covariance!r}"
            )
        if self.rank and self.covariance in ("full", "diagonal"):
            raise UsageError(
                f"rank: expected 0 with covariance {self.covariance!r}, got {self.rank}; set covariance to 'low-rank'"
            )
        if self.rank < 0:
            raise UsageError(f"rank: expected 1 or more, or 0 to choose, got {self.rank}")
        if self.iterations < 1:
            raise UsageError(f"iterations: expected at least 1, got {self.iterations}")
        check_tolerance(self.tolerance)

    def fit(self, task: Task) -> Fit[Gaussian]:
        """Match mean and covariance of the aggregated posterior: exactly, or as far as the rank allows.

        Raises:
            UsageError: unknown covariance, a rank out of range, or dimensions too many for the memory.
        """
        self.check()
        covariance, d = self._form(task.train.d), task.train.d
        if covariance == "low-rank":
            return self._low_rank(task)
        if covariance == "diagonal":
            mean, variance = marginal_moments(task.train)
            factor = variance.sqrt()
        else:
            # the covariance twice, in float64, and its factor
            memory.need(24 * d**2, f"gaussian: the covariance of {d:,} dimensions", "set covariance to low-rank")
            mean, matrix = moments(task.train)
            factor = cholesky("gaussian", matrix)
        dtype = next(iter(task.train.shards())).mean.dtype
        gaussian = Gaussian(mean.to(dtype), factor.to(dtype), least_rows=task.train.effective_rows)
        return Fit(gaussian, Outcome(message="exact, in closed form"))

    def _form(self, d: int) -> str:
        """The covariance that is fitted in `d` dimensions."""
        if self.covariance != "auto":
            return self.covariance
        full = not self.rank and d <= FULL and memory.fits(24 * d**2)
        return "full" if full else "low-rank"

    def _low_rank(self, task: Task) -> Fit[Gaussian]:
        """Factor analysis for the rank asked for, or for 1, 2, 4, ... below d."""
        d, dtype = task.train.d, next(iter(task.train.shards())).mean.dtype
        if self.rank > d:
            raise UsageError(f"rank: expected 1 to {d} (the latent dimension), or 0 to choose, got {self.rank}")
        tried = [self.rank] if self.rank else [2**i for i in range(d.bit_length()) if 2**i < min(d, MOST + 1)] or [1]
        mean, scatter = scatter_of(task.train)
        tolerance = self.tolerance if d <= FULL else max(self.tolerance, 1e-6 * d)
        fits: list[tuple[Gaussian, list[float]]] = []
        for step, k in enumerate(tried):
            task.progress("gaussian, low rank", step, len(tried))
            factor, var, trace = factor_analysis(scatter, k, iterations=self.iterations, tolerance=tolerance)
            rows = task.train.effective_rows
            fits.append((Gaussian(mean.to(dtype), var.sqrt().to(dtype), factor.to(dtype), rows), trace))
        task.progress("gaussian, low rank", len(tried), len(tried))
        best, curve = 0, []
        if len(tried) > 1:
            codes = Codes.draw(task.selection, task.prior, rng=task.rng)
            scored = [best_epsilon(codes, r) for r, _ in fits]
            best = smallest_of_best([g for _, g in scored], [r.bytes for r, _ in fits])
            curve = [point("rank", k, r, e, g) for k, (r, _), (e, g) in zip(tried, fits, scored, strict=True)]
        gaussian, trace = fits[best]
        form = (
            ""
            if self.covariance == "low-rank"
            else f"{d:,} dimensions are many: a covariance of {tried[best]} factors and a diagonal; "
        )
        outcome = Outcome(message=f"{form}converged in {len(trace)} steps")
        if len(trace) > self.iterations:
            gained = trace[-1] - trace[-2]
            outcome = Outcome(
                ok=False,
                message=f"factor analysis still gained {gained:.1e} nats after {self.iterations} steps: "
                "usually harmless; raise iterations",
            )
        return Fit(gaussian, outcome, {"objective": trace}, Chosen(settings={"rank": tried[best]}), curve)

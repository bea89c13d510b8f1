"""gaussian: the one Gaussian closest in forward KL to every posterior, by matching moments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import memory
from zprime.arrays import cholesky
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.latent.kind import About, Fit, Outcome, Settings, Task, check_tolerance
from zprime.latent.selection import Codes, best_epsilon, point, smallest_of_best
from zprime.posteriors import Posteriors
from zprime.results.facts import Chosen
from zprime.schema import FACTOR, FINITE, POSITIVE, Array, Maybe, Real, Schema, need

COVARIANCES = ("full", "diagonal", "low-rank")
FLOOR = 1e-6  # of a dimension's variance, at least so much is left unexplained by the factors (Heywood cases)


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

    @property
    def components(self) -> Diagonal | Full:
        """A mixture of one."""
        one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
        if self.factor is not None:
            f = self.factor.double()
            tril = cholesky("gaussian", f @ f.T + torch.diag(self.scale_tril.double().square()))
            return Full(one, self.mean[None], tril.to(self.mean.dtype)[None])
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
            _ = r.components  # raises where factor and standard deviations have no covariance in float64
        return r


def moments(posteriors: Posteriors) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of the aggregated posterior, float64, as sums over shards.

    `m = sum w_i mu_i`, `S = sum w_i (diag(s_i^2) + (mu_i - m)(mu_i - m)^T)`, in two passes so that nothing cancels.
    """
    weights = posteriors.log_weights.exp()
    mean = torch.zeros(posteriors.d, dtype=torch.float64)
    for s in posteriors.shards():
        mean = mean + weights[s.rows] @ s.mean.double()
    covariance = torch.zeros(posteriors.d, posteriors.d, dtype=torch.float64)
    for s in posteriors.shards():
        w, gap = weights[s.rows], s.mean.double() - mean
        covariance += (gap * w[:, None]).T @ gap + torch.diag(w @ s.scale.double().square())
    return mean, covariance


@final
@dataclass(frozen=True)
class GaussianSettings(Settings):
    """The minimiser of the mean of KL(q_i || r) over Gaussians r: the moment match (docs/theory.md, section 1).

    With `low-rank`, the minimiser among covariances F F^T + diag(v): that mean is KL(N(m, S) || r) plus what r cannot
    change, m and S the moments, so it is maximum-likelihood factor analysis of S (Rubin & Thayer 1982).

    Attributes:
        covariance: `full`, `diagonal` or `low-rank`.
        rank: columns of F; 0 tries 1, 2, 4, ... below d and chooses on the selection split. For `low-rank` only.
        iterations: EM steps at most, for `low-rank` only.
        tolerance: stop when a step of that EM gains less, in nats.
    """

    kind: ClassVar[str] = Gaussian.kind
    about: ClassVar[About] = About("d^2 numbers", "one pass", "the hole is in mean or covariance")
    quick: ClassVar[bool] = True
    covariance: str = "full"
    rank: int = 0
    iterations: int = 2000
    tolerance: float = 1e-8

    def check(self) -> None:
        """Raise `UsageError` for an unknown covariance, or a value out of range."""
        if self.covariance not in COVARIANCES:
            raise UsageError(
                f"covariance: expected {', '.join(COVARIANCES[:-1])} or {COVARIANCES[-1]}, got {self.covariance!r}"
            )
        if self.rank and self.covariance != "low-rank":
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
        # the covariance twice, in float64, and its factor
        memory.need(
            24 * task.train.d**2,
            f"gaussian: the covariance of {task.train.d:,} dimensions",
            "train with fewer latents",
        )
        mean, covariance = moments(task.train)
        dtype = next(iter(task.train.shards())).mean.dtype
        if self.covariance == "low-rank":
            return self._low_rank(mean, covariance, dtype, task)
        if self.covariance == "diagonal":
            factor = covariance.diagonal().sqrt()
        else:
            factor = cholesky("gaussian", covariance)
        gaussian = Gaussian(mean.to(dtype), factor.to(dtype), least_rows=task.train.effective_rows)
        return Fit(gaussian, Outcome(message="exact, in closed form"))

    def _low_rank(
        self,
        mean: Float[Tensor, " d"],
        covariance: Float[Tensor, "d d"],
        dtype: torch.dtype,
        task: Task,
    ) -> Fit[Gaussian]:
        """Factor analysis for the rank asked for, or for 1, 2, 4, ... below d."""
        d = len(mean)
        if self.rank > d:
            raise UsageError(f"rank: expected 1 to {d} (the latent dimension), or 0 to choose, got {self.rank}")
        tried = [self.rank] if self.rank else [k for k in (2**i for i in range(d)) if k < d] or [1]
        fits: list[tuple[Gaussian, list[float]]] = []
        for step, k in enumerate(tried):
            task.progress("gaussian, low rank", step, len(tried))
            factor, var, trace = factor_analysis(covariance, k, iterations=self.iterations, tolerance=self.tolerance)
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
        outcome = Outcome(message=f"converged in {len(trace)} steps")
        if len(trace) > self.iterations:
            gained = trace[-1] - trace[-2]
            outcome = Outcome(
                ok=False,
                message=f"factor analysis still gained {gained:.1e} nats after {self.iterations} steps: "
                "usually harmless; raise iterations",
            )
        return Fit(gaussian, outcome, {"objective": trace}, Chosen(settings={"rank": tried[best]}), curve)


def factor_analysis(
    covariance: Float[Tensor, "d d"], rank: int, *, iterations: int, tolerance: float
) -> tuple[Float[Tensor, "d r"], Float[Tensor, " d"], list[float]]:
    """Maximum-likelihood factor analysis of a covariance by EM (Rubin & Thayer 1982): F and v of F F^T + diag(v).

    No step lowers the objective, `-1/2 [log det C + tr(C^-1 S)]` with C = F F^T + diag(v) in units in which S has a
    unit diagonal (the fit does not depend on units): in nats, -KL(N(0, S) || N(0, C)) up to a constant. The trace holds
    it before every step and after the last. v is kept above 1e-6 of each dimension's variance.
    """
    d = len(covariance)
    unit = covariance.diagonal().sqrt()
    target = covariance / unit / unit[:, None]
    values, vectors = torch.linalg.eigh(target)
    # start from probabilistic PCA (Tipping & Bishop 1999)
    noise = values[: d - rank].mean().clamp(min=FLOOR) if rank < d else torch.tensor(FLOOR, dtype=torch.float64)
    factor = vectors[:, d - rank :] * (values[d - rank :] - noise).clamp(min=FLOOR).sqrt()
    var = (1 - factor.square().sum(1)).clamp(min=FLOOR)
    eye = torch.eye(rank, dtype=torch.float64)
    trace: list[float] = []
    for step in range(iterations + 1):
        tril = torch.linalg.cholesky(factor @ factor.T + torch.diag(var))
        solved = torch.cholesky_solve(torch.cat([target, factor], 1), tril)
        trace.append(-float(tril.diagonal().log().sum()) - 0.5 * float(solved[:, :d].diagonal().sum()))
        if step == iterations or (step and trace[-1] - trace[-2] < tolerance):
            break
        beta = solved[:, d:].T
        cross = target @ beta.T
        factor = torch.linalg.solve(eye - beta @ factor + beta @ cross, cross, left=False)
        # the best v in closed form; where it is below the floor, the floor is the best allowed
        var = (1 - (factor * cross).sum(1)).clamp(min=FLOOR)
    return factor * unit[:, None], var * unit.square(), trace

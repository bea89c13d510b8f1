"""mixture: K Gaussians reduced from N posteriors by EM on the posteriors themselves, without sampling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, cholesky
from zprime.components import Diagonal, Full
from zprime.distribution import Fit, GaussianDistribution, LatentDistribution, Outcome, Progress, silent
from zprime.errors import UsageError
from zprime.latent.choose import Codes, best_share, smallest_of_best
from zprime.latent.gaussian import moments
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import fork

LADDER = (2, 5, 10, 20, 50, 100, 200)
ROWS = 8192


@final
@dataclass(frozen=True, repr=False, eq=False)
class Mixture(GaussianDistribution):
    """K Gaussians with full covariances (`scale_tril` [k, d, d]) or diagonal ones (`scale_tril` [k, d])."""

    kind: ClassVar[str] = "mixture"
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale_tril: Float[Tensor, "k d d"] | Float[Tensor, "k d"]

    @property
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
    """EM for the K-component mixture closest in KL to the aggregated posterior (theory page, section 6).

    Attributes:
        components: K; 0 tries 2, 5, 10, ... 200 (up to a fifth of the rows) and chooses on the selection split.
        covariance: `full` or `diagonal`.
        iterations: EM steps at most.
        tolerance: stop when the bound rises by less, in nats a row.
    """

    kind: ClassVar[str] = "mixture"
    needs: ClassVar[frozenset[str]] = frozenset()
    components: int = 0
    covariance: str = "full"
    iterations: int = 200
    tolerance: float = 1e-3

    def fit(
        self, train: Posteriors, *, selection: Posteriors, context: Any, rng: torch.Generator, progress: Progress = silent
    ) -> Fit[Mixture]:
        """Run EM from k-means++ starts, for one K or for each K of the ladder.

        Raises:
            UsageError: unknown covariance, more components than rows, or no iterations.
        """
        if self.covariance not in ("full", "diagonal"):
            raise UsageError(f"covariance: expected full or diagonal, got {self.covariance!r}")
        if self.components < 0 or self.components > train.n:
            raise UsageError(
                f"components: expected 1 to {train.n} (the number of posteriors), or 0 to choose, got {self.components}"
            )
        if self.iterations < 1:
            raise UsageError(f"iterations: expected at least 1, got {self.iterations}")
        data = train.gather()
        if self.components:
            mixture, outcome, trace = self._reduce(data, self.components, rng, progress)
            return Fit(mixture, outcome, {"bound": trace}, {"components": self.components})
        tried = [k for k in LADDER if k <= max(1, train.n // 5)] or [1]
        codes = Codes.draw(selection, rng=rng)
        fits = [self._reduce(data, k, rng, progress) for k in tried]
        shares = [best_share(codes, mixture) for mixture, _, _ in fits]
        best = smallest_of_best([g for _, g in shares], [m.bytes for m, _, _ in fits])
        curve = [
            {
                "components": k,
                "bytes": m.bytes,
                "epsilon": e,
                "gain": float(g.mean()),
                "stderr": float(g.std() / math.sqrt(len(g))) if len(g) > 1 else None,
            }
            for k, (m, _, _), (e, g) in zip(tried, fits, shares, strict=True)
        ]
        mixture, outcome, trace = fits[best]
        if best == len(tried) - 1 and outcome.ok and tried[best] == LADDER[-1]:
            outcome = Outcome(message=f"{outcome.message}; the largest K tried was the best: try a larger one")
        return Fit(mixture, outcome, {"bound": trace}, {"components": tried[best]}, curve)

    def _reduce(
        self, data: InMemory, k: int, rng: torch.Generator, progress: Progress
    ) -> tuple[Mixture, Outcome, list[float]]:
        em = ComponentEM(data, diagonal=self.covariance == "diagonal")
        state = em.start(k, rng=fork(rng, "start", k))
        trace: list[float] = []
        converged = False
        for step in range(self.iterations):
            progress(f"mixture({k})", step, self.iterations)
            new, bound = em.step(state)
            trace.append(bound)
            converged = len(trace) > 1 and trace[-1] - trace[-2] < self.tolerance
            if converged:
                break
            state = new
        progress(f"mixture({k})", self.iterations, self.iterations)
        mixture = em.finish(state, data.mean.dtype)
        outcome = Outcome(message=f"converged in {len(trace)} steps")
        if not converged:
            rise = f"rose by {trace[-1] - trace[-2]:.1e} nats" if len(trace) > 1 else "was looked at once"
            advice = f"the bound still {rise} after {len(trace)} steps: usually harmless; raise iterations"
            outcome = Outcome(ok=False, message=advice)
        elif len(mixture.mean) < k:
            gone = k - len(mixture.mean)
            outcome = Outcome(message=f"{gone} of {k} components were left without data and dropped: lower components")
        return mixture, outcome, trace


@dataclass(frozen=True)
class State:
    """A mixture in whitened coordinates: log-weights, means, and covariances (or variances)."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    covariance: Float[Tensor, "k d d"] | Float[Tensor, "k d"]


class ComponentEM:
    """EM whose data are Gaussians: `log c_ik = log pi_k + log N(mu_i; m_k, S_k) - tr(S_k^-1 diag(s_i^2)) / 2`.

    With the features `[mu mu^T + diag(s^2), mu, 1]` of a datum both steps are one matrix product each, in float64 on
    data whitened per dimension (expanded squares cancel otherwise). Hershey & Olsen 2007; Bruneau 2010.
    """

    def __init__(self, data: InMemory, *, diagonal: bool) -> None:
        self.n, self.d, self.diagonal = data.n, data.d, diagonal
        self.centre, covariance = moments(data)
        self.unit = covariance.diagonal().sqrt()
        self.mean = (data.mean.double() - self.centre) / self.unit
        self.variance = (data.scale.double() / self.unit).square()
        self.weight = data.log_weights.exp()
        self.upper = torch.triu_indices(self.d, self.d)
        # an off-diagonal entry of a symmetric matrix counts twice in the trace
        self.twice = torch.where(self.upper[0] == self.upper[1], 1.0, 2.0).double()

    def features(self, rows: slice) -> Float[Tensor, "b f"]:
        """[second moments, first moments, 1] of some rows."""
        mu, v = self.mean[rows], self.variance[rows]
        if self.diagonal:
            second = mu.square() + v
        else:
            second = mu[:, self.upper[0]] * mu[:, self.upper[1]]
            second[:, self.upper[0] == self.upper[1]] += v
        return torch.cat([second, mu, torch.ones(len(mu), 1, dtype=torch.float64)], 1)

    def start(self, k: int, *, rng: torch.Generator) -> State:
        """k-means++ seeds on a subset of the means (Arthur & Vassilvitskii 2007), with the whole covariance over k^(2/d)."""
        subset = torch.randperm(self.n, generator=rng)[: max(20 * k, 2000)]
        points = self.mean[subset]
        chosen = [int(torch.randint(len(points), (1,), generator=rng))]
        nearest = (points - points[chosen[0]]).square().sum(1)
        for _ in range(k - 1):
            total = float(nearest.sum())
            if total > 0:
                u = torch.rand(1, generator=rng, dtype=torch.float64) * total
                nxt = int(torch.searchsorted(nearest.cumsum(0), u).clamp(max=len(points) - 1))
            else:
                nxt = int(torch.randint(len(points), (1,), generator=rng))
            chosen.append(nxt)
            nearest = torch.minimum(nearest, (points - points[nxt]).square().sum(1))
        shrink = k ** (-2 / self.d)
        _, covariance = moments(InMemory(self.mean, self.variance.sqrt()))
        covariance = covariance * shrink
        if self.diagonal:
            covariance = covariance.diagonal()
        return State(
            torch.full((k,), -math.log(k), dtype=torch.float64),
            points[chosen].clone(),
            covariance.expand(k, *covariance.shape).clone(),
        )

    def _weights(self, state: State) -> Float[Tensor, "f k"]:
        """What the features are multiplied with to give log c_ik, but for the constant of the Gaussian."""
        if self.diagonal:
            precision = state.covariance.reciprocal()
            shift = precision * state.mean
            second, log_det = -0.5 * precision, precision.log().sum(1)
        else:
            factor = cholesky(f"mixture({len(state.mean)})", state.covariance)
            inverse = torch.cholesky_inverse(factor)
            shift = torch.einsum("kij,kj->ki", inverse, state.mean)
            second = -0.5 * inverse[:, self.upper[0], self.upper[1]] * self.twice
            log_det = -2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = state.log_weight + 0.5 * log_det - 0.5 * (shift * state.mean).sum(1)
        return torch.cat([second, shift, constant[:, None]], 1).T

    def step(self, state: State) -> tuple[State, float]:
        """One EM step; the bound of E_qbar[log r] in nats that the *given* state has."""
        weights = self._weights(state)
        statistics = torch.zeros(weights.shape[1], weights.shape[0], dtype=torch.float64)
        bound = 0.0
        for rows in blocks(self.n, ROWS):
            features = self.features(rows)
            log_c = features @ weights
            norm = torch.logsumexp(log_c, 1)
            bound += float(self.weight[rows] @ norm)
            share = (log_c - norm[:, None]).exp_() * self.weight[rows, None]
            statistics += share.T @ features
        bound -= 0.5 * self.d * math.log(2 * math.pi) + float(self.unit.log().sum())
        return self._maximise(statistics), bound

    def _maximise(self, statistics: Float[Tensor, "k f"]) -> State:
        """Moments of each component from its sums; components that hold less than 1e-3 of a datum are dropped."""
        statistics = statistics[statistics[:, -1] > 1e-3 / self.n]
        share = statistics[:, -1]
        mean = statistics[:, -1 - self.d : -1] / share[:, None]
        second = statistics[:, : -1 - self.d] / share[:, None]
        if self.diagonal:
            covariance = (second - mean.square()).clamp(min=1e-12)
        else:
            covariance = torch.empty(len(share), self.d, self.d, dtype=torch.float64)
            covariance[:, self.upper[0], self.upper[1]] = second
            covariance[:, self.upper[1], self.upper[0]] = second
            covariance -= mean[:, :, None] * mean[:, None, :]
            covariance.diagonal(dim1=1, dim2=2).add_(1e-12)
        return State((share / share.sum()).log(), mean, covariance)

    def finish(self, state: State, dtype: torch.dtype) -> Mixture:
        """Back in the coordinates of the latent space."""
        mean = state.mean * self.unit + self.centre
        if self.diagonal:
            factor = state.covariance.sqrt() * self.unit
        else:
            factor = cholesky(f"mixture({len(state.mean)})", state.covariance) * self.unit[:, None]
        return Mixture(state.log_weight.to(dtype), mean.to(dtype), factor.to(dtype))

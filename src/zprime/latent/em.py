"""EM on the components themselves: from N posteriors to K Gaussians without sampling, in whole or in minibatches."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, cholesky, covariances, times, variances
from zprime.kernels import Expectation
from zprime.latent.gaussian import marginal_moments, moments
from zprime.latent.kind import Outcome
from zprime.latent.merge import Gaussians, Merged, merge
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.statistics.kmeans import seeds

DRAWN = 1 << 14  # codes that are drawn at a time


@dataclass(frozen=True)
class State:
    """A mixture in whitened coordinates: log-weights, means, covariances (or variances), and factors of low rank."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    covariance: Float[Tensor, "k d d"] | Float[Tensor, "k d"]
    factor: Float[Tensor, "k d r"] | None = None


class ComponentEM:
    """EM whose data are Gaussians: `log c_ik = log pi_k + log N(mu_i; m_k, S_k) - tr(S_k^-1 diag(s_i^2)) / 2`.

    Both steps are linear in the features `[mu mu^T + diag(s^2), mu, 1]` of a datum (`kernels.Expectation`), here of
    data whitened per dimension. Hershey & Olsen 2007; Bruneau 2010.
    """

    def __init__(self, data: MemoryPosteriors, *, diagonal: bool, spread: bool = True) -> None:
        """Take the posteriors; with `spread=False` their means alone, as points."""
        self.n, self.d, self.diagonal = data.n, data.d, diagonal
        if diagonal:
            self.centre, variance = marginal_moments(data)
        else:
            self.centre, covariance = moments(data)
            variance = covariance.diagonal()
        self.unit = variance.sqrt()
        self.mean = (data.mean.double() - self.centre) / self.unit
        # of each datum, in units; with full covariances a factor
        self.full = data.form == "full"
        self.scale = data.scale.double() / (self.unit[:, None] if self.full else self.unit)
        self.variance = variances(self.mean, self.scale)
        self.datum, self.spread = data.datum, spread
        self.weight = data.log_weights.exp()
        # of all data together: a matrix, or variances
        self.covariance = torch.ones_like(variance) if diagonal else covariance / (self.unit[:, None] * self.unit)
        whole = self.full and not diagonal
        if not spread:
            noise = self.weight @ self.variance
            if whole:
                noise = torch.einsum("n,nij->ij", self.weight, covariances(self.mean, self.scale))
            self.covariance -= noise if diagonal or whole else torch.diag(noise)
        own = self.variance if spread else None
        if spread and whole:
            own = covariances(self.mean, self.scale)[:, self.upper[0], self.upper[1]]
        self.data = Expectation(self.mean, own, diagonal=diagonal, full=spread and whole)
        # points have no spread of their own that would bound a component's covariance from below
        self.floor = 1e-12 if spread else 1e-6

    @cached_property
    def upper(self) -> Int[Tensor, "2 f"]:
        """Rows and columns of the upper triangle; for full covariances."""
        return torch.triu_indices(self.d, self.d)

    @cached_property
    def twice(self) -> Float[Tensor, " f"]:
        """How often an entry of the upper triangle counts in a trace: twice off the diagonal."""
        return torch.where(self.upper[0] == self.upper[1], 1.0, 2.0).double()

    def start(self, k: int, *, rng: torch.Generator) -> State:
        """k-means++ seeds among the means, with the covariance of all over k^(2/d)."""
        subset = torch.randperm(self.n, generator=rng)[: max(20 * k, 2000)]
        points = self.mean[subset]
        first = int(torch.randint(len(points), (1,), generator=rng))
        chosen = seeds(points, k, first=first, rng=rng)
        covariance = self.covariance * k ** (-2 / self.d)
        (covariance if self.diagonal else covariance.diagonal()).clamp_(min=self.floor)
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
        statistics, bound = self.data.statistics(self.weight, self._weights(state))
        return self._maximise(statistics), bound + self._constant

    @property
    def _constant(self) -> float:
        """What the bound lacks: the Gaussian's constant, and the whitening's log-determinant."""
        return -0.5 * self.d * math.log(2 * math.pi) - float(self.unit.log().sum())

    def passes(self, state: State, *, batch: int, epochs: int, rng: torch.Generator) -> tuple[State, list[float]]:
        """Stepwise EM (Cappe & Moulines 2009) over minibatches of rows; the running bound of each epoch.

        The statistics of all rows so far are kept as `s <- (1 - rho_t) s + rho_t s_batch`, rho_t = (t + 2)^-0.7.
        """
        running: Tensor | None = None
        trace, t = [], 0
        for _ in range(epochs):
            bound = 0.0
            for rows in torch.split(torch.randperm(self.n, generator=rng), batch):
                total = self.weight[rows].sum()
                if not float(total) > 0:
                    continue  # rows without weight say nothing
                fresh, part = self.data.statistics(self.weight[rows] / total, self._weights(state), rows)
                bound += float(total) * part
                step = (t + 2) ** -0.7
                running = fresh if running is None else (1 - step) * running + step * fresh
                # no component is dropped on the way: a minibatch that lacks it says little
                state, t = self._maximise(running, drop=False), t + 1
            trace.append(bound + self._constant)
        return state, trace

    def polish(self, state: State, *, steps: int, rng: torch.Generator, points: int) -> State:
        """EM on fresh draws from the posteriors: towards E_qbar[log r] itself, which `step` only bounds.

        Every step draws at least `points` codes anew; its statistics are averaged with earlier ones at (t + 1)^-0.6.
        """
        repeat = max(1, -(-points // self.n))
        every = torch.arange(self.n).repeat(repeat)  # a few rows many times over, in blocks of full size
        running: Tensor | None = None
        scale = self.scale if self.full else self.variance.sqrt()
        for t in range(steps):
            weights = self._weights(state)
            fresh = torch.zeros(*weights.T.shape, dtype=torch.float64)
            for block in blocks(len(every), DRAWN):
                rows = every[block]
                noise = torch.randn(len(rows), self.d, generator=rng, dtype=torch.float64)
                z = Expectation(self.mean[rows] + times(scale[rows], noise), None, diagonal=self.diagonal)
                fresh += z.statistics(self.weight[rows] / repeat, weights)[0]
            step = (t + 1) ** -0.6
            running = fresh if running is None else (1 - step) * running + step * fresh
            state = self._maximise(running, drop=False)
        return state

    def _maximise(self, statistics: Float[Tensor, "k f"], *, drop: bool = True) -> State:
        """Moments of each component from its sums; components that hold less than 1e-3 of a datum are dropped."""
        if drop:
            statistics = statistics[statistics[:, -1] > 1e-3 / self.n]
        weight = statistics[:, -1]
        mean = statistics[:, -1 - self.d : -1] / weight[:, None]
        second = statistics[:, : -1 - self.d] / weight[:, None]
        if self.diagonal:
            covariance = (second - mean.square()).clamp(min=self.floor)
        else:
            covariance = torch.empty(len(weight), self.d, self.d, dtype=torch.float64)
            covariance[:, self.upper[0], self.upper[1]] = second
            covariance[:, self.upper[1], self.upper[0]] = second
            covariance -= mean[:, :, None] * mean[:, None, :]
            covariance.diagonal(dim1=1, dim2=2).add_(self.floor)
        return State((weight / weight.sum()).log(), mean, covariance)

    def finish(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and Cholesky factors (or standard deviations) in the coordinates of the latent space."""
        mean = state.mean * self.unit + self.centre
        if self.diagonal:
            return state.log_weight, mean, state.covariance.sqrt() * self.unit
        return state.log_weight, mean, cholesky(f"mixture({len(state.mean)})", state.covariance) * self.unit[:, None]

    def merged(
        self, k: int, *, rng: torch.Generator, progress: Progress = silent, least: float = 0.0
    ) -> tuple[State, Merged]:
        """K components by greedy merging, or fewer of at least `least` rows each; and what merging says of them."""
        var = covariances(self.mean, self.scale) if self.full else self.variance
        gaussians = Gaussians(self.weight, self.mean, var, self.datum)
        merged = merge(gaussians, k, diagonal=self.diagonal, rng=rng, progress=progress, least=least)
        return State(merged.weight.log(), merged.mean, merged.covariance), merged

    def rows(self, state: State) -> Float[Tensor, " k"]:
        """Kish's effective number of rows of each component, `(sum_i w_i c_ik)^2 / sum_i (w_i c_ik)^2`."""
        total, square = self.data.shares(self.weight, self._weights(state), self.datum)
        return torch.where(square > 0, total.square() / square, 0.0)

    def thinned(self, state: State, least: float) -> State:
        """Without a quarter of the components that have fewer than `least` rows, those that have fewest.

        Their weight goes to the others. The same object if there are none, or one component is all there is.
        """
        rows = self.rows(state)
        few = int((rows < least).sum())
        drop = min(-(-few // 4), len(rows) - 1)
        if not drop:
            return state
        keep = rows.argsort(stable=True)[drop:].sort().values
        factor = None if state.factor is None else state.factor[keep]
        return State(state.log_weight[keep].log_softmax(0), state.mean[keep], state.covariance[keep], factor)


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


def run_em(
    em: ComponentEM, state: State, what: str, *, iterations: int, tolerance: float, progress: Progress = silent
) -> EMRun:
    """EM until a step raises the bound by less than `tolerance`; `what` it is called in the progress."""
    k, trace, converged = len(state.mean), list[float](), False
    for step in range(iterations):
        progress(what, step, iterations)
        new, bound = em.step(state)
        trace.append(bound)
        converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance
        if converged:
            break
        state = new
    progress(what, iterations, iterations)
    if not converged:
        rise = f"rose by {trace[-1] - trace[-2]:.1e} nats" if len(trace) > 1 else "was looked at once"
        advice = f"the bound still {rise} after {len(trace)} steps: usually harmless; raise iterations"
        return EMRun(state, trace, Outcome(ok=False, message=advice))
    if len(state.mean) < k:
        gone = k - len(state.mean)
        message = f"{gone} of {k} components were left without data and dropped: lower components"
        return EMRun(state, trace, Outcome(message=message))
    return EMRun(state, trace, Outcome(message=f"converged in {len(trace)} steps"))

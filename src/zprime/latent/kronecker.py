"""kronecker: one Gaussian of grids whose covariance is one of channels times one of positions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import memory
from zprime.arrays import LOG_2PI, check_matrix, cholesky, row_major
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.gaussian import marginal_moments
from zprime.latent.kind import About, Fit, Outcome, Settings, Task, check_tolerance
from zprime.posteriors import Form, MemoryPosteriors
from zprime.schema import FACTOR, FINITE, Array, Maybe, Real, Schema, need


@final
@dataclass(frozen=True, repr=False, eq=False)
class Kronecker(LatentDistribution):
    """N(mean, A (x) B): z is a grid of C channels and P positions, flat, channel by channel.

    The covariance of z[c, p] and z[c', p'] is A[c, c'] B[p, p'] (a matrix-variate Gaussian, Dawid 1981).

    Attributes:
        mean: shape [C P].
        channels: lower triangular factor of A, shape [C, C].
        positions: lower triangular factor of B, shape [P, P].
        least_rows: effective rows behind it.
    """

    kind: ClassVar[str] = "kronecker"
    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {"mean": Array({"d": FINITE}), "channels": Array({"c c": FACTOR}), "positions": Array({"p p": FACTOR})},
    )
    mean: Float[Tensor, " d"]
    channels: Float[Tensor, "c c"]
    positions: Float[Tensor, "p p"]
    least_rows: float | None = None

    @property
    def d(self) -> int:
        """Latent dimension, C P."""
        return len(self.mean)

    @property
    def label(self) -> str:
        """With channels and positions."""
        return f"kronecker({len(self.channels)} x {len(self.positions)})"

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "one Gaussian, its covariance one of channels times one of positions"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        a, b = self.channels.double(), self.positions.double()
        gap = (check_matrix("z", z, d=self.d).double() - self.mean.double()).reshape(-1, len(a), len(b))
        u: Tensor = torch.linalg.solve_triangular(a, gap, upper=False)
        u = torch.linalg.solve_triangular(b.T, u, upper=True, left=False)
        log_det = len(b) * a.diagonal().log().sum() + len(a) * b.diagonal().log().sum()
        log_prob: Tensor = -0.5 * (self.d * LOG_2PI + u.square().sum((1, 2))) - log_det
        return log_prob

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws: two matrix products each."""
        noise = torch.randn(n, len(self.channels), len(self.positions), generator=rng, dtype=self.mean.dtype)
        return self.mean + (row_major(self.channels) @ noise @ row_major(self.positions).T).flatten(1)

    def tensors(self) -> dict[str, Tensor]:
        """Mean and the two factors."""
        return {"mean": self.mean, "channels": self.channels, "positions": self.positions}

    def config(self) -> dict[str, Any]:
        """The effective rows behind it."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Kronecker":
        """From its tensors."""
        r = cls(tensors["mean"], tensors["channels"], tensors["positions"], config["least_rows"])
        need("mean", r.d == len(r.channels) * len(r.positions), "as many numbers as both factors make", r.d)
        return r


@final
@dataclass(frozen=True)
class KroneckerSettings(Settings):
    """The minimiser of the mean of KL(q_i || r) among such Gaussians, by turns (flip-flop; Dutilleul 1999).

    Given B the best A is a mean over positions of what is seen in units of B, and the other way round; every turn
    lowers the KL. Both see the moments of the aggregated posterior, spread of the posteriors included.

    Attributes:
        shape: of a grid, channels first, e.g. (4, 8, 8): z holds it flat. Empty takes all latents as positions of one
            channel: then this is `gaussian` with a full covariance.
        iterations: turns at most.
        tolerance: stop when a turn gains less, in nats.
    """

    kind: ClassVar[str] = Kronecker.kind
    takes: ClassVar[frozenset[Form]] = frozenset({"diagonal", "points"})
    parts: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "C^2 + P^2 numbers", "seconds to a minute", "whole grids of latents, e.g. of a VAE of images (shape=4,8,8)"
    )
    shape: tuple[int, ...] = ()
    iterations: int = 100
    tolerance: float = 1e-4

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.shape and (len(self.shape) < 2 or min(self.shape) < 1):
            raise UsageError(
                f"shape: expected that of a grid, channels first, e.g. (4, 8, 8), got {self.shape}; latents without "
                "one go to gaussian"
            )
        if self.iterations < 1:
            raise UsageError(f"iterations: expected at least 1, got {self.iterations}")
        check_tolerance(self.tolerance)

    def fit(self, task: Task) -> Fit[Kronecker]:
        """Turn by turn.

        Raises:
            UsageError: a shape of another number of latents, or covariances that do not fit into memory.
        """
        self.check()
        train = task.train
        channels, positions = (self.shape[0], math.prod(self.shape[1:])) if self.shape else (1, train.d)
        if channels * positions != train.d:
            raise UsageError(f"shape: expected {train.d} latents in all, got {self.shape}, {channels * positions}")
        memory.need(
            24 * (channels**2 + positions**2), f"kronecker: covariances of {positions:,} positions", "take gaussian"
        )
        data = train.gather()
        moments = Moments.of(data, channels, positions)
        a, b = torch.eye(channels, dtype=torch.float64), torch.eye(positions, dtype=torch.float64)
        trace: list[float] = []
        converged = False
        for step in range(self.iterations):
            task.progress("kronecker", step, self.iterations)
            a = moments.of_channels(b)
            b = moments.of_positions(a)
            trace.append(moments.bound(a, b))
            converged = len(trace) > 1 and trace[-1] - trace[-2] < self.tolerance
            if converged:
                break
        task.progress("kronecker", self.iterations, self.iterations)
        outcome = Outcome(message=f"converged in {len(trace)} turns")
        if not converged:
            outcome = Outcome(ok=False, message=f"still gained after {len(trace)} turns: raise iterations")
        factors = [cholesky("kronecker", m).to(data.mean.dtype) for m in (a, b)]
        r = Kronecker(moments.mean.to(data.mean.dtype), factors[0], factors[1], data.effective_rows)
        return Fit(r, outcome, {"bound": trace})


@dataclass(frozen=True)
class Moments:
    """Mean of the aggregated posterior, and its covariance as weighted rows and a diagonal, as grids.

    Attributes:
        mean: shape [C P], float64.
        rows: posterior means less that, times the root of their weights, shape [n, C, P].
        noise: mean of the posteriors' variances, shape [C, P].
    """

    mean: Float[Tensor, " d"]
    rows: Float[Tensor, "n c p"]
    noise: Float[Tensor, "c p"]

    @classmethod
    def of(cls, data: MemoryPosteriors, channels: int, positions: int) -> "Moments":
        """Those of posteriors."""
        mean, _ = marginal_moments(data)
        weights = data.log_weights.exp()
        rows = (data.mean.double() - mean) * weights.sqrt()[:, None]
        noise = weights @ data.scale.double().square()
        return cls(mean, rows.reshape(-1, channels, positions), noise.reshape(channels, positions))

    def of_channels(self, b: Float[Tensor, "p p"]) -> Float[Tensor, "c c"]:
        """The best A given B."""
        inverse = torch.cholesky_inverse(cholesky("kronecker", b))
        solved = self.rows @ inverse
        seen = torch.einsum("ncp,ndp->cd", solved, self.rows) + torch.diag(self.noise @ inverse.diagonal())
        a = seen / self.rows.shape[2]
        return a / a.diagonal().mean()  # a scale of A and one of B are the same: it goes to B

    def of_positions(self, a: Float[Tensor, "c c"]) -> Float[Tensor, "p p"]:
        """The best B given A."""
        inverse = torch.cholesky_inverse(cholesky("kronecker", a))
        solved = inverse @ self.rows
        seen = torch.einsum("ncp,ncq->pq", solved, self.rows) + torch.diag(inverse.diagonal() @ self.noise)
        return seen / self.rows.shape[1]

    def bound(self, a: Float[Tensor, "c c"], b: Float[Tensor, "p p"]) -> float:
        """E[log r] over the aggregated posterior, nats."""
        (c, p), factors = self.noise.shape, [cholesky("kronecker", m) for m in (a, b)]
        inverse = [torch.cholesky_inverse(f) for f in factors]
        seen = ((inverse[0] @ self.rows @ inverse[1]) * self.rows).sum()
        seen = seen + inverse[0].diagonal() @ self.noise @ inverse[1].diagonal()
        log_det = 2 * (p * factors[0].diagonal().log().sum() + c * factors[1].diagonal().log().sum())
        return -0.5 * float(c * p * LOG_2PI + log_det + seen)

"""Factor analysis: the covariance F F^T + diag(v) that is closest to one given, without making either of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.rng import stream

FLOOR = 1e-6  # of a dimension's variance, at least so much is left unexplained by the factors (Heywood cases)
DENSE = 1024  # dimensions up to which the start is by all eigenvectors
ROUNDS = 8  # of subspace iteration above that
SPARE = 8  # columns more than are asked for, in subspace iteration


class Scatter(ABC):
    """A covariance that is known by its diagonal and by its products with a few columns."""

    @property
    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """Variances, float64."""

    @abstractmethod
    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """The covariance times some columns, float64."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "d d"]:
        """All of it."""


@final
@dataclass(frozen=True)
class Matrix(Scatter):
    """A covariance as a matrix."""

    covariance: Float[Tensor, "d d"]

    @property
    def diagonal(self) -> Float[Tensor, " d"]:
        """Its diagonal."""
        return self.covariance.diagonal()

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """A matrix product."""
        return self.covariance @ columns

    def dense(self) -> Float[Tensor, "d d"]:
        """The matrix."""
        return self.covariance


@final
@dataclass(frozen=True)
class RowsAndNoise(Scatter):
    """`sum_i g_i g_i^T + diag(noise)`, for fewer rows g_i than dimensions."""

    rows: Float[Tensor, "n d"]
    noise: Float[Tensor, " d"]

    @property
    def diagonal(self) -> Float[Tensor, " d"]:
        """Sums of squares, and the noise."""
        return self.rows.square().sum(0) + self.noise

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """Two products with the rows."""
        return self.rows.T @ (self.rows @ columns) + self.noise[:, None] * columns

    def dense(self) -> Float[Tensor, "d d"]:
        """All of it."""
        return self.rows.T @ self.rows + torch.diag(self.noise)


def factor_analysis(
    scatter: Scatter, rank: int, *, iterations: int, tolerance: float
) -> tuple[Float[Tensor, "d r"], Float[Tensor, " d"], list[float]]:
    """Maximum-likelihood factor analysis of a covariance by EM (Rubin & Thayer 1982): F and v of F F^T + diag(v).

    No step lowers the objective, `-1/2 [log det C + tr(C^-1 S)]` with C = F F^T + diag(v) in units in which S has a
    unit diagonal (the fit does not depend on units): in nats, -KL(N(0, S) || N(0, C)) up to a constant. The trace holds
    it before every step and after the last. v is kept above 1e-6 of each dimension's variance. A step costs the product
    of S with `rank` columns.
    """
    unit = scatter.diagonal.sqrt()
    factor = _start(scatter, unit, rank)
    var = (1 - factor.square().sum(1)).clamp(min=FLOOR)
    eye = torch.eye(rank, dtype=torch.float64)
    trace: list[float] = []
    for step in range(iterations + 1):
        scaled = factor.T / var
        tril = torch.linalg.cholesky(eye + scaled @ factor)
        solved = torch.linalg.solve_triangular(tril, scaled, upper=False)  # C^-1 = diag(1/v) - solved^T solved
        product = scatter.times((solved / unit).T) / unit[:, None]
        log_det = var.log().sum() + 2 * tril.diagonal().log().sum()
        trace.append(-0.5 * float(log_det + var.reciprocal().sum() - (solved.T * product).sum()))
        if step == iterations or (step and trace[-1] - trace[-2] < tolerance):
            break
        beta = torch.linalg.solve_triangular(tril.T, solved, upper=True)
        cross = torch.linalg.solve_triangular(tril.T, product.T, upper=True).T
        factor = torch.linalg.solve(eye - beta @ factor + beta @ cross, cross, left=False)
        # the best v in closed form; where it is below the floor, the floor is the best allowed
        var = (1 - (factor * cross).sum(1)).clamp(min=FLOOR)
    return factor * unit[:, None], var * unit.square(), trace


def _start(scatter: Scatter, unit: Float[Tensor, " d"], rank: int) -> Float[Tensor, "d r"]:
    """Probabilistic PCA (Tipping & Bishop 1999) in units of the standard deviations; by subspace iteration if large."""
    d = len(unit)
    if d <= DENSE:
        values, vectors = torch.linalg.eigh(scatter.dense() / unit / unit[:, None])
        top, left = values[d - rank :], values[: d - rank].sum()
        vectors = vectors[:, d - rank :]
    else:
        more = min(d, rank + SPARE)
        basis = torch.randn(d, more, generator=stream(0, "factor analysis"), dtype=torch.float64)
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(scatter.times(basis / unit[:, None]) / unit[:, None])[0]
        inner = basis.T @ (scatter.times(basis / unit[:, None]) / unit[:, None])
        values, rotation = torch.linalg.eigh(0.5 * (inner + inner.T))
        top, vectors = values[more - rank :], basis @ rotation[:, more - rank :]
        left = d - top.sum()
    noise = (left / (d - rank)).clamp(min=FLOOR) if rank < d else torch.tensor(FLOOR, dtype=torch.float64)
    start: Tensor = vectors * (top - noise).clamp(min=FLOOR).sqrt()
    return start

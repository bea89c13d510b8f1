"""Factor analysis: the covariance F F^T + diag(v) that is closest to one given, without making either of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.rng import stream

FLOOR = 1e-6  # of a dimension's variance, at least so much is left unexplained by the factors (Heywood cases)
DENSE = 1024  # dimensions up to which the start is by all eigenvectors
ROUNDS = 8  # of subspace iteration above that
NUMBERS = 1 << 18  # numbers of one temporary: 2 MB, which stays in cache
SPARE = 8  # columns more than are asked for, in subspace iteration


class Covariance(ABC):
    """A covariance that is known by its diagonal and by its products with a few columns."""

    @property
    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """Variances, float64."""

    @abstractmethod
    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """The covariance times some columns, float64."""


class Scatter(Covariance):
    """A covariance of which determinant and inverse are known too, all in float64."""

    @property
    def trace(self) -> Tensor:
        """Sum of the variances."""
        return self.diagonal.sum()

    @property
    @abstractmethod
    def log_det(self) -> Tensor:
        """Log-determinant."""

    @property
    @abstractmethod
    def precisions(self) -> Float[Tensor, " d"]:
        """The diagonal of the inverse."""

    @abstractmethod
    def form(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """`g^T S^-1 g` for every row g."""

    def traces(self, scale: Float[Tensor, "n d d"]) -> Float[Tensor, " n"]:
        """`tr(S^-1 L L^T)` for every Cholesky factor L."""
        n, d, _ = scale.shape
        return self.form(scale.mT.reshape(-1, d)).reshape(n, d).sum(1)

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

    @property
    def trace(self) -> Tensor:
        """Its trace."""
        return self.covariance.trace()

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """A matrix product."""
        return self.covariance @ columns

    def dense(self) -> Float[Tensor, "d d"]:
        """The matrix."""
        return self.covariance

    @cached_property
    def log_det(self) -> Tensor:
        """Of the matrix."""
        found: Tensor = torch.logdet(self.covariance)
        return found

    @cached_property
    def _inverse(self) -> Float[Tensor, "d d"]:
        inverse: Tensor = torch.linalg.inv(self.covariance)
        return inverse

    @property
    def precisions(self) -> Float[Tensor, " d"]:
        """Of the inverse matrix."""
        return self._inverse.diagonal()

    def form(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """A product with the inverse matrix."""
        return ((rows @ self._inverse) * rows).sum(1)


@final
@dataclass(frozen=True)
class Variances(Scatter):
    """A diagonal covariance."""

    variance: Float[Tensor, " d"]

    @property
    def diagonal(self) -> Float[Tensor, " d"]:
        """All there is."""
        return self.variance

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """Dimension by dimension."""
        return self.variance[:, None] * columns

    def dense(self) -> Float[Tensor, "d d"]:
        """A diagonal matrix."""
        return torch.diag(self.variance)

    @property
    def log_det(self) -> Tensor:
        """Sum of the logs."""
        return self.variance.log().sum()

    @property
    def precisions(self) -> Float[Tensor, " d"]:
        """Reciprocals."""
        return self.variance.reciprocal()

    def form(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Weighted sums of squares."""
        return rows.square() @ self.precisions


@final
@dataclass(frozen=True)
class RowsAndNoise(Scatter):
    """`sum_i g_i g_i^T + diag(noise)`, for fewer rows g_i than dimensions."""

    rows: Float[Tensor, "n d"]
    noise: Float[Tensor, " d"]

    @cached_property
    def diagonal(self) -> Float[Tensor, " d"]:
        """Sums of squares, and the noise."""
        squares = torch.zeros_like(self.noise)
        for some in blocks(len(self.rows), max(1, NUMBERS // len(self.noise))):
            squares += self.rows[some].square().sum(0)
        return squares + self.noise

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """Two products with the rows, the second with few rows on the left: many times faster than few columns."""
        return ((self.rows @ columns).T @ self.rows).T + self.noise[:, None] * columns

    def dense(self) -> Float[Tensor, "d d"]:
        """All of it."""
        return self.rows.T @ self.rows + torch.diag(self.noise)

    @cached_property
    def _tril(self) -> Float[Tensor, "n n"]:
        """L of `L L^T = I + G diag(1/noise) G^T`, for Woodbury's identity."""
        eye = torch.eye(len(self.rows), dtype=torch.float64)
        tril: Tensor = torch.linalg.cholesky(eye + (self.rows / self.noise) @ self.rows.T)
        return tril

    @cached_property
    def _solved(self) -> Float[Tensor, "n d"]:
        """`L^-1 G diag(1/noise)`: the inverse is diag(1/noise) less the product of it with itself."""
        solved: Tensor = torch.linalg.solve_triangular(self._tril, self.rows / self.noise, upper=False)
        return solved

    @property
    def log_det(self) -> Tensor:
        """By the determinant of a matrix of all rows."""
        return self.noise.log().sum() + 2 * self._tril.diagonal().log().sum()

    @property
    def precisions(self) -> Float[Tensor, " d"]:
        """By Woodbury's identity."""
        return self.noise.reciprocal() - self._solved.square().sum(0)

    def form(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """By Woodbury's identity."""
        return rows.square() @ self.noise.reciprocal() - (rows @ self._solved.T).square().sum(1)


@final
@dataclass(frozen=True)
class Scaled(Covariance):
    """A covariance in units of its standard deviations."""

    inner: Covariance
    unit: Float[Tensor, " d"]

    @property
    def diagonal(self) -> Float[Tensor, " d"]:
        """Ones."""
        return torch.ones_like(self.unit)

    def times(self, columns: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
        """In these units."""
        return self.inner.times(columns / self.unit[:, None]) / self.unit[:, None]


def factor_analysis(
    scatter: Scatter, rank: int, *, iterations: int, tolerance: float, dense: int | None = None
) -> tuple[Float[Tensor, "d r"], Float[Tensor, " d"], list[float]]:
    """Maximum-likelihood factor analysis of a covariance by EM (Rubin & Thayer 1982): F and v of F F^T + diag(v).

    It begins with probabilistic PCA. The trace is that of `improved`, in units in which S has a unit diagonal (the fit
    does not depend on units): in nats, -KL(N(0, S) || N(0, C)) up to a constant. v is kept above 1e-6 of each
    dimension's variance.

    Args:
        scatter: S.
        rank: columns of F.
        iterations: steps at most.
        tolerance: stop when a step gains less, in nats.
        dense: dimensions up to which it begins with all eigenvectors; 1,024 if not given.
    """
    unit = scatter.diagonal.sqrt()
    scaled = Scaled(scatter, unit)
    if len(unit) <= (DENSE if dense is None else dense):
        factor = _start(scatter.dense() / unit / unit[:, None], rank)
    else:
        factor = _subspace_start(scaled, rank)
    var, floor = (1 - factor.square().sum(1)).clamp(min=FLOOR), torch.full_like(unit, FLOOR)
    factor, var, trace = improved(scaled, (factor, var), floor=floor, iterations=iterations, tolerance=tolerance)
    return factor * unit[:, None], var * unit.square(), trace


def improved(
    covariance: Covariance,
    begin: tuple[Float[Tensor, "d r"], Float[Tensor, " d"]],
    *,
    floor: Float[Tensor, " d"],
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[Float[Tensor, "d r"], Float[Tensor, " d"], list[float]]:
    """EM steps of factor analysis from F and v on; v is kept above `floor`.

    No step lowers the objective, `-1/2 [log det C + tr(C^-1 S)]` with C = F F^T + diag(v). The trace holds it before
    every step and after the last. A step costs the product of S with the columns of F.
    """
    factor, var = begin
    diagonal, eye = covariance.diagonal, torch.eye(factor.shape[1], dtype=torch.float64)
    trace: list[float] = []
    for step in range(iterations + 1):
        scaled = factor.T / var
        tril = torch.linalg.cholesky(eye + scaled @ factor)
        solved = torch.linalg.solve_triangular(tril, scaled, upper=False)  # C^-1 = diag(1/v) - solved^T solved
        product = covariance.times(solved.T)
        log_det = var.log().sum() + 2 * tril.diagonal().log().sum()
        trace.append(-0.5 * float(log_det + (diagonal / var).sum() - (solved.T * product).sum()))
        if step == iterations or (step and trace[-1] - trace[-2] < tolerance):
            break
        beta = torch.linalg.solve_triangular(tril.T, solved, upper=True)
        cross = torch.linalg.solve_triangular(tril.T, product.T, upper=True).T
        factor = torch.linalg.solve(eye - beta @ factor + beta @ cross, cross, left=False)
        # the best v in closed form; where it is below the floor, the floor is the best allowed
        var = (diagonal - (factor * cross).sum(1)).clamp(min=floor)
    return factor, var, trace


def _start(correlation: Float[Tensor, "d d"], rank: int) -> Float[Tensor, "d r"]:
    """Probabilistic PCA (Tipping & Bishop 1999) of a matrix with a unit diagonal."""
    d = len(correlation)
    values, vectors = torch.linalg.eigh(correlation)
    return _loadings(vectors[:, d - rank :], values[d - rank :], values[: d - rank].sum())


def _subspace_start(scaled: Scaled, rank: int) -> Float[Tensor, "d r"]:
    """Probabilistic PCA by subspace iteration."""
    d = len(scaled.unit)
    more = min(d, rank + SPARE)
    basis = torch.randn(d, more, generator=stream(0, "factor analysis"), dtype=torch.float64)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(scaled.times(basis))[0]
    inner = basis.T @ scaled.times(basis)
    values, rotation = torch.linalg.eigh(0.5 * (inner + inner.T))
    top = values[more - rank :]
    return _loadings(basis @ rotation[:, more - rank :], top, d - top.sum())


def _loadings(vectors: Float[Tensor, "d r"], top: Float[Tensor, " r"], left: Tensor) -> Float[Tensor, "d r"]:
    """From the largest eigenvalues, and the sum of the others."""
    d, rank = vectors.shape
    noise = (left / (d - rank)).clamp(min=FLOOR) if rank < d else torch.tensor(FLOOR, dtype=torch.float64)
    start: Tensor = vectors * (top - noise).clamp(min=FLOOR).sqrt()
    return start

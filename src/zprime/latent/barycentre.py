"""barycentre: the Wasserstein-2 mean of all posteriors."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import cholesky, covariances
from zprime.errors import UsageError
from zprime.latent.centre import GAUSSIANS, NO_AVERAGE, Centre, averages, deviations, means, parts
from zprime.latent.gaussian import own_covariance
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.posteriors import Form, Posteriors

LOST = 1e-8  # eigenvalues below so many times the largest are not known well enough for a root


@final
@dataclass(frozen=True, repr=False, eq=False)
class Barycentre(Centre):
    """One Gaussian, as narrow as the average posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "barycentre"
    only_shown: ClassVar[bool] = True


@final
@dataclass(frozen=True)
class BarycentreSettings(Settings):
    """The minimiser of `sum w_i W2^2(r, q_i)` over all r (Agueh & Carlier 2011).

    For diagonal Gaussians `W2^2 = |mu - mu'|^2 + |s - s'|^2`, so r has mean `sum w_i mu_i` and standard deviations
    `sum w_i s_i` (docs/theory.md, section 1). Full covariances S_i take the fixed point of Alvarez-Esteban et al. 2016,
    `S <- S^-1/2 (sum w_i (S^1/2 S_i S^1/2)^1/2)^2 S^-1/2`. No step raises the criterion. Covariances that commute are
    there after one step.

    Attributes:
        iterations: steps at most, for full covariances only.
        tolerance: stop when a step changes no standard deviation, in whatever direction, by more than this share.
    """

    kind: ClassVar[str] = Barycentre.kind
    about: ClassVar[About] = About(
        "2d numbers", "one pass", "to see that the Wasserstein average collapses; never to generate"
    )
    quick: ClassVar[bool] = True
    takes: ClassVar[frozenset[Form]] = GAUSSIANS
    instead_of_parts: ClassVar[str] = NO_AVERAGE
    iterations: int = 100
    tolerance: float = 1e-6

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.iterations < 1:
            raise UsageError(f"iterations: expected at least 1, got {self.iterations}")
        if not 0 <= self.tolerance < math.inf:
            raise UsageError(f"tolerance: expected a share of a standard deviation from 0 on, got {self.tolerance:g}")

    def fit(self, task: Task) -> Fit[Barycentre]:
        """Average means and standard deviations, shard by shard; full covariances by steps over all of them.

        Raises:
            UsageError: settings that cannot be used.
        """
        self.check()
        rows = task.train.effective_rows
        if task.train.form == "full":
            (mean,), dtype = averages(task.train, means)
            tril, outcome, trace = self._full(task)
            return Fit(Barycentre(mean.to(dtype), tril.to(dtype), rows), outcome, {"wasserstein": trace})
        (mean, scale), dtype = averages(task.train, means, deviations)
        return Fit(Barycentre(mean.to(dtype), scale.to(dtype), rows), Outcome(message="exact, in closed form"))

    def _full(self, task: Task) -> tuple[Float[Tensor, "d d"], Outcome, list[float]]:
        """Cholesky factor of the covariance, how it went, and the part of the criterion that covariances make.

        With S = L L^T the optimal map from N(0, S) to N(0, S_i) is `L^-T (L^T S_i L)^1/2 L^-1`. T, the mean of these
        maps, gives the step `S <- T S T`, and the eigenvalues of T are how standard deviations change.
        """
        train, weights = task.train, task.train.log_weights.exp()
        start = sum((own_covariance(s, weights[s.rows]) for s in parts(train)), torch.zeros(train.d, train.d).double())
        tril, within = cholesky("barycentre", start), float(start.trace())
        trace, change = list[float](), math.inf
        for step in range(self.iterations):
            task.progress("barycentre", step, self.iterations)
            root = _mean_root(train, weights, tril)
            trace.append(float(tril.square().sum()) + within - 2 * float(root.trace()))
            half = torch.linalg.solve_triangular(tril.T, root, upper=True)  # L^-T M = T L
            mean_map = torch.linalg.solve_triangular(tril, half, upper=False, left=False)
            change = float((torch.linalg.eigvalsh(mean_map + mean_map.T) / 2 - 1).abs().max())
            tril = cholesky("barycentre", half @ half.T)
            if change <= self.tolerance:
                break
        task.progress("barycentre", self.iterations, self.iterations)
        if change <= self.tolerance:
            return tril, Outcome(message=f"converged in {len(trace)} steps"), trace
        message = (
            f"the last of {len(trace)} steps still changed a standard deviation by a share of {change:.1e}: "
            "usually harmless; raise iterations"
        )
        return tril, Outcome(ok=False, message=message), trace


def _mean_root(
    posteriors: Posteriors, weights: Float[Tensor, " n"], tril: Float[Tensor, "d d"]
) -> Float[Tensor, "d d"]:
    """`sum_i w_i (L^T S_i L)^1/2`, a block of rows at a time."""
    d = posteriors.d
    total = torch.zeros(d, d, dtype=torch.float64)
    for s in parts(posteriors):
        inner = tril.T @ s.scale.double()
        value, vector = torch.linalg.eigh(covariances(s.mean, inner))
        root = value.clamp(min=0).sqrt()
        lost = value[:, 0] < LOST * value[:, -1]
        if bool(lost.any()):  # singular values keep the digits that their squares lose
            vector[lost], root[lost], _ = torch.linalg.svd(inner[lost])
        rooted = vector * (weights[s.rows, None] * root).sqrt()[:, None]
        side_by_side = rooted.transpose(0, 1).reshape(d, -1)
        total += side_by_side @ side_by_side.T
    return total

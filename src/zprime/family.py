"""Posteriors that are mixtures of Gaussians: the components of each datum, and sums over them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import check_finite, check_matrix, gaussian_log_prob
from zprime.errors import ArrayError

LEFT_OUT = (
    "rows: expected all components of every datum, got some of them; take all of them (`pick`), or make every row a "
    "datum of its own (`alone`)"
)


@dataclass(frozen=True)
class Family:
    """Posteriors that are mixtures: the components of every datum, side by side.

    Attributes:
        mean, scale: of all components, those of a datum together.
        log_share: log of a component's weight within its datum.
        first, count: where the components of each datum begin, and how many they are.
    """

    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    log_share: Float[Tensor, " n"]
    first: Int[Tensor, " u"]
    count: Int[Tensor, " u"]

    @classmethod
    def of(cls, mean: Tensor, scale: Tensor, log_weight: Tensor, datum: Int[Tensor, " n"]) -> "Family":
        """Put components with the same `datum`, numbers from 0 on, side by side."""
        order = datum.argsort(stable=True)
        count = torch.bincount(datum)
        share = log_weight - log_sums(log_weight, datum)[datum]
        return cls(mean[order], scale[order], share[order], count.cumsum(0) - count, count)

    def at(self, datum: Int[Tensor, " m"], k: int) -> Int[Tensor, " m"]:
        """Position of component k of each datum; of its last one where it has fewer."""
        return self.first[datum] + torch.minimum(torch.full_like(datum, k), self.count[datum] - 1)

    def log_prob(self, datum: Int[Tensor, " m"], z: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """Log q(z|x) of each datum at its point, in nats, float64."""
        total = torch.full((len(z),), -torch.inf, dtype=torch.float64)
        for k in range(int(self.count.max())):
            at = self.at(datum, k)
            term = gaussian_log_prob(z.double(), self.mean[at].double(), self.scale[at].double()) + self.log_share[at]
            total = torch.where(self.count[datum] > k, torch.logaddexp(total, term), total)
        return total

    def means(self, datum: Int[Tensor, " m"]) -> Float[Tensor, "m c d"]:
        """Means of all components of each datum; the last one again where it has fewer than others."""
        return torch.stack([self.mean[self.at(datum, k)] for k in range(int(self.count.max()))], 1)


def log_sums(log_values: Float[Tensor, " n"], index: Int[Tensor, " n"]) -> Float[Tensor, " u"]:
    """Log of the sum of exp over the entries of each index, float64."""
    values, u = log_values.double(), int(index.max()) + 1
    top = torch.full((u,), -torch.inf, dtype=torch.float64).scatter_reduce(0, index, values, "amax")
    safe = torch.where(torch.isfinite(top), top, 0.0)
    total = torch.zeros(u, dtype=torch.float64).index_add_(0, index, (values - safe[index]).exp())
    return total.log() + safe


def check_scale(mean: Tensor, scale: Tensor) -> None:
    """Raise `ArrayError` unless a scale is standard deviations above 0, or lower triangular with such a diagonal."""
    n, d = mean.shape
    full = scale.ndim == 3
    check_matrix("scale", scale.flatten(1) if full else scale, d=d * d if full else d)
    if scale.shape not in ((n, d), (n, d, d)):
        raise ArrayError(f"scale: expected shape {[n, d, d] if full else [n, d]} as mean has, got {list(scale.shape)}")
    if scale.dtype != mean.dtype:
        raise ArrayError(f"scale: expected {mean.dtype} as mean is, got {scale.dtype}")
    above = scale.diagonal(dim1=1, dim2=2) if full else scale
    if not bool((above > 0).all()):
        row, column = (above <= 0).nonzero()[0].tolist()
        raise ArrayError(
            f"scale: expected standard deviations above 0, got {above[row, column].item():g} in row {row}, "
            f"dimension {column}; a log-variance must be turned into exp(log_var / 2) first"
        )
    if full and bool(scale.triu(1).any()):
        row, i, j = scale.triu(1).nonzero()[0].tolist()
        raise ArrayError(
            f"scale: expected lower triangular Cholesky factors, got {scale[row, i, j].item():g} above the diagonal in "
            f"row {row}; torch.linalg.cholesky gives them from covariances"
        )


def check_log_q(log_q: Tensor | None, mean: Tensor, *, points: bool) -> Float[Tensor, " n"] | None:
    """Log q(z|x) at draws in float64; raise `ArrayError` unless it is one finite number a row, and rows are points."""
    if log_q is None:
        return None
    if not points:
        raise ArrayError("log_q: expected it beside draws alone, got it beside a scale, which says log q everywhere")
    if log_q.shape != mean.shape[:1] or not log_q.is_floating_point():
        raise ArrayError(
            f"log_q: expected {len(mean)} numbers, log q(z|x) of each draw in nats, got {log_q.dtype} of shape "
            f"{list(log_q.shape)}; add up what is given for each latent"
        )
    check_finite("log_q", log_q)
    return log_q.detach().to(mean.device).double()

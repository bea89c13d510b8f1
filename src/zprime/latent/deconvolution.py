"""Extreme deconvolution: EM that raises the mean log E_q[r/p] of a mixture r (docs/theory.md, section 11)."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, cholesky, times
from zprime.latent.gaussians import Mixture
from zprime.posteriors import Posteriors, Shard

NOTHING = 1e-3
"""A row says nothing of a dimension where 1 - s^2 is below: less than 0.001 nats."""

LEAST = 1e-12  # shares below add nothing
NUMBERS = 1 << 21  # entries of matrices, one for each pair of row and component, held at once
TINY = 1e-12
FLOOR = 1e-2  # of the narrowest posterior's variance: no component has less


class Rows(NamedTuple):
    """What some rows say of z beside the prior, `q/p`: where a row says nothing, q is set to p = N(0, 1).

    So no number here is infinite as s comes near 1, where y and t are.
    """

    mean: Float[Tensor, "n d"]
    precision: Float[Tensor, "n d"]  # 1 / s^2
    constant: Float[Tensor, " n"]  # - sum log s

    @property
    def information(self) -> Float[Tensor, "n d"]:
        """`1/t^2 = 1/s^2 - 1`, from 0 on."""
        return self.precision - 1


def told(mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> Rows:
    """What these posteriors say of z; nothing in dimensions where s is above the prior's, or hardly below it.

    For s > 1, E_q[r/p] is infinite under a wide r. With a bounded p(x|z) that proves q inexact, and says nothing of r.
    """
    mu, variance = mean.double(), scale.double().square()
    seen = variance < 1 - NOTHING
    mu, variance = torch.where(seen, mu, 0.0), torch.where(seen, variance, 1.0)
    return Rows(mu, variance.reciprocal(), -0.5 * variance.log().sum(1))


class Pairs(NamedTuple):
    """Of every row and component: log(w_k E_q[r_k/p]), nats, and q_{r_k}(z) in units of the component.

    With the component's factor L (V = L L^T), `q r_k/p` has mean `m + L w` and covariance `L M^-1 L^T`, with
    `M = 1 + L^T A L`, A the row's information. M is at least 1, so nothing cancels, whether A or V is small.
    """

    term: Float[Tensor, "n k"]
    shift: Float[Tensor, "n k d"]  # w
    root: Float[Tensor, "n k d d"] | Float[Tensor, "n k d"]  # Cholesky factor of M, or M itself where it is diagonal


def pairs(rows: Rows, r: Mixture) -> Pairs:
    """The terms of these rows; `T_ik = V_k + diag t_i^2` of the paper is never formed."""
    mean, scale = r.mean, r.scale_tril
    gap = rows.mean[:, None] - mean
    pull = gap * rows.precision[:, None] + mean
    base = rows.constant[:, None] - 0.5 * (gap.square() * rows.precision[:, None] - mean.square()).sum(2)
    if scale.ndim == 2:
        root = 1 + rows.information[:, None] * scale.square()
        shift = pull * scale / root
        value = base + 0.5 * (pull * scale * shift).sum(2) - 0.5 * root.log().sum(2)
        return Pairs(value + r.log_weight, shift, root)
    k, d, _ = scale.shape
    outer = (scale[..., None] * scale[..., None, :]).transpose(0, 1)  # of the rows of each factor
    matrix = (rows.information @ outer.reshape(d, -1)).view(-1, k, d, d)
    matrix.diagonal(dim1=2, dim2=3).add_(1)
    root = cholesky("mixture: 1 + L^T A L", matrix)
    u = torch.linalg.solve_triangular(root, torch.einsum("nkj,kji->nki", pull, scale)[..., None], upper=False)
    shift = torch.linalg.solve_triangular(root.mT, u, upper=True)[..., 0]
    value = base + 0.5 * u[..., 0].square().sum(2) - root.diagonal(dim1=2, dim2=3).log().sum(2)
    return Pairs(value + r.log_weight, shift, root)


def _blocks(n: int, r: Mixture) -> list[slice]:
    return list(blocks(n, max(1, NUMBERS // r.scale_tril.numel())))


def log_ratio(posteriors: Posteriors, r: Mixture) -> Float[Tensor, " n"]:
    """Log E_q[r/p] of every row in nats, float64; a dimension of which a row says nothing counts 0."""
    return torch.cat(posteriors.each(_log_ratio, as_dtype(r, torch.float64)))


def _log_ratio(_: Posteriors, s: Shard, r: Mixture) -> Tensor:
    return torch.cat([pairs(told(s.mean[b], s.scale[b]), r).term.logsumexp(1) for b in _blocks(len(s.mean), r)])


def log_terms(posteriors: Posteriors, r: Mixture) -> Float[Tensor, "n k"]:
    """The terms of that sum, of every row and component: log(w_k E_q[r_k/p])."""
    return torch.cat(posteriors.each(_log_terms, as_dtype(r, torch.float64)))


def _log_terms(_: Posteriors, s: Shard, r: Mixture) -> Tensor:
    return torch.cat([pairs(told(s.mean[b], s.scale[b]), r).term for b in _blocks(len(s.mean), r)])


def _statistics(posteriors: Posteriors, s: Shard, r: Mixture) -> list[Tensor]:
    """Sums over the rows of a shard: shares, their squares, w, w w^T + M^-1, and the log-ratio."""
    k, full = len(r.mean), r.scale_tril.ndim == 3
    total, square = torch.zeros(2, k, dtype=torch.float64)
    first, second, value = (
        torch.zeros_like(r.mean),
        torch.zeros_like(r.scale_tril),
        torch.zeros((), dtype=torch.float64),
    )
    weights = posteriors.log_weights_of(s.rows).exp()
    for b in _blocks(len(s.mean), r):
        found = pairs(told(s.mean[b], s.scale[b]), r)
        value += weights[b] @ found.term.logsumexp(1)
        share = found.term.softmax(1) * weights[b, None]
        total += share.sum(0)
        square += share.square().sum(0)
        row, at = (share > LEAST * weights[b, None]).nonzero().T
        own, w, root = share[row, at], found.shift[row, at], found.root[row, at]
        scatter = w[:, :, None] * w[:, None] + torch.cholesky_inverse(root) if full else w.square() + 1 / root
        first.index_add_(0, at, own[:, None] * w)
        second.index_add_(0, at, own.view(-1, *[1] * (scatter.ndim - 1)) * scatter)
    return [total, square, first, second, value]


class Step(NamedTuple):
    """One step: the mean log E_q[r/p] that the *given* mixture has, its components' effective rows, and the next."""

    evidence: float
    rows: Float[Tensor, " k"]
    following: Mixture


def step(train: Posteriors, r: Mixture, *, floor: float = 0.0) -> Step:
    """One step of extreme deconvolution (Bovy, Hogg & Roweis 2011, equation 16), of a mixture in float64.

    It never lowers `mean_i log E_{q_i}[r/p]`, as a covariance at its floor is the best of those above it.

    Args:
        train: the rows, whose sums are taken shard by shard.
        r: with full or diagonal covariances.
        floor: least variance in any direction.
    """
    total, square, first, second, value = train.total(_statistics, r)
    rows = torch.where(square > 0, total.square() / square, 0.0)
    kept = (total > LEAST).nonzero().flatten()
    scale, total = r.scale_tril[kept], total[kept]
    shift = first[kept] / total[:, None]
    mean = r.mean[kept] + times(scale, shift)
    if scale.ndim == 2:
        variance = scale.square() * (second[kept] / total[:, None] - shift.square())
        factor = variance.clamp(min=max(floor, TINY)).sqrt()
    else:
        spread = second[kept] / total[:, None, None] - shift[:, :, None] * shift[:, None]
        size, axis = torch.linalg.eigh(scale @ spread @ scale.mT)
        lifted = (axis * size.clamp(min=max(floor, TINY))[:, None]) @ axis.mT
        factor = cholesky(f"mixture({len(kept)})", 0.5 * (lifted + lifted.mT))
    log_weight = (total / total.sum()).log()
    return Step(float(value), rows, replace(r, log_weight=log_weight, mean=mean, scale_tril=factor))


def narrowest(posteriors: Posteriors) -> float:
    """The least variance of a posterior, in any dimension."""
    return min(float(v) for v in posteriors.each(_narrowest))


def _narrowest(_: Posteriors, s: Shard) -> Tensor:
    return s.scale.double().square().amin()


def as_dtype(r: Mixture, dtype: torch.dtype) -> Mixture:
    """The same mixture in another precision."""
    return replace(r, log_weight=r.log_weight.to(dtype), mean=r.mean.to(dtype), scale_tril=r.scale_tril.to(dtype))

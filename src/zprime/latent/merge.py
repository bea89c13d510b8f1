"""Greedy merging of Gaussian components by Runnalls' bound (Runnalls 2007), from N posteriors to K components."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.progress import Progress, silent

DIRECT = 600
"""Components that are merged pair by pair; more rows than this are first put into so many cells."""


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians: weights that add up to 1, means, variances or full covariances.

    Attributes:
        weight, mean: of each.
        var: variances, shape [n, d], or covariances, shape [n, d, d].
        datum: from 0 on, what each is a part of; None where each is a datum of its own.
    """

    weight: Float[Tensor, " n"]
    mean: Float[Tensor, "n d"]
    var: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    datum: Int[Tensor, " n"] | None = None


@dataclass(frozen=True)
class Merged:
    """What merging gives.

    Attributes:
        weight, mean, covariance: K components; the covariance is a vector of variances where that was asked for.
        bound: `sum_i w_i KL(q_i || N_c(i))` of the partition c that merging made, in nats: at least KL(qbar || r_K).
            It is the sum of the costs of all merges, which telescope (and of what the data's correlations cost where
            variances were asked for).
        rows: Kish's effective number of data in each cluster, `(sum w_i)^2 / sum w_i^2` with the weight of all parts of
            a datum in it together.
    """

    weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    covariance: Float[Tensor, "k d d"] | Float[Tensor, "k d"]
    bound: float
    rows: Float[Tensor, " k"]


def merge(
    gaussians: Gaussians,
    k: int,
    *,
    diagonal: bool,
    rng: torch.Generator,
    progress: Progress = silent,
    least: float = 0.0,
) -> Merged:
    """Merge N Gaussians down to K, always the pair with the smallest bound on the KL that it costs.

    The cost of a pair is `1/2 [(w_i + w_j) log det P_ij - w_i log det P_i - w_j log det P_j]`, P_ij matching moments.
    With more than 600 rows they are first put into 600 cells about random rows, and each cell is matched by moments.
    Where a cluster then has fewer than `least` effective rows, the one that has fewest is merged with its cheapest
    partner, until none is left (or one cluster is): the answer then has fewer than K components.
    """
    weight, mean, var = gaussians.weight, gaussians.mean, gaussians.var
    entropy = float(weight @ _log_det(var))
    cells = _cells(mean, weight, max(k, DIRECT), rng)
    w, m, c = _match(mean, var, weight, cells, diagonal=diagonal)
    square = _squares(gaussians, cells, len(w))
    log_det = _log_det(c)
    cost = torch.full((len(w), len(w)), torch.inf, dtype=torch.float64)
    for i in range(len(w) - 1):
        others = torch.arange(i + 1, len(w))
        cost[i, i + 1 :] = _costs(w, m, c, log_det, i, others)
    steps = len(w) - k

    def join(i: int, j: int) -> None:
        pair = torch.tensor([i, j])
        proportion = w[pair] / w[pair].sum()
        centre = proportion @ m[pair]
        c[i] = _joined(proportion, m[pair] - centre, c[pair])
        w[i], m[i] = w[pair].sum(), centre
        if gaussians.datum is None:
            square[i] = square[pair].sum()
        else:  # parts of one datum may have met
            cells[cells == j] = i
            inside = cells == i
            square[i] = torch.bincount(gaussians.datum[inside], weight[inside]).square().sum()
        log_det[i] = _log_det(c[i : i + 1])[0]
        w[j] = 0.0
        cost[j, :] = torch.inf
        cost[:, j] = torch.inf
        others = (w > 0).nonzero().flatten()
        others = others[others != i]
        if len(others):
            new = _costs(w, m, c, log_det, i, others)
            cost[torch.minimum(others, torch.tensor(i)), torch.maximum(others, torch.tensor(i))] = new

    for step in range(steps):
        progress(f"merge to {k}", step, steps)
        flat = int(cost.argmin())
        join(flat // len(cost), flat % len(cost))
    progress(f"merge to {k}", steps, steps)
    rows = torch.where(w > 0, w.square() / square, torch.inf)
    while least and float(rows.min()) < least and int((w > 0).sum()) > 1:
        i = int(rows.argmin())
        j = int(torch.minimum(cost[i], cost[:, i]).argmin())
        join(min(i, j), max(i, j))
        rows = torch.where(w > 0, w.square() / square, torch.inf)
    keep = w > 0
    w, m, c, log_det = w[keep], m[keep], c[keep], log_det[keep]
    return Merged(w, m, c, 0.5 * (float(w @ log_det) - entropy), rows[keep])


def _squares(gaussians: Gaussians, cells: Int[Tensor, " n"], count: int) -> Float[Tensor, " k"]:
    """Sum of the squared weights of the data in each cell, a datum's parts there together."""
    if gaussians.datum is None:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, cells, gaussians.weight.square())
    pair, index = torch.unique(torch.stack([cells, gaussians.datum]), dim=1, return_inverse=True)
    mass = torch.bincount(index, gaussians.weight)
    return torch.zeros(count, dtype=torch.float64).index_add_(0, pair[0], mass.square())


def _cells(mean: Tensor, weight: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """A cell for every row: its own where there are few, else that of the nearest of `count` random rows."""
    n = len(mean)
    if n <= count:
        return torch.arange(n)
    seeds = mean[torch.multinomial(weight, count, generator=rng)]
    nearest = torch.cat([torch.cdist(part, seeds).argmin(1) for part in torch.split(mean, 8192)])
    cells: Tensor = torch.unique(nearest, return_inverse=True)[1]
    return cells


def _match(
    mean: Tensor, var: Tensor, weight: Tensor, cells: Tensor, *, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and covariance of each cell."""
    count = int(cells.max()) + 1
    w = torch.zeros(count, dtype=torch.float64).index_add_(0, cells, weight)
    proportion = (weight / w[cells])[:, None]
    m = torch.zeros(count, mean.shape[1], dtype=torch.float64).index_add_(0, cells, proportion * mean)
    gap = mean - m[cells]
    full = var.ndim == 3
    if diagonal:
        var = var.diagonal(dim1=1, dim2=2) if full else var
        return w, m, torch.zeros_like(m).index_add_(0, cells, proportion * (gap.square() + var))
    c = torch.zeros(count, mean.shape[1], mean.shape[1], dtype=torch.float64)
    for rows in torch.split(torch.arange(len(mean)), 8192):
        outer = gap[rows, :, None] * gap[rows, None, :] + (var[rows] if full else torch.diag_embed(var[rows]))
        c.index_add_(0, cells[rows], proportion[rows, :, None] * outer)
    return w, m, c


def _log_det(c: Tensor) -> Tensor:
    return c.log().sum(1) if c.ndim == 2 else torch.logdet(c)


def _joined(proportion: Tensor, gap: Tensor, c: Tensor) -> Tensor:
    """Covariance of a pair by moments: `gap` are the means about the joint one."""
    if c.ndim == 2:
        return proportion @ (c + gap.square())
    return torch.einsum("k,kij->ij", proportion, c + gap[:, :, None] * gap[:, None, :])


def _costs(w: Tensor, m: Tensor, c: Tensor, log_det: Tensor, i: int, others: Tensor) -> Tensor:
    """Runnalls' bound of merging component i with each of the others."""
    total = w[i] + w[others]
    a, b = w[i] / total, w[others] / total
    gap = m[i] - m[others]
    if c.ndim == 2:
        joint = a[:, None] * c[i] + b[:, None] * c[others] + (a * b)[:, None] * gap.square()
    else:
        outer = gap[:, :, None] * gap[:, None, :]
        joint = a[:, None, None] * c[i] + b[:, None, None] * c[others] + (a * b)[:, None, None] * outer
    return 0.5 * (total * _log_det(joint) - w[i] * log_det[i] - w[others] * log_det[others])

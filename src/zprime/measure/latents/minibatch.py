"""Minibatch estimators of log qbar, by the index-code mutual information that they imply: for comparison.

Training objectives that need log qbar(z) use the posteriors of a minibatch of M of the N rows. zprime computes the
exact value (`surgery.py`); these are what papers and code report in its place. The exact I is 0 for identical
posteriors and log N for disjoint ones, where they give (docs/theory.md, section 4)

| estimator | identical | disjoint |
| --- | --- | --- |
| plug-in | 0 | log M |
| minibatch-weighted sampling | log N | log N + log M |
| stratified | 0 | log N |
| stratified, weights misplaced | 0 | about log M |
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, gaussian_log_prob, times
from zprime.errors import UsageError
from zprime.measure.study import Split
from zprime.results.latents import Minibatch
from zprime.rng import stream
from zprime.statistics.estimate import mean_estimate

BATCH = 100
BATCHES = 50
NUMBERS = 1 << 22  # of pairs and dimensions, held at once


def minibatch(split: Split, *, seed: int, batch: int = BATCH) -> Minibatch:
    """Cut the rows into minibatches at random, and estimate I from each.

    Args:
        split: posteriors of equal weight.
        seed: of the minibatches and the draws.
        batch: M; the number of rows where that is smaller.

    Raises:
        UsageError: minibatches of fewer than 2 rows, or rows with weights of their own.
    """
    data = split.posteriors
    if data.weights is not None:
        raise UsageError("minibatch: expected posteriors of equal weight, got weights: the estimators cannot use them")
    size = min(batch, data.n)
    if size < 2:
        raise UsageError(f"batch: expected minibatches of at least 2 rows, got {size} (of {data.n} rows)")
    rng = stream(seed, "minibatch", split.name)
    order = torch.randperm(data.n, generator=rng)[: size * min(BATCHES, data.n // size)].reshape(-1, size)
    noise = torch.randn(*order.shape, data.d, generator=rng, dtype=data.mean.dtype)
    pairs = torch.empty(len(order), size, size, dtype=torch.float64)  # [b, i, j]: log q_j at the draw of row i
    for b, rows in enumerate(order):
        mean, scale = data.mean[rows].double(), data.scale[rows].double()
        z = mean + times(scale, noise[b].double())
        for at in blocks(size, max(1, NUMBERS // mean.numel())):
            spread = z[at, None].expand(-1, size, -1)
            pairs[b, at] = gaussian_log_prob(spread, mean[None], scale[None])
    estimates = {
        name: mean_estimate(
            implied_information(pairs, log_weight), unit="nats per row, over minibatches", split=split.name, seed=seed
        )
        for name, log_weight in log_weights(size, data.n).items()
    }
    return Minibatch(size, data.n, estimates)


def implied_information(pairs: Float[Tensor, "b m m"], log_weight: Float[Tensor, "m m"]) -> Float[Tensor, " b"]:
    """Mean over the rows of each minibatch of log q_i(z_i) - log sum_j W_ij q_j(z_i)."""
    own = pairs.diagonal(dim1=1, dim2=2)
    return (own - torch.logsumexp(pairs + log_weight, 2)).mean(1)


def log_weights(m: int, n: int) -> dict[str, Float[Tensor, "m m"]]:
    """Log W of each estimator `qbar(z_i) = sum_j W_ij q_j(z_i)`.

    `minibatch-weighted` and `stratified`: Chen et al. 2018, appendix C. The latter gives the row itself 1/N, one other
    row (N - M') / (N M') and the rest 1/M', M' = M - 1; it is unbiased for qbar. `stratified, misplaced` is that
    matrix as their code and its copies fill it (rtqichen/beta-tcvae, pull request 1): by a stride of M in place of
    M + 1 the row's own 1/N lands in column 0 and the next weight in column 1.
    """
    equal = torch.zeros(m, m, dtype=torch.float64)
    others = m - 1
    odd = (n - others) / (n * others)
    rows = torch.arange(m)
    right, wrong = (torch.full((m, m), 1 / others, dtype=torch.float64) for _ in range(2))
    right[rows, rows], right[rows, (rows + 1) % m] = 1 / n, odd
    wrong[:, 0], wrong[:, 1], wrong[others - 1, 0] = 1 / n, odd, odd
    return {
        "plug-in": equal - math.log(m),
        "minibatch-weighted": equal - math.log(n) - math.log(m),
        "stratified": right.log(),
        "stratified, misplaced": wrong.log(),
    }

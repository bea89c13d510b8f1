"""The rest of ELBO surgery: KL(qbar||p) split into dependence between dimensions and the shape of each.

For a prior of independent dimensions (Chen et al. 2018, equation 2):
`KL(qbar||p) = KL(qbar || prod_j qbar_j) + sum_j KL(qbar_j||p_j)`; the first term is the total correlation. Both are
about the empirical qbar of the rows given, as in `surgery.py`.

Of up to 60,000 rows all components make the marginals. Of more, 60,000 at random do: in one dimension posteriors
overlap, so that few of them tell as much. What their choice adds to bias and error is found by the jackknife. Points
where it would add too much are evaluated with all components.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks, in_proportion
from zprime.components import choose
from zprime.distribution import LatentDistribution
from zprime.kernels import mixture_log_prob
from zprime.measure.prior import closed
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.results.latents import MARGINAL, TotalCorrelation
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, mean_estimate, widened

POINTS = 1000  # with 60,000 components and 16 dimensions 6 s
LEAST = 100
PARTS = 10
"""Of the components that are taken at random: each is left out once."""
ROUGH = 0.1
"""Relative error of a marginal density from which on all components are taken at that point."""


def total_correlation(
    split: Split,
    *,
    seed: int,
    prior: LatentDistribution | None = None,
    points: int = POINTS,
    progress: Progress = silent,
) -> TotalCorrelation | None:
    """Measure both terms at independent draws from qbar, with its exact density and that of its marginals.

    None where the prior is not N(0, I): the split holds for priors of independent dimensions. (A Gaussian of
    independent dimensions is N(0, I) in its own coordinates, which `bring` goes to.)

    Args:
        split: posteriors, whose mixture is qbar.
        seed: of the draws.
        prior: p(z); None is N(0, I).
        points: how many draws; fewer in proportion above 1,024 dimensions, but 100 at least.
        progress: called once a dimension.
    """
    if not closed(prior):
        return None
    data = split.posteriors
    width = data.deviation
    points = min(points, max(LEAST, in_proportion(points, data.d)))
    z = data.sample(points, rng=stream(seed, "total correlation", split.name))
    joint = data.log_prob(z)
    log_p = -0.5 * (LOG_2PI + z.double().square().T)
    # of each dimension with all components, and with one part of them left out in turn
    marginal = torch.empty(data.d, 1 if data.n <= MARGINAL else 1 + PARTS, points, dtype=torch.float64)
    some = [] if data.n <= MARGINAL else _parts(data, stream(seed, "total correlation", split.name, "components"))
    for j in range(data.d):
        progress("total correlation", j, data.d)
        x = z[:, [j]]
        exactly = torch.arange(points)
        if some:
            parts = torch.stack([_equal_log_prob(x, m[:, [j]], s[:, [j]]) for m, s in some])
            marginal[j], exactly = _but_one(parts), _rare(parts)
        if len(exactly):
            exact = mixture_log_prob(x[exactly], data.mean[:, [j]], width[:, [j]], data.log_weights)
            marginal[j][:, exactly] = exact
    progress("total correlation", data.d, data.d)
    gap = marginal - log_p[:, None]

    def estimate(values: Float[Tensor, "c m"]) -> Estimate:
        return _estimate(values, split.name, seed)

    return TotalCorrelation(estimate(joint - marginal.sum(0)), estimate(gap.sum(0)), [estimate(g) for g in gap])


def _parts(data: MemoryPosteriors, rng: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Means and standard deviations of components of qbar, drawn by their weights, in parts of equal size."""
    which = choose(data.log_weights, MARGINAL, rng)
    taken = [data.take(which[b]) for b in blocks(MARGINAL, MARGINAL // PARTS)]
    return [(p.mean, p.deviation) for p in taken]


def _equal_log_prob(
    x: Float[Tensor, "m 1"], mean: Float[Tensor, "k 1"], scale: Float[Tensor, "k 1"]
) -> Float[Tensor, " m"]:
    """Log-density of the mixture with equal weights."""
    return mixture_log_prob(x, mean, scale, torch.full((len(mean),), -math.log(len(mean)), dtype=torch.float64))


def _rare(log_parts: Float[Tensor, "p m"]) -> Int[Tensor, " k"]:
    """Points at which so few components count that parts of them say too little: far out, or of narrow posteriors."""
    density = (log_parts - log_parts.amax(0)).exp()
    return (density.std(0) > ROUGH * math.sqrt(len(log_parts)) * density.mean(0)).nonzero().flatten()


def _but_one(log_parts: Float[Tensor, "p m"]) -> Float[Tensor, "c m"]:
    """Log of the mean of p densities, and of the mean of all but one, for each of them: c = p + 1."""
    p = len(log_parts)
    others = torch.stack([torch.logsumexp(log_parts[torch.arange(p) != i], 0) for i in range(p)])
    return torch.cat([torch.logsumexp(log_parts, 0)[None] - math.log(p), others - math.log(p - 1)])


def _estimate(values: Float[Tensor, "c m"], name: str, seed: int) -> Estimate:
    """Mean over points; by the jackknife where there are values without each part of the components."""
    whole, others = values[0], values[1:]
    p = len(others)
    if not p:
        return mean_estimate(whole, unit="nats", split=name, seed=seed)
    e = mean_estimate(p * whole - (p - 1) * others.mean(0), unit="nats", split=name, seed=seed)
    error = float(others.mean(1).std(correction=0)) * math.sqrt(p - 1)
    return widened(e, error, because=f"marginals by {MARGINAL:,} posteriors at random")

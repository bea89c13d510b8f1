"""The rest of ELBO surgery: KL(qbar||p) split into dependence between dimensions and the shape of each.

For a prior of independent dimensions (Chen et al. 2018, equation 2):
`KL(qbar||p) = KL(qbar || prod_j qbar_j) + sum_j KL(qbar_j||p_j)`; the first term is the total correlation. Both are
about the empirical qbar of the rows given, as in `surgery.py`.
"""

import torch

from zprime.arrays import LOG_2PI, in_proportion
from zprime.distribution import LatentDistribution
from zprime.kernels import mixture_log_prob
from zprime.measure.prior import closed
from zprime.measure.study import Split
from zprime.progress import Progress, silent
from zprime.results.latents import TotalCorrelation
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, mean_estimate

POINTS = 1000  # with 60,000 components and 16 dimensions 6 s
LEAST = 100


def total_correlation(
    split: Split,
    *,
    seed: int,
    prior: LatentDistribution | None = None,
    points: int = POINTS,
    progress: Progress = silent,
) -> TotalCorrelation | None:
    """Measure both terms with the exact densities of qbar and of its marginals at independent draws from qbar.

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
    marginal = torch.empty(data.d, points, dtype=torch.float64)
    for j in range(data.d):
        progress("total correlation", j, data.d)
        marginal[j] = mixture_log_prob(z[:, [j]], data.mean[:, [j]], width[:, [j]], data.log_weights)
    progress("total correlation", data.d, data.d)
    log_p = -0.5 * (LOG_2PI + z.double().square().T)
    gap = marginal - log_p

    def estimate(values: torch.Tensor) -> Estimate:
        return mean_estimate(values, unit="nats", split=split.name, seed=seed)

    return TotalCorrelation(estimate(joint - marginal.sum(0)), estimate(gap.sum(0)), [estimate(g) for g in gap])

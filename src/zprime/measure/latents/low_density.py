"""Holes as the prior sees them: how many of its draws fall where hardly any code of held-out data lies."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.measure.prior import prior_sample
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, clopper_pearson

LEVELS = (0.01, 0.05)
POINTS = 2000


def low_density(
    train: MemoryPosteriors,
    heldout: MemoryPosteriors,
    *,
    seed: int,
    prior: LatentDistribution | None = None,
    points: int = POINTS,
) -> dict[str, Estimate]:
    """Proportion of draws from the prior whose log qbar(z) is below a low quantile of that of held-out codes.

    qbar is the mixture of the training posteriors; the codes are one draw of q(z|x) for each held-out x. If the
    codes were draws of the prior, the proportions would be 1 % and 5 %.

    Args:
        train: posteriors whose mixture is qbar.
        heldout: posteriors of held-out rows.
        seed: of all draws.
        prior: p(z); None is N(0, I).
        points: held-out rows at most, and draws from the prior.

    Returns:
        `1 %` and `5 %` -> the proportion below that quantile.
    """
    rng = stream(seed, "low density")
    rows = torch.randperm(heldout.n, generator=rng)[:points]
    codes = heldout.take(rows).draw(rng=rng)
    draws = prior_sample(prior, (points, train.d), dtype=codes.dtype, rng=rng)
    at_codes, at_prior = train.log_prob(codes), train.log_prob(draws)
    return {
        f"{level:.0%}".replace("%", " %"): proportion_below(at_codes, at_prior, level, seed=seed) for level in LEVELS
    }


def proportion_below(
    reference: Float[Tensor, " m"], values: Float[Tensor, " n"], level: float, *, seed: int | None
) -> Estimate:
    """Proportion of `values` below the `level` quantile of what `reference` was drawn from.

    The interval is free of assumptions and holds with at least 95 %: the quantile lies between two order statistics of
    `reference` with at least 97.5 % (binomial), and at each of these the proportion has an exact binomial interval. It
    is wider than needed. The standard error is a fourth of its width.
    """
    from scipy.stats import binom

    ordered, m, n = reference.double().sort().values, len(reference), len(values)
    # the k-th smallest is below the quantile with probability P(B >= k), B ~ Binomial(m, level)
    below = int(binom.ppf(0.0125, m, level))
    above = int(binom.ppf(0.9875, m, level)) + 1

    def hits(k: int) -> int:
        if k < 1:
            return 0
        return n if k > m else int((values.double() < ordered[k - 1]).sum())

    point = hits(max(1, math.ceil(level * m)))
    low = clopper_pearson(hits(below), n, 0.025)[0]
    high = clopper_pearson(hits(above), n, 0.025)[1]
    return Estimate(point / n, (high - low) / 4, low, high, min(m, n), "proportion of prior draws", "heldout", seed)

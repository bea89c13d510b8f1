"""Holes as the prior sees them: how many of its draws fall where hardly any code of held-out data lies."""

import torch

from zprime.distribution import LatentDistribution
from zprime.measure.prior import prior_sample
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.statistics.estimate import Estimate
from zprime.statistics.order import proportion_below

LEVELS = (0.01, 0.05)
POINTS = 2000
UNIT = "proportion of prior draws"


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
        f"{level:.0%}".replace("%", " %"): proportion_below(at_codes, at_prior, level, unit=UNIT, seed=seed)
        for level in LEVELS
    }

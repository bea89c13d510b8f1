"""Holes as the prior sees them: how many of its draws fall where hardly any code of held-out data lies."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.measure.prior import prior_sample
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.statistics.estimate import Estimate
from zprime.statistics.order import proportion_below

LEVELS = (0.01, 0.05)
CURVE = torch.arange(1, 100, 2, dtype=torch.float64) / 100
"""Quantiles of log qbar that are kept: from 1 % to 99 %, so that the value of no single row is told."""
CODES, DRAWS = "codes", "prior draws"
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
    return proportions(log_densities(train, heldout, seed=seed, prior=prior, points=points), seed=seed)


def log_densities(
    train: MemoryPosteriors,
    heldout: MemoryPosteriors,
    *,
    seed: int,
    prior: LatentDistribution | None = None,
    points: int = POINTS,
) -> dict[str, Tensor]:
    """Log qbar in nats at held-out `codes` and at `prior draws`, as `low_density` compares them."""
    rng = stream(seed, "low density")
    rows = torch.randperm(heldout.n, generator=rng)[:points]
    codes = heldout.take(rows).draw(rng=rng)
    draws = prior_sample(prior, (points, train.d), dtype=codes.dtype, rng=rng)
    return {CODES: train.log_prob(codes), DRAWS: train.log_prob(draws)}


def proportions(found: Mapping[str, Tensor], *, seed: int) -> dict[str, Estimate]:
    """Level -> proportion of prior draws below that quantile of the codes' log qbar."""
    return {
        f"{level:.0%}".replace("%", " %"): proportion_below(found[CODES], found[DRAWS], level, unit=UNIT, seed=seed)
        for level in LEVELS
    }


def curves(found: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Quantiles of both, at `CURVE`."""
    return {name: values.double().quantile(CURVE).tolist() for name, values in found.items()}

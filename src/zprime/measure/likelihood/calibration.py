"""Simulation-based calibration of the encoder (Talts et al. 2018): on simulated data the codes' ranks are uniform.

z ~ r, x ~ p(x|z), then the rank of each z_j among draws from the posterior that the encoder implies: q(z|x) where r is
the prior, and q_r(z|x), in proportion to q(z|x) r(z)/p(z), under any other r. If q is the posterior under p, then q_r
is the posterior under r, so a bad r changes nothing here: ranks that are not uniform are an error of the encoder.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, whitened
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.measure.likelihood.simulation import Simulator
from zprime.measure.prior import tilt
from zprime.posteriors import MemoryPosteriors
from zprime.results.likelihood import Calibration
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.estimate import mean_estimate

DRAWS = 99  # so that ranks run from 0 to 99
BINS = 20
LEAST = 100  # rows: five a bin
BLOCK = 50  # rows a block: part of the random streams' names, so a constant


def calibration(
    simulator: Simulator, *, rng: torch.Generator, rows: int = 1000, prior: LatentDistribution | None = None
) -> Calibration | None:
    """Simulate, encode and rank.

    None for a kind whose q_r has no closed form, and where fewer than 100 of the rows have a q_r (in the others q is
    wider than the prior, and q_r does not exist).

    Args:
        simulator: latent distribution and model; with the prior as latent distribution q itself is tested.
        rng: source of randomness.
        rows: how many rows to simulate.
        prior: p(z); None is N(0, I).

    Raises:
        UsageError: fewer than 100 rows asked for.
    """
    if rows < LEAST:
        raise UsageError(f"rows: expected at least {LEAST} simulated rows for histograms of {BINS} bins, got {rows}")
    simulated = simulator.simulate(rows, rng=fork(rng, "simulate"))
    ranked = ranks(simulator.r, simulated.z, simulated.posteriors, rng=fork(rng, "ranks"), prior=prior)
    if ranked is None:
        return None
    exists = (ranked >= 0).all(1)
    kept = ranked[exists]
    if len(kept) < LEAST:
        return None
    return summarise(kept, source=simulator.name, dropped=rows - len(kept), rng=fork(rng, "ties"))


def ranks(
    r: LatentDistribution,
    z: Float[Tensor, "n d"],
    posteriors: MemoryPosteriors,
    *,
    rng: torch.Generator,
    prior: LatentDistribution | None = None,
) -> Int[Tensor, "n c"] | None:
    """Ranks of each z_j, and of the distance, among 99 draws of q_r: from 0 to 99; -1 where there is no q_r."""
    parts = []
    for part in blocks(posteriors.n, BLOCK):
        mean, scale = posteriors.mean[part], posteriors.scale[part]
        tilted = tilt(prior, r, mean, scale, draws=DRAWS, rng=fork(rng, part.start))
        if tilted is None:
            return None
        centre, width = mean.double()[:, None], scale.double()[:, None]
        own, draws = z[part].double()[:, None], tilted.draws.double()
        own = torch.cat([own, whitened(own - centre, width).square().sum(-1, keepdim=True)], -1)
        draws = torch.cat([draws, whitened(draws - centre, width).square().sum(-1, keepdim=True)], -1)
        below = (draws < own).sum(1)
        lost = ~torch.isfinite(tilted.log_ratio) | ~torch.isfinite(draws).all(2).all(1)
        parts.append(below.masked_fill(lost[:, None], -1))
    return torch.cat(parts)


def summarise(ranked: Int[Tensor, "n c"], *, source: str, dropped: int, rng: torch.Generator) -> Calibration:
    """Histograms of ranks, their bands, and tests of whether they are uniform."""
    from scipy.stats import binom, chisquare, kstest

    n, c = ranked.shape
    seed = rng.initial_seed()
    counts = torch.stack([torch.bincount(column * BINS // (DRAWS + 1), minlength=BINS) for column in ranked.T])
    # a uniform number within each rank makes the ranks continuous, and exactly uniform if they are uniform
    u = (ranked + torch.rand(ranked.shape, generator=rng, dtype=torch.float64)) / (DRAWS + 1)
    chi_square = [float(chisquare(row.numpy()).pvalue) for row in counts]
    ks = [float(kstest(column.numpy(), "uniform").pvalue) for column in u.T]
    tail = THRESHOLDS.level / BINS / 2
    mean = partial(mean_estimate, split="simulated", seed=seed)
    return Calibration(
        source=source,
        rows=n,
        dropped=dropped,
        draws=DRAWS,
        names=[*(f"z{j + 1}" for j in range(c - 1)), "distance"],
        counts=counts.tolist(),
        low=int(binom.ppf(tail, n, 1 / BINS)),
        high=int(binom.isf(tail, n, 1 / BINS)),
        bias=[mean(column - 0.5, unit="proportion of all ranks") for column in u.T],
        spread=[mean(12 * (column - 0.5).square(), unit="of that of uniform ranks") for column in u.T],
        chi_square=chi_square,
        ks=ks,
        p_value=min(1.0, 2 * c * min(*chi_square, *ks)),
        seed=seed,
    )

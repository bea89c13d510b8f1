"""Simulation-based calibration of the encoder (Talts et al. 2018): on simulated data the codes' ranks are uniform.

z ~ r, x ~ p(x|z), then the rank of each z_j among draws from the posterior that the encoder implies: q(z|x) where r is
the prior, and q_r(z|x), in proportion to q(z|x) r(z)/p(z), under any other r. If q is the posterior under p, then q_r
is the posterior under r, so a bad r moves nothing here: what is not uniform is the encoder's.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.measure.likelihood.simulation import encode, simulate
from zprime.posteriors import MemoryPosteriors
from zprime.results.likelihood import Calibration
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.estimate import mean_estimate
from zprime.vae import Model

DRAWS = 99  # so that ranks run from 0 to 99
BINS = 20
LEAST = 100  # rows: five a bin
BLOCK = 50  # rows a block: part of the random streams' names, so a constant


def calibration(
    r: LatentDistribution, model: Model, *, source: str, dtype: torch.dtype, rng: torch.Generator, rows: int = 1000
) -> Calibration | None:
    """Simulate, encode and rank.

    None for a kind whose q_r has no closed form, and where fewer than 100 of the rows have a q_r: elsewhere q is wider
    than the prior, which proves it wrong without a test.

    Args:
        r: where z is drawn from: `Prior(d)` tests q itself.
        model: encoder and decoder.
        source: name of `r`.
        dtype: what the model computes in.
        rng: source of randomness.
        rows: how many rows to simulate.

    Raises:
        UsageError: fewer than 100 rows asked for.
    """
    if rows < LEAST:
        raise UsageError(f"rows: expected at least {LEAST} simulated rows for histograms of {BINS} bins, got {rows}")
    z, simulated = simulate(r, model, rows, dtype=dtype, rng=fork(rng, "simulate"))
    posteriors = encode(model, simulated)
    found = ranks(r, z, posteriors, rng=fork(rng, "ranks"))
    if found is None:
        return None
    exists = (found >= 0).all(1)
    kept = found[exists]
    if len(kept) < LEAST:
        return None
    return summarise(kept, source=source, dropped=rows - len(kept), rng=fork(rng, "ties"))


def ranks(
    r: LatentDistribution, z: Float[Tensor, "n d"], posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> Int[Tensor, "n c"] | None:
    """Of each z_j, and of the distance, among 99 draws of q_r: from 0 to 99; -1 where there is no q_r."""
    parts = []
    for part in blocks(posteriors.n, BLOCK):
        mean, scale = posteriors.mean[part], posteriors.scale[part]
        tilted = r.tilt(mean, scale, draws=DRAWS, rng=fork(rng, part.start))
        if tilted is None:
            return None
        centre, width = mean.double()[:, None], scale.double()[:, None]
        own, draws = z[part].double()[:, None], tilted.draws.double()
        own = torch.cat([own, ((own - centre) / width).square().sum(-1, keepdim=True)], -1)
        draws = torch.cat([draws, ((draws - centre) / width).square().sum(-1, keepdim=True)], -1)
        below = (draws < own).sum(1)
        lost = ~torch.isfinite(tilted.log_ratio) | ~torch.isfinite(draws).all(2).all(1)
        parts.append(below.masked_fill(lost[:, None], -1))
    return torch.cat(parts)


def summarise(found: Int[Tensor, "n c"], *, source: str, dropped: int, rng: torch.Generator) -> Calibration:
    """Histograms, bands, tests, and what they say of q."""
    from scipy.stats import binom, chisquare, kstest

    n, c = found.shape
    seed = rng.initial_seed()
    counts = torch.stack([torch.bincount(column * BINS // (DRAWS + 1), minlength=BINS) for column in found.T])
    # a uniform number within each rank makes the ranks continuous, and exactly uniform if they are uniform
    u = (found + torch.rand(found.shape, generator=rng, dtype=torch.float64)) / (DRAWS + 1)
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
        bias=[mean(column - 0.5, unit="share of all ranks") for column in u.T],
        spread=[mean(12 * (column - 0.5).square(), unit="of that of uniform ranks") for column in u.T],
        chi_square=chi_square,
        ks=ks,
        p_value=min(1.0, 2 * c * min(*chi_square, *ks)),
        seed=seed,
    )

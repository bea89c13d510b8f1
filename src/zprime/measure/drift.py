"""Drift: do the codes of new rows still fit the latent distribution that was shipped?

Held against the codes of held-out rows, by three tests that see different things: how likely r finds the codes, where
their mean and covariance lie, and each dimension on its own.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import standard_log_prob
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError
from zprime.latent.gaussian import moments
from zprime.measure.estimate import Z95, Estimate, mean_estimate
from zprime.measure.resampling import GROUPS, About, group_of, leave_out
from zprime.posteriors import InMemory
from zprime.rng import fork

LEVEL = 0.05
SHUFFLES = 999
FEWEST = 8


@dataclass(frozen=True)
class Shift:
    """One dimension.

    Attributes:
        dimension: from 0.
        statistic: Kolmogorov and Smirnov's, the largest gap between the two distribution functions.
        p_value: corrected for the number of dimensions (Holm 1979).
    """

    dimension: int
    statistic: float
    p_value: float


@dataclass(frozen=True)
class Drift:
    """New rows against held-out rows.

    Attributes:
        source: name of the latent distribution.
        rows: how many new rows.
        log_density: mean log r(z) at new codes less that at held-out codes, nats: below 0, r finds them less likely.
        density_p: two-sided rank test that the two have one distribution (Mann & Whitney 1947).
        moments: KL between the Gaussians with the moments of new and of held-out aggregated posteriors, nats. Above 0
            by chance alone, which the p-value allows for.
        moments_p: permutation test of the same.
        dimensions: every dimension, the least likely first.
        gain: code gain of r over the prior on new rows: above 0, r still is the better of the two.
        gain_heldout: the same on held-out rows.
        p_value: of the three tests together (the least, times three).
        drifted: whether that is below 0.05.
        sentence: in words.
    """

    source: str
    rows: int
    log_density: Estimate
    density_p: float
    moments: Estimate
    moments_p: float
    dimensions: list[Shift]
    gain: Estimate
    gain_heldout: Estimate
    p_value: float
    drifted: bool
    sentence: str


def drift(r: LatentDistribution, new: InMemory, heldout: InMemory, *, source: str = "r", rng: torch.Generator) -> Drift:
    """Compare posteriors of new rows with those of held-out rows: one draw z ~ q(z|x) each.

    Args:
        r: the latent distribution; must know its density.
        new: posteriors of new rows, by the same encoder.
        heldout: posteriors of held-out rows.
        source: name of `r`.
        rng: decides draws and shuffles.

    Raises:
        ArrayError: fewer than 8 rows, or other latents.
    """
    if new.n < FEWEST or heldout.n < FEWEST:
        raise ArrayError(f"new data: expected at least {FEWEST} rows, held-out ones too, got {new.n} and {heldout.n}")
    if new.d != heldout.d or r.d != new.d:
        raise ArrayError(f"new data: expected {r.d} latents, got {new.d} (held-out {heldout.d})")
    codes = [p.draw(rng=fork(rng, name)) for p, name in ((new, "new"), (heldout, "heldout"))]
    density = [r.log_prob(z).double() for z in codes]
    gains = [
        mean_estimate(v - standard_log_prob(z), unit="nats per row", split=s, seed=rng.initial_seed())
        for v, z, s in zip(density, codes, ("new rows", "heldout"), strict=True)
    ]
    density_p = _rank_test(density[0], density[1])
    shift, moments_p = _moments(new, heldout, rng=fork(rng, "shuffle"))
    dimensions = _dimensions(codes[0], codes[1])
    p_value = min(1.0, 3 * min(density_p, moments_p, dimensions[0].p_value))
    found = Drift(
        source=source,
        rows=new.n,
        log_density=_difference(density[0], density[1], seed=rng.initial_seed()),
        density_p=density_p,
        moments=shift,
        moments_p=moments_p,
        dimensions=dimensions,
        gain=gains[0],
        gain_heldout=gains[1],
        p_value=p_value,
        drifted=p_value < LEVEL,
        sentence="",
    )
    return Drift(**{**vars(found), "sentence": _sentence(found)})


def moment_shift(a: InMemory, b: InMemory) -> float:
    """KL in nats between the Gaussians with the mean and covariance of two aggregated posteriors (a from b)."""
    (mean, covariance), (mean2, covariance2) = moments(a), moments(b)
    return _gaussian_kl(mean, covariance, mean2, covariance2)


def _gaussian_kl(mean: Tensor, covariance: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    gap = mean - mean2
    solved = torch.linalg.solve(covariance2, torch.cat([covariance, gap[:, None]], 1))
    d = len(mean)
    trace = solved[:, :d].diagonal().sum() + gap @ solved[:, d]
    return 0.5 * float(trace - d + torch.logdet(covariance2) - torch.logdet(covariance))


def _moments(new: InMemory, heldout: InMemory, *, rng: torch.Generator) -> tuple[Estimate, float]:
    """The shift, its error by the jackknife over 30 groups, and the share of shuffles that reach it."""
    sums = [_row_moments(p) for p in (new, heldout)]
    groups = min(GROUPS, new.n // 2, heldout.n // 2)

    def shift(a: Tensor, b: Tensor) -> float:
        return _gaussian_kl(*_from_sums(a, new.d), *_from_sums(b, new.d))

    tallies = []
    for s in sums:
        order = torch.randperm(len(s), generator=rng)
        out = torch.zeros(groups, s.shape[1], dtype=torch.float64)
        tallies.append(out.index_add_(0, group_of(len(s), groups), s[order]))

    def replicate(keep: Tensor) -> Float[Tensor, "b 1"]:
        return torch.tensor([[shift(*(k.double() @ t for t in tallies))] for k in keep], dtype=torch.float64)

    found = leave_out(replicate, groups=groups, pairs=False)
    e = found.estimate(0, About(new.n, "new rows and heldout", rng.initial_seed()), unit="nats", scale="distance")
    both = torch.cat(sums)
    total = both.sum(0)
    reached = 0
    for _ in range(SHUFFLES):
        some = both[torch.randperm(len(both), generator=rng)[: new.n]].sum(0)
        reached += shift(some, total - some) >= e.value
    return e, (reached + 1) / (SHUFFLES + 1)


def _row_moments(p: InMemory) -> Float[Tensor, "n f"]:
    """Per row: 1, mean, and E[z z^T], so that moments of any subset are sums."""
    mean = p.mean.double()
    second = mean[:, :, None] * mean[:, None, :] + torch.diag_embed(p.scale.double().square())
    return torch.cat([torch.ones(p.n, 1, dtype=torch.float64), mean, second.flatten(1)], 1)


def _from_sums(total: Tensor, d: int) -> tuple[Tensor, Tensor]:
    mean = total[1 : d + 1] / total[0]
    return mean, total[d + 1 :].reshape(d, d) / total[0] - torch.outer(mean, mean)


def _difference(a: Float[Tensor, " n"], b: Float[Tensor, " m"], *, seed: int) -> Estimate:
    """Difference of two means with its error (Welch 1947)."""
    value = float(a.mean() - b.mean())
    stderr = math.sqrt(float(a.var() / len(a) + b.var() / len(b)))
    low, high = value - Z95 * stderr, value + Z95 * stderr
    return Estimate(value, stderr, low, high, len(a), "nats per row", "new rows and heldout", seed)


def _rank_test(a: Tensor, b: Tensor) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(a.numpy(), b.numpy()).pvalue)


def _dimensions(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> list[Shift]:
    """Kolmogorov-Smirnov in every dimension, with Holm's correction."""
    from scipy.stats import ks_2samp

    found = [ks_2samp(x.numpy(), y.numpy()) for x, y in zip(a.double().T, b.double().T, strict=True)]
    order = sorted(range(len(found)), key=lambda j: float(found[j].pvalue))
    out, worst = [], 0.0
    for rank, j in enumerate(order):
        worst = max(worst, min(1.0, (len(found) - rank) * float(found[j].pvalue)))
        out.append(Shift(j, float(found[j].statistic), worst))
    return out


def _sentence(d: Drift) -> str:
    chance = "p < 0.001" if d.p_value < 0.001 else f"p = {d.p_value:.3f}"
    if not d.drifted:
        return (
            f"No drift seen: codes of {d.rows} new rows fit {d.source} as codes of held-out rows do ({chance}; log r "
            f"differs by {d.log_density} nats per row)."
        )
    still = "still better than the prior on them" if d.gain.low > 0 else "no longer measurably better than the prior"
    e = d.log_density
    word = "less" if e.value < 0 else "more"
    return (
        f"The new rows have drifted ({chance}). {d.source} finds their codes {abs(e.value):.2f} ± {e.stderr:.2f} nats "
        f"per row {word} likely than held-out codes; their mean and covariance are {d.moments.value:.3g} nats away; "
        f"dimension {d.dimensions[0].dimension} has moved most. It is {still} (code gain {d.gain} nats per row; "
        f"{d.gain_heldout} on held-out rows). Fit it again on new rows, or train again."
    )

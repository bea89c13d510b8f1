"""Drift: do the codes of new rows still fit the latent distribution that was shipped?

Held against the codes of held-out rows, by three tests that see different things: how likely r finds the codes, where
their mean and covariance lie, and each dimension on its own.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, standard_log_prob
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError
from zprime.latent.gaussian import moments
from zprime.posteriors import MemoryPosteriors
from zprime.results.drift import Drift, Shift
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.estimate import Z95, Estimate, mean_estimate
from zprime.statistics.resampling import GROUPS, About, group_of, leave_out

SHUFFLES = 999
FEWEST = 8
BATCH = 64  # shuffles at a time


def drift(
    r: LatentDistribution, new: MemoryPosteriors, heldout: MemoryPosteriors, *, source: str = "r", rng: torch.Generator
) -> Drift:
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
        drifted=p_value < THRESHOLDS.level,
        sentence="",
    )
    return Drift(**{**vars(found), "sentence": _sentence(found)})


def moment_shift(a: MemoryPosteriors, b: MemoryPosteriors) -> float:
    """KL in nats between the Gaussians with the mean and covariance of two aggregated posteriors (a from b)."""
    (mean, covariance), (mean2, covariance2) = moments(a), moments(b)
    return float(_gaussian_kl(mean, covariance, mean2, covariance2))


def _gaussian_kl(
    mean: Float[Tensor, "*b d"],
    covariance: Float[Tensor, "*b d d"],
    mean2: Float[Tensor, "*b d"],
    covariance2: Float[Tensor, "*b d d"],
) -> Float[Tensor, "*b"]:
    """KL(N(mean, covariance) || N(mean2, covariance2)) in nats."""
    gap = (mean - mean2)[..., None]
    solved = torch.linalg.solve(covariance2, torch.cat([covariance, gap], -1))
    d = mean.shape[-1]
    trace = solved[..., :d].diagonal(dim1=-2, dim2=-1).sum(-1) + (gap[..., 0] * solved[..., d]).sum(-1)
    out: Tensor = 0.5 * (trace - d + torch.logdet(covariance2) - torch.logdet(covariance))
    return out


def _moments(new: MemoryPosteriors, heldout: MemoryPosteriors, *, rng: torch.Generator) -> tuple[Estimate, float]:
    """The shift, its error by the jackknife over 30 groups, and the share of shuffles that reach it."""
    sums = [_row_moments(p) for p in (new, heldout)]
    groups = min(GROUPS, new.n // 2, heldout.n // 2)
    tallies = []
    for s in sums:
        order = torch.randperm(len(s), generator=rng)
        out = torch.zeros(groups, s.shape[1], dtype=torch.float64)
        tallies.append(out.index_add_(0, group_of(len(s), groups), s[order]))

    def shift(a: Tensor, b: Tensor) -> Tensor:
        return _gaussian_kl(*_from_sums(a, new.d), *_from_sums(b, new.d))

    def replicate(keep: Tensor) -> Float[Tensor, "b 1"]:
        return shift(*(keep.double() @ t for t in tallies))[:, None]

    found = leave_out(replicate, groups=groups, pairs=False)
    e = found.estimate(0, About(new.n, "new rows and heldout", rng.initial_seed()), unit="nats", scale="distance")
    both = torch.cat(sums)
    total, reached = both.sum(0), 0
    for part in blocks(SHUFFLES, BATCH):
        chance = torch.rand(part.stop - part.start, len(both), generator=rng)
        mine = torch.zeros_like(chance, dtype=torch.float64)
        mine.scatter_(1, chance.topk(new.n, dim=1).indices, 1.0)
        some = mine @ both
        reached += int((shift(some, total - some) >= e.value).sum())
    return e, (reached + 1) / (SHUFFLES + 1)


def _row_moments(p: MemoryPosteriors) -> Float[Tensor, "n f"]:
    """Per row: 1, mean, and E[z z^T], so that moments of any subset are sums."""
    mean = p.mean.double()
    second = mean[:, :, None] * mean[:, None, :] + torch.diag_embed(p.scale.double().square())
    return torch.cat([torch.ones(p.n, 1, dtype=torch.float64), mean, second.flatten(1)], 1)


def _from_sums(total: Float[Tensor, "*b f"], d: int) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d d"]]:
    count = total[..., :1]
    mean = total[..., 1 : d + 1] / count
    second = total[..., d + 1 :].reshape(*total.shape[:-1], d, d) / count[..., None]
    return mean, second - mean[..., :, None] * mean[..., None, :]


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
    if d.gain.low > 0:
        still = "still better than the prior on them"
    elif d.gain_heldout.low > 0:
        still = "no longer measurably better than the prior"
    else:
        still = "not measurably better than the prior, as it was before"
    e = d.log_density
    word = "less" if e.value < 0 else "more"
    advice = "Fit it again on new rows, or train again."
    if e.low > 0:
        advice = (
            "Rows that are likelier than held-out rows are often rows that the model was trained on: are these new?"
        )
    return (
        f"The new rows have drifted ({chance}). {d.source} finds their codes {abs(e.value):.2f} ± {e.stderr:.2f} nats "
        f"per row {word} likely than held-out codes; their mean and covariance are {d.moments.value:.3g} nats away; "
        f"dimension {d.dimensions[0].dimension} has moved most. It is {still} (ELBO gain {d.gain} nats per row; "
        f"{d.gain_heldout} on held-out rows). {advice}"
    )

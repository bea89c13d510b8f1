"""Drift: do the codes of new rows still fit the latent distribution that was shipped?

They are compared with the codes of held-out rows, by three tests: of the density that r gives the codes, of their mean
and covariance, and of each dimension by itself.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError
from zprime.latent.gaussian import moments
from zprime.measure.prior import prior_log_prob
from zprime.posteriors import MemoryPosteriors
from zprime.results.drift import Drift, Shift
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.statistics.resampling import GROUPS, About, group_of, leave_out
from zprime.statistics.two_sample import difference_of_means, holm, kolmogorov_smirnov, rank_test

SHUFFLES = 999
FEWEST = 8
BATCH = 64  # shuffles at a time
UNIT = "nats per row"
BOTH = "new rows and heldout"


def drift(
    r: LatentDistribution,
    new: MemoryPosteriors,
    heldout: MemoryPosteriors,
    *,
    source: str = "r",
    rng: torch.Generator,
    prior: LatentDistribution | None = None,
) -> Drift:
    """Compare posteriors of new rows with those of held-out rows: one draw z ~ q(z|x) each.

    Args:
        r: the latent distribution; must know its density.
        new: posteriors of new rows, by the same encoder.
        heldout: posteriors of held-out rows.
        source: name of `r`.
        rng: decides draws and shuffles.
        prior: p(z); None is N(0, I).

    Raises:
        ArrayError: fewer than 8 rows, or other latents.
    """
    if new.n < FEWEST or heldout.n < FEWEST:
        raise ArrayError(f"new data: expected at least {FEWEST} rows, held-out ones too, got {new.n} and {heldout.n}")
    if new.d != heldout.d or r.d != new.d:
        raise ArrayError(f"new data: expected {r.d} latents, got {new.d} (held-out {heldout.d})")
    seed = rng.initial_seed()
    codes = [p.draw(rng=fork(rng, name)) for p, name in ((new, "new"), (heldout, "heldout"))]
    density = [r.log_prob(z).double() for z in codes]
    gains = [
        mean_estimate(v - prior_log_prob(prior, z), unit=UNIT, split=s, seed=seed)
        for v, z, s in zip(density, codes, ("new rows", "heldout"), strict=True)
    ]
    density_p = rank_test(density[0], density[1])
    shift, moments_p = _moments(new, heldout, rng=fork(rng, "shuffle"))
    dimensions = _dimensions(codes[0], codes[1])
    p_value = min(1.0, 3 * min(density_p, moments_p, dimensions[0].p_value))
    measured = Drift(
        source=source,
        rows=new.n,
        log_density=difference_of_means(density[0], density[1], unit=UNIT, split=BOTH, seed=seed),
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
    return replace(measured, sentence=_sentence(measured))


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
    kl: Tensor = 0.5 * (trace - d + torch.logdet(covariance2) - torch.logdet(covariance))
    return kl


def _moments(new: MemoryPosteriors, heldout: MemoryPosteriors, *, rng: torch.Generator) -> tuple[Estimate, float]:
    """The shift, its error by the jackknife over 30 groups, and its p-value by shuffling rows between the two."""
    sums = [_row_moments(p) for p in (new, heldout)]
    groups = min(GROUPS, new.n // 2, heldout.n // 2)
    tallies = []
    for s in sums:
        order = torch.randperm(len(s), generator=rng)
        tally = torch.zeros(groups, s.shape[1], dtype=torch.float64)
        tallies.append(tally.index_add_(0, group_of(len(s), groups), s[order]))

    def shift(a: Tensor, b: Tensor) -> Tensor:
        return _gaussian_kl(*_from_sums(a, new.d), *_from_sums(b, new.d))

    def replicate(keep: Tensor) -> Float[Tensor, "b 1"]:
        return shift(*(keep.double() @ t for t in tallies))[:, None]

    replicates = leave_out(replicate, groups=groups, pairs=False)
    e = replicates.estimate(0, About(new.n, BOTH, rng.initial_seed()), unit="nats", scale="distance")
    both = torch.cat(sums)
    total, reached = both.sum(0), 0
    for part in blocks(SHUFFLES, BATCH):
        chance = torch.rand(part.stop - part.start, len(both), generator=rng)
        called_new = torch.zeros_like(chance, dtype=torch.float64)
        called_new.scatter_(1, chance.topk(new.n, dim=1).indices, 1.0)
        some = called_new @ both
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


def _dimensions(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> list[Shift]:
    """Kolmogorov-Smirnov in every dimension, with Holm's correction; the least likely dimension first."""
    tests = [kolmogorov_smirnov(x, y) for x, y in zip(a.double().T, b.double().T, strict=True)]
    corrected = holm([t.p_value for t in tests])
    order = sorted(range(len(tests)), key=lambda j: tests[j].p_value)
    return [Shift(j, tests[j].statistic, corrected[j]) for j in order]


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

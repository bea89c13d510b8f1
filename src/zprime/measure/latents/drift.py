"""Drift: do the codes of new rows still fit the latent distribution that was shipped?

They are compared with the codes of held-out rows, by three tests: of the density that r gives the codes, of their mean
and covariance, and of each dimension by itself.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, covariances
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError
from zprime.latent.gaussian import moments
from zprime.measure.prior import prior_log_prob
from zprime.measure.study import Split, counted
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
    new: Split,
    heldout: Split,
    *,
    source: str = "r",
    rng: torch.Generator,
    prior: LatentDistribution | None = None,
) -> Drift:
    """Compare posteriors of new rows with those of held-out rows: one draw z ~ q(z|x) each.

    Means and moments are weighted, with errors by group. The tests know neither weights nor groups: they get one row of
    each group, and rows in proportion to their weights (`Design.independent`). Such rows are independent draws from the
    weighted population, so the tests keep their level, at the price of rows. To shuffle whole groups with their weights
    would be cheaper in rows, but would also find sizes of groups and weights that have changed where the population has
    not.

    Args:
        r: the latent distribution; must know its density.
        new: posteriors of new rows, by the same encoder, with their weights and groups.
        heldout: posteriors of held-out rows.
        source: name of `r`.
        rng: decides draws, shuffles, and which rows the tests get.
        prior: p(z); None is N(0, I).

    Raises:
        ArrayError: fewer than 8 rows, or independent rows, or other latents.
    """
    new, heldout = counted(new), counted(heldout)
    n, m = new.posteriors.data, heldout.posteriors.data
    if min(n, m) < FEWEST:
        raise ArrayError(f"new data: expected at least {FEWEST} rows, held-out ones too, got {n} and {m}")
    d = new.posteriors.d
    if d != heldout.posteriors.d or r.d != d:
        raise ArrayError(f"new data: expected {r.d} latents, got {d} (held-out {heldout.posteriors.d})")
    seed, names, both = rng.initial_seed(), ("new", "heldout"), (new, heldout)
    kept = [s.design.independent(s.n, fork(rng, "independent", name)) for s, name in zip(both, names, strict=True)]
    if min(map(len, kept)) < FEWEST:
        raise ArrayError(
            f"new data: expected at least {FEWEST} independent rows, held-out ones too, got {len(kept[0])} and "
            f"{len(kept[1])} (one of each group, and in proportion to the weights); give more groups, or weights that "
            "differ less"
        )
    codes = [s.posteriors.draw(rng=fork(rng, name)) for s, name in zip(both, names, strict=True)]
    density = [r.log_prob(z).double() for z in codes]
    gains = [
        mean_estimate(v - prior_log_prob(prior, z), unit=UNIT, split=s.name, seed=seed, design=s.design)
        for v, z, s in zip(density, codes, both, strict=True)
    ]
    density_p = rank_test(density[0][kept[0]], density[1][kept[1]])
    shuffle = fork(rng, "shuffle")
    shift = _shift(new, heldout, rng=shuffle)
    moments_p = _shuffled(*(s.posteriors.take(k) for s, k in zip(both, kept, strict=True)), rng=shuffle)
    dimensions = _dimensions(codes[0][kept[0]], codes[1][kept[1]])
    p_value = min(1.0, 3 * min(density_p, moments_p, dimensions[0].p_value))
    measured = Drift(
        source=source,
        rows=n,
        tested=len(kept[0]),
        log_density=difference_of_means(
            density[0], density[1], unit=UNIT, split=BOTH, seed=seed, designs=(new.design, heldout.design)
        ),
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


def _shift(new: Split, heldout: Split, *, rng: torch.Generator) -> Estimate:
    """The KL between the moments, and its error by the jackknife over 30 blocks of rows, or of groups."""
    d = new.posteriors.d
    units = [s.design.units(s.n) for s in (new, heldout)]
    parts = min(GROUPS, *(u // 2 for u in units))
    tallies = [_tally(s, parts, rng) for s in (new, heldout)]

    def replicate(keep: Tensor) -> Float[Tensor, "b 1"]:
        return _gaussian_kl(*(m for t in tallies for m in _from_sums(keep.double() @ t, d)))[:, None]

    n = new.design.effective(new.n)
    replicates = leave_out(replicate, groups=parts, pairs=False)
    e = replicates.estimate(0, About(n, BOTH, rng.initial_seed()), unit="nats", scale="distance")
    return e if units[0] == new.n else replace(e, groups=units[0])


def _tally(split: Split, parts: int, rng: torch.Generator) -> Float[Tensor, "g f"]:
    """Weighted sums of `_row_moments` over `parts` blocks of rows at random; rows of a group are in one block."""
    design = split.design
    unit = torch.arange(split.n) if design.groups is None else torch.unique(design.groups, return_inverse=True)[1]
    order = torch.randperm(int(unit.max()) + 1, generator=rng)
    block = torch.empty_like(order).index_copy_(0, order, group_of(len(order), parts))[unit]
    sums = _row_moments(split.posteriors)
    sums = sums if design.weights is None else sums * (split.n * design.shares(split.n))[:, None]
    return torch.zeros(parts, sums.shape[1], dtype=torch.float64).index_add_(0, block, sums)


def _shuffled(new: MemoryPosteriors, heldout: MemoryPosteriors, *, rng: torch.Generator) -> float:
    """The p-value of the shift by shuffling rows between the two, which are independent and count the same."""
    d = new.d
    both = torch.cat([_row_moments(p) for p in (new, heldout)])

    def shift(some: Tensor) -> Tensor:
        return _gaussian_kl(*_from_sums(some, d), *_from_sums(both.sum(0) - some, d))

    seen, reached = float(shift(both[: new.n].sum(0))), 0
    for part in blocks(SHUFFLES, BATCH):
        chance = torch.rand(part.stop - part.start, len(both), generator=rng)
        called_new = torch.zeros_like(chance, dtype=torch.float64)
        called_new.scatter_(1, chance.topk(new.n, dim=1).indices, 1.0)
        reached += int((shift(called_new @ both) >= seen).sum())
    return (reached + 1) / (SHUFFLES + 1)


def _row_moments(p: MemoryPosteriors) -> Float[Tensor, "n f"]:
    """Per row: 1, mean, and E[z z^T], so that moments of any subset are sums."""
    mean = p.mean.double()
    second = mean[:, :, None] * mean[:, None, :] + covariances(p.mean, p.scale)
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


def _rows(d: Drift) -> str:
    """The new rows in words, with how many are independent where that is not all."""
    return f"{d.rows} new rows" if d.tested == d.rows else f"{d.rows} new rows ({d.tested} of them independent)"


def _sentence(d: Drift) -> str:
    chance = "p < 0.001" if d.p_value < 0.001 else f"p = {d.p_value:.3f}"
    if not d.drifted:
        return (
            f"No drift seen: codes of {_rows(d)} fit {d.source} as codes of held-out rows do ({chance}; log r "
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
        f"The {_rows(d)} have drifted ({chance}). {d.source} finds their codes {abs(e.value):.2f} ± {e.stderr:.2f} "
        f"nats per row {word} likely than held-out codes; their mean and covariance are {d.moments.value:.3g} nats "
        f"away; z{d.dimensions[0].dimension + 1} has moved most. It is {still} (ELBO gain {d.gain} nats per row; "
        f"{d.gain_heldout} on held-out rows). {advice}"
    )

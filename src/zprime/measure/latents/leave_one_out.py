"""What is memorised: gains of training rows with their own component and without it, and of held-out rows.

docs/theory.md, section 3. For latent distributions with one component a training row: the aggregated posterior, and
exemplars at the bandwidth that they have.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.arrays import blocks, gaussian_log_prob, in_proportion, weighed
from zprime.components import PAIRS, Diagonal, Full
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.kernels import Products, diagonal_ratio_form, log_ratio_sums, ratios
from zprime.latent import Active, Aggregated, Exemplars
from zprime.latent.active import restrict
from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.gains import DIVERGE, RowGains
from zprime.measure.prior import closed, prior_log_prob
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.results.latents import LeaveOneOut
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.statistics.estimate import Estimate, finite_mean, skew_checked

PAIRS_SCORED = (
    500 * 60_000
)  # rows times components: 2 s for the ELBO gain, 5 s for the exact-posterior gain, with 16 latents
LEAST = 100
DRAWS = 4
UNIT = "nats per row"


@dataclass(frozen=True)
class RowMixture:
    """A mixture of which component i belongs to training row i, on the dimensions `dims`; elsewhere it is the prior."""

    components: Diagonal | Full
    dims: list[int]


def row_mixture(r: LatentDistribution, train: MemoryPosteriors) -> RowMixture | None:
    """The components of `r`, one for each training row; None where `r` is not a mixture of that form.

    Exemplars of some of the rows only give None, and so do those with a full kernel and diagonal posteriors.
    """
    if isinstance(r, Active):
        inner = row_mixture(r.base, _some(train, list(r.dims)))
        return None if inner is None else RowMixture(inner.components, [r.dims[j] for j in inner.dims])
    if not isinstance(r, Aggregated | Exemplars) or not torch.equal(r.mean, train.mean):
        return None
    c = r.components
    return RowMixture(c, list(range(r.d))) if isinstance(c, Diagonal | Full) and len(c.mean) == train.n else None


def _some(train: MemoryPosteriors, dims: list[int]) -> MemoryPosteriors:
    return restrict(train, dims)


def leave_one_out(
    candidates: Candidates,
    split: Split,
    heldout: RowGains,
    *,
    seed: int,
    rows: int = 0,
    progress: Progress = silent,
) -> dict[CandidateId, LeaveOneOut]:
    """Measure every blend of the candidates that keeps one component a training row.

    A component is masked and the rest renormalised by 1 - w_i; densities are never subtracted. Both gains of a row
    come from one pass: the component that was left out is added to the sum of all others. Where rows come in groups,
    all components of the row's group are left out: its other rows tell of it what no fresh group would.

    Args:
        candidates: the candidates.
        split: the training split, whose posteriors they were fitted to.
        heldout: gains of held-out rows, measured with the same candidates.
        seed: of the choice of rows and of their draws.
        rows: training rows that are scored, drawn at random; 0 for all of them up to 5,000 or so, 500 of 60,000, and
            fewer in proportion above 1,024 dimensions and with full covariances.
        progress: called once a candidate.

    Raises:
        UsageError: fewer than two training rows (or groups), or one that has all the weight: nothing would be left.
    """
    train = split.posteriors
    mixtures = {k: m for k, r in candidates.bases.items() if (m := row_mixture(r, train)) is not None}
    rng = stream(seed, "leave one out")
    most = rows or scored(train.n, train.d, full=train.form == "full")
    picked = train.pick(max(1, most * train.data // train.n), rng=rng)
    taken = split.take(picked)
    some = taken.posteriors
    z = some.draw(rng=rng, draws=DRAWS)
    measured: dict[CandidateId, LeaveOneOut] = {}
    for step, (base, m) in enumerate(mixtures.items()):
        progress("leave-one-out", step, len(mixtures))
        gains = {Gain.ELBO: masked_elbo_gain(m, picked, z, prior=candidates.prior, groups=split.groups)}
        if closed(candidates.prior) and train.datum is None:
            gains[Gain.EXACT_POSTERIOR] = masked_exact_posterior_gain(m, picked, some, groups=split.groups)
        for wanted, blend in candidates.blends.items():
            if blend.base == base:
                measured[wanted] = _summarise(wanted, blend.epsilon, gains, taken, heldout, seed)
    progress("leave-one-out", len(mixtures), len(mixtures))
    return measured


def scored(n: int, d: int, *, full: bool = False) -> int:
    """How many of n training rows are scored: as many pairs as can be, and fewer above 1,024 dimensions.

    With full covariances a pair takes a Cholesky factor of its own, 2 d times as long.
    """
    pairs = in_proportion(PAIRS_SCORED, d) // (2 * d if full else 1)
    return max(LEAST, pairs // n)


@dataclass(frozen=True)
class MaskedGains:
    """Log r/p of n rows with their own component and without it, for each of k draws; k = 1 where nothing is drawn."""

    with_own: Float[Tensor, "k n"]
    others: Float[Tensor, "k n"]


def masked_elbo_gain(
    m: RowMixture,
    position: Int[Tensor, " n"],
    z: Float[Tensor, "m d"],
    *,
    prior: LatentDistribution | None = None,
    groups: Int[Tensor, " k"] | None = None,
) -> MaskedGains:
    """ELBO gain at draws of the rows that have the components at `position`: draw 0 of all rows, then draw 1.

    With the group of every component in `groups`, a row's group is left out, and is its own.
    """
    c, z = m.components, z[:, m.dims]
    log_p, shape = prior_log_prob(prior, z), (-1, len(position))
    groups = _shared(groups)
    if groups is None:
        repeated = position.repeat(len(z) // len(position))
        others = c.prepared.log_prob(z, leave_out=repeated)
        scale = c.scale if isinstance(c, Diagonal) else c.scale_tril
        theirs = c.mean[position].double(), scale[position].double()
        own = torch.cat([gaussian_log_prob(part.double(), *theirs) for part in torch.split(z, len(position))])
        own = own + c.log_weight[repeated].double()
    else:
        others, own = _by_group(c, groups, groups[position].repeat(len(z) // len(position)), z)
    with_own = torch.logaddexp(others, own)
    return MaskedGains((with_own - log_p).reshape(shape), (others - log_p).reshape(shape) - _left(c, position, groups))


def masked_exact_posterior_gain(
    m: RowMixture,
    position: Int[Tensor, " n"],
    posteriors: MemoryPosteriors,
    *,
    groups: Int[Tensor, " k"] | None = None,
) -> MaskedGains:
    """Exact-posterior gain, in closed form, of the rows that have the components at `position`; groups as above."""
    c, own_rows = m.components, posteriors if len(m.dims) == posteriors.d else restrict(posteriors, m.dims)
    mean, scale = own_rows.mean, own_rows.scale
    dtype = torch.promote_types(mean.dtype, c.mean.dtype)
    with_own = torch.empty(1, len(position), dtype=torch.float64)
    others = torch.empty(1, len(position), dtype=torch.float64)
    groups = _shared(groups)
    names = torch.arange(len(c.mean)) if groups is None else groups
    if isinstance(c, Full):
        products = Products(c.mean, c.scale_tril)
        fast = products.fast(mean, scale)
        size = products.size(fast=fast)

        def terms_of(rows: slice) -> Tensor:
            return products.beside(mean[rows], scale[rows], fast=fast)[0].to(dtype)

    else:
        size, width = PAIRS // len(c.mean), c.scale
        form = diagonal_ratio_form(mean, scale, c.mean, width)
        if len(c.mean) > ratios.PANEL:
            q = mean.to(dtype), scale.to(dtype)
            out, own = log_ratio_sums(form, q, (c.log_weight, c.mean, width), groups=(names[position], names))
            return MaskedGains(torch.logaddexp(out, own)[None], out[None] - _left(c, position, groups))

        def terms_of(rows: slice) -> Tensor:
            return form(mean[rows].to(dtype), scale[rows].to(dtype), c.mean.to(dtype), width.to(dtype))

    for rows in blocks(len(position), max(1, size)):
        terms = terms_of(rows)
        terms = weighed(terms, c.log_weight.to(dtype)).double()
        if groups is None:
            at = position[rows, None]
            own = terms.gather(1, at)[:, 0]
            terms.scatter_(1, at, -torch.inf)
        else:
            theirs = names[position[rows], None] == names
            own = torch.logsumexp(terms.masked_fill(~theirs, -torch.inf), 1)
            terms.masked_fill_(theirs, -torch.inf)
        others[0, rows] = torch.logsumexp(terms, 1)
        with_own[0, rows] = torch.logaddexp(others[0, rows], own)
    return MaskedGains(with_own, others - _left(c, position, groups))


def _shared(groups: Int[Tensor, " k"] | None) -> Int[Tensor, " k"] | None:
    """None where every group is one row: the same numbers to the last bit as without groups."""
    return None if groups is None or len(torch.unique(groups)) == len(groups) else groups


def _by_group(
    c: Diagonal | Full, groups: Int[Tensor, " k"], theirs: Int[Tensor, " m"], z: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Log of the weighted sum of all other groups' components, and of the own group's, at draws of groups `theirs`."""
    others, own = torch.empty(2, len(z), dtype=torch.float64)
    for group in torch.unique(theirs):
        at, inside = theirs == group, groups == group
        for out, kept in ((others, ~inside), (own, inside)):
            some = _those(c, kept)
            out[at] = some.value(z[at]) if bool(kept.any()) else -torch.inf
    return others, own


def _those(c: Diagonal | Full, kept: Bool[Tensor, " k"]) -> Diagonal | Full:
    if isinstance(c, Full):
        return Full(c.log_weight[kept], c.mean[kept], c.scale_tril[kept])
    return Diagonal(c.log_weight[kept], c.mean[kept], c.scale[kept])


def _left(c: Diagonal | Full, position: Int[Tensor, " n"], groups: Int[Tensor, " k"] | None) -> Float[Tensor, " n"]:
    """Log(1 - w): what is left of the weights without a row, or without its group."""
    if groups is None:
        weight = c.log_weight.double()[position].exp()
    else:
        weight = Design(groups=groups).totals(c.log_weight.double().exp())[torch.unique(groups, return_inverse=True)[1]]
        weight = weight[position]
    if bool((weight > 1 - 1e-12).any()):
        what = f"of {len(c.mean)} training rows" if groups is None else f"of {len(torch.unique(groups))} groups"
        raise UsageError(
            f"leave-one-out: one {what} has all the weight: nothing would be left; it needs at least two "
            f"{'rows' if groups is None else 'groups'}"
        )
    return torch.log1p(-weight)


def _summarise(
    wanted: CandidateId,
    epsilon: float,
    gains: Mapping[Gain, MaskedGains],
    train: Split,
    heldout: RowGains,
    seed: int,
) -> LeaveOneOut:
    def estimate(values: Tensor, used: int | None, *, of: Split | RowGains = train) -> Estimate:
        name = of.name if isinstance(of, Split) else of.split
        e = finite_mean(values, unit=UNIT, split=name, seed=used, because=DIVERGE, design=of.design)
        return skew_checked(e, values, of.design)

    estimates: dict[Gain, dict[str, Estimate]] = {}
    memorised: dict[Gain, Estimate] = {}
    for gain, g in gains.items():
        zero = torch.zeros_like(g.others)
        # the prior is mixed in inside the log, draw by draw
        with_own, others = (mix(v, zero, epsilon).mean(0) for v in (g.with_own, g.others))
        estimates[gain] = {
            "self-included": estimate(with_own, seed),
            "leave-one-out": estimate(others, seed),
        }
        held = heldout.of(gain)
        if wanted in held:
            used = seed if gain is Gain.ELBO else None
            estimates[gain]["held-out"] = estimate(held[wanted], used, of=heldout)
        both = with_own.isinf() & others.isinf()  # a gain that diverges with its own row and without it
        memorised[gain] = estimate((with_own - others).masked_fill(both, torch.inf), seed)
    return LeaveOneOut(estimates[Gain.ELBO], estimates.get(Gain.EXACT_POSTERIOR, {}), memorised)

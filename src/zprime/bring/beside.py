"""An r(z) that ignores conditions beside an r(z|c), both as gains over p(z|c), row by row (docs/theory.md, section 9).

In units of p(z|c_i), u = (z - loc_i) / scale_i, the prior of row i is N(0, I), and an r(z) is r(loc_i + scale_i u)
times the product of scale_i: a distribution of its own for each condition.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, standard_log_prob
from zprime.bring.coordinates import Coordinates
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.affine import Affine
from zprime.latent.defensive import Defensive
from zprime.latent.gaussians import Mixture
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.gains import ELBO_DRAWS, RowGains, log_means, measure_gains
from zprime.measure.likelihood.scores import scores
from zprime.measure.study import Split
from zprime.results.audit import Scores
from zprime.results.names import CandidateId
from zprime.rng import fork, stream

Given = Mapping[str, LatentDistribution | Fit[LatentDistribution]]
MARGINAL = "marginal"
DRAWS = 400  # of a row, where the exact-posterior gain has no closed form
ROWS = 256  # that are drawn for together: part of the random streams' names, so a constant


@dataclass(frozen=True)
class Beside:
    """Gains over p(z|c) on held-out rows, nats a row.

    Attributes:
        conditional: name -> of an r(z|c).
        unconditional: name -> of an r(z). `marginal` is the mean of p(z|c) over the training rows: where the codes are
            distributed as p(z|c) says, no r(z) is better, and its ELBO gain is minus the information of c on z.
    """

    conditional: Mapping[str, Scores]
    unconditional: Mapping[str, Scores]


def compare(conditional: Given, unconditional: Given, heldout: Split, at: Coordinates, *, seed: int) -> Beside:
    """Gains of distributions of u, and of distributions of z.

    Args:
        conditional: name -> distribution of u.
        unconditional: name -> distribution of z.
        heldout: posteriors of the rows, of u.
        at: p(z|c) of the rows, [n, d].
        seed: of the draws, which all of them share.

    Raises:
        UsageError: a distribution of other dimensions, or without a density; a name that cannot be used.
    """
    rng = stream(seed, "beside")
    told, plain = _checked(conditional, heldout.posteriors.d), _checked(unconditional, heldout.posteriors.d)
    over = of_rows(plain, heldout, at, rng=rng)
    scored = {name: scores(over, CandidateId(name), seed) for name in plain}
    if not told:
        return Beside({}, scored)
    candidates = Candidates(told)
    found = measure_gains(candidates, heldout, rng=rng, draws=DRAWS)
    ids = {i.name: i for i in candidates.leading}  # of what was given with a share of the prior, that and not its base
    return Beside({name: scores(found, ids[name], seed) for name in told}, scored)


def marginal(at: Coordinates) -> Mixture:
    """p(z): the mean of p(z|c) over rows."""
    rows, counts = torch.unique(torch.cat([at.loc, at.scale], 1), dim=0, return_counts=True)
    loc, scale = rows.chunk(2, 1)
    return Mixture((counts.double() / counts.sum()).log(), loc.contiguous(), scale.contiguous())


def of_rows(
    candidates: Mapping[str, LatentDistribution], split: Split, at: Coordinates, *, rng: torch.Generator
) -> RowGains:
    """ELBO and exact-posterior gains of distributions of z over p(z|c), row by row."""
    posteriors = split.posteriors
    u = posteriors.draw(rng=fork(rng, "code"), draws=ELBO_DRAWS)
    log_p = standard_log_prob(u)
    found = RowGains(split.name, posteriors.row_ids, draws=DRAWS, weights=split.weights, groups=split.groups)
    for name, r in candidates.items():
        wanted = CandidateId(name)
        found.elbo[wanted] = (_log_prob(r, u, at) - log_p).reshape(ELBO_DRAWS, -1).mean(0)
        closed = _log_ratio(r, split, at)
        if closed is None:
            closed, found.exact_posterior_quarter[wanted] = _sampled(r, split, at, rng=fork(rng, "exact posterior"))
        found.exact_posterior[wanted] = closed
    return found


def _checked(given: Given, d: int) -> dict[str, LatentDistribution]:
    found = {name: r.distribution if isinstance(r, Fit) else r for name, r in given.items()}
    for name, r in found.items():
        if r.d != d:
            raise UsageError(f"{name}: expected {d} latents, as the posteriors have, got {r.d}")
        if r.density == "none":
            raise UsageError(f"{name}: expected a distribution with a log-density, got {r.label}, which has draws only")
    return found


def _log_prob(r: LatentDistribution, u: Float[Tensor, "m d"], at: Coordinates) -> Float[Tensor, " m"]:
    """Log r in units of the prior of each row; draw 0 of all rows, then draw 1 of all rows."""
    draws = len(u) // len(at.loc)
    z = at.loc.repeat(draws, 1) + at.scale.repeat(draws, 1) * u.double()
    return r.log_prob(z) + at.scale.log().sum(1).repeat(draws)


def _log_ratio(r: LatentDistribution, split: Split, at: Coordinates) -> Float[Tensor, " n"] | None:
    """Log E_q[r(z)/p(z|c)] in closed form, all rows of one condition at a time; None where there is none."""
    while isinstance(r, Affine) and r.scale.ndim == 1:  # as its base, where p(z|c) and the row are moved instead
        at, r = Coordinates((at.loc - r.loc) / r.scale, at.scale / r.scale), r.base
    if isinstance(r, Defensive):
        parts = [_log_ratio(part, split, at) for part in (r.base, r.prior)]
        return None if parts[0] is None or parts[1] is None else mix(parts[0], parts[1], r.epsilon)
    mean, scale = split.posteriors.mean, split.posteriors.scale
    ratio = torch.empty(len(mean), dtype=torch.float64)
    for rows in _alike(at):
        here = Coordinates(at.loc[rows[0]], at.scale[rows[0]]).inside(r)
        tilted = here.tilt(mean[rows], scale[rows], draws=0, rng=torch.Generator())
        if tilted is None:
            return None
        ratio[rows] = tilted.log_ratio
    return ratio


def _alike(at: Coordinates) -> Iterator[Int[Tensor, " m"]]:
    """Rows of one p(z|c)."""
    which, counts = torch.unique(torch.cat([at.loc, at.scale], 1), dim=0, return_inverse=True, return_counts=True)[1:]
    yield from which.argsort(stable=True).split(counts.tolist())


def _sampled(
    r: LatentDistribution, split: Split, at: Coordinates, *, rng: torch.Generator
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log E_q[r(z)/p(z|c)] by draws of q and of r in turn, and by the first quarter of them.

    Draws of q alone would miss a narrow r beside them. With both no weight is above 2 min(q, r)/p.
    """
    parts = []
    for block in blocks(split.n, ROWS):
        mine, here = split.posteriors.take(torch.arange(split.n)[block]), Coordinates(at.loc[block], at.scale[block])
        half = (DRAWS // 2, 1)
        of_q = mine.draw(rng=fork(rng, "q", block.start), draws=half[0]).double()
        z = r.sample(len(of_q), rng=fork(rng, "r", block.start)).double()
        of_r = (z - here.loc.repeat(half)) / here.scale.repeat(half)
        u = torch.stack([t.reshape(half[0], mine.n, mine.d) for t in (of_q, of_r)], 1).reshape(-1, mine.d)
        log_q, log_r = mine.own_log_prob(u), _log_prob(r, u, here)
        terms = log_q + log_r - standard_log_prob(u) - torch.logaddexp(log_q, log_r) + math.log(2)
        parts.append(log_means(terms.reshape(DRAWS, -1).T))
    full, quarter = zip(*parts, strict=True)
    return torch.cat(full), torch.cat(quarter)

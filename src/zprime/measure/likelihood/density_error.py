"""The error of gains that comes from log r itself, where that is a bound or an estimate.

All rows share the random numbers (or the steps) behind such a log r, so no number of rows averages its error away.
It is measured by `LatentDistribution.replicates`: the same gain by each of them, on the same draws of some rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.decoding import log_probs_at, log_probs_of_rows
from zprime.measure.likelihood.gains import ELBO_DRAWS, RowGains
from zprime.measure.likelihood.proposal import Plan, propose
from zprime.measure.prior import prior_log_prob
from zprime.measure.study import Split
from zprime.results.names import CandidateId, Gain
from zprime.rng import fork
from zprime.statistics.design import Design
from zprime.statistics.estimate import Estimate, widened
from zprime.vae import Decoder

ROWS = 16  # rows that the error is measured on: fewer than all give a larger one, for less is averaged
Errors = dict[Gain, dict[CandidateId, float]]
Mean = Callable[[Tensor], float]
"""Mean over rows of a gain, weighted as these are, up to what does not depend on log r, from log r at the draws."""


@torch.no_grad()
def density_errors(
    candidates: Candidates, split: Split, model: Decoder | None, draws: int, *, rng: torch.Generator
) -> Errors:
    """By how much the mean gains move, root mean square, from log r as it is to each of its replicates.

    Args:
        candidates: the candidates.
        split: the rows that the gains are measured on; at most 16 of them, evenly spaced, are used.
        model: the decoder; without it, or without rows, there is no error of a likelihood gain.
        draws: draws a row of the likelihood gain, a multiple of 4; 0 leaves out what needs them.
        rng: source of randomness.

    Returns:
        Gain -> candidate -> standard error in nats a row, of the candidates whose log r has replicates.

    Raises:
        UsageError: too few draws for the number of candidates.
    """
    names = [name for name, r in candidates.bases.items() if r.replicates()]
    if not names:
        return {}
    known = split.posteriors.datum is not None and split.posteriors.log_q is not None
    if known:
        return _of_draws(candidates.only(names), _some_data(split), model if draws else None)
    some = split.take(torch.linspace(0, split.n - 1, min(ROWS, split.n)).long())
    few, posteriors = candidates.only(names), some.posteriors
    z = posteriors.draw(rng=fork(rng, "code"), draws=ELBO_DRAWS)
    made = {name: [r.log_prob(z) for r in _made(few, some.each(ELBO_DRAWS), name)] for name in names}
    errors: Errors = {Gain.ELBO: _errors(few, made, prior_log_prob(few.prior, z), _mean(some.design))}
    if not draws or posteriors.form == "points":
        return errors
    plan = Plan.of(few, draws, modes=some.modes is not None)
    here, q = few.told(some.told), (posteriors.mean, posteriors.scale)
    drawn = propose(here, plan, *q, fork(rng, "likelihood"), some.modes)
    flat, shape = drawn.z.flatten(0, 1), drawn.prior.shape
    for name in names:
        _, *others = _made(few, some.told, name)
        made[name] = [drawn.base[name], *(r.log_prob(flat).reshape(shape) for r in others)]
    sampled = {name: values for name, values in made.items() if name not in drawn.log_ratio}  # others: closed forms
    under_q = _log_mean(drawn.posterior - drawn.prior - drawn.proposal, some.design)
    errors[Gain.EXACT_POSTERIOR] = _errors(few, sampled, drawn.prior, under_q)
    if model is not None and some.rows is not None:
        with_x = _log_mean(log_probs_of_rows(model, drawn, some.rows.x) - drawn.proposal, some.design)
        errors[Gain.LIKELIHOOD] = _errors(few, made, drawn.prior, with_x)
    return errors


def _some_data(split: Split) -> Split:
    """All draws of at most 16 data, evenly spaced."""
    index = ByDatum.of(split.posteriors).index
    kept = torch.linspace(0, int(index.max()), min(ROWS, int(index.max()) + 1)).long()
    return split.take(torch.isin(index, kept).nonzero().flatten())


def _of_draws(few: Candidates, some: Split, model: Decoder | None) -> Errors:
    """The same where rows are draws with a known log q: on these draws."""
    by, z = ByDatum.of(some.posteriors), some.posteriors.mean
    log_p, design = prior_log_prob(few.prior, z), by.design(some)
    names = [name for name, r in few.bases.items() if r.replicates()]
    made = {name: [r.log_prob(z) for r in _made(few, some.told, name)] for name in names}
    means: dict[Gain, Mean] = {
        Gain.ELBO: lambda log_r: design.mean(by.mean(log_r)),
        Gain.EXACT_POSTERIOR: lambda log_r: design.mean(by.log_mean(log_r - log_p)),
    }
    if model is not None and some.rows is not None and some.posteriors.log_q is not None:
        fixed = log_probs_at(model, z, some.rows.x, torch.arange(len(z))) - some.posteriors.log_q
        means[Gain.LIKELIHOOD] = lambda log_r: design.mean(by.log_mean(log_r + fixed))
    return {gain: _errors(few, made, log_p, mean) for gain, mean in means.items()}


def with_density_error(e: Estimate, row_gains: RowGains, gain: Gain, wanted: CandidateId) -> Estimate:
    """A mean over rows with the error of log r in its standard error and interval."""
    error = row_gains.density_error.get(gain, {}).get(wanted)
    if error is None:
        return e
    return widened(e, error, because=f"its log r(z) is not exact, which is ± {error:.2g} of the error")


def _made(candidates: Candidates, told: Tensor | None, name: str) -> list[LatentDistribution]:
    """A base, and its replicates, as they are for some rows."""
    r = candidates.told(told).bases[name]
    return [r, *r.replicates()]


def _errors(
    candidates: Candidates, made: Mapping[str, Sequence[Tensor]], log_p: Float[Tensor, "*n"], mean: Mean
) -> dict[CandidateId, float]:
    """The error of one gain, of every blend of the bases in `made`: log r as it is, and by each replicate."""
    errors = {}
    for i, blend in candidates.blends.items():
        if blend.base in made:
            own, *others = (mean(mix(log_r, log_p, blend.epsilon)) for log_r in made[blend.base])
            errors[i] = math.sqrt(sum((other - own) ** 2 for other in others) / len(others))
    return errors


def _mean(design: Design) -> Mean:
    """Mean over rows of the mean over draws: draw 0 of all rows, then draw 1."""
    return lambda log_r: design.mean(log_r.reshape(ELBO_DRAWS, -1).mean(0))


def _log_mean(log_weight: Float[Tensor, "b k"], design: Design) -> Mean:
    """Mean over rows of the log of the mean weight, for draws with these log-weights beside log r."""

    def mean(log_r: Tensor) -> float:
        return design.mean(torch.logsumexp(log_r + log_weight, 1))

    return mean

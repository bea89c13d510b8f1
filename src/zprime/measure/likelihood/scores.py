"""Gains of one candidate, row by row -> what the table shows of them: means with errors, medians and proportions."""

from dataclasses import replace

import torch

from zprime.errors import NumericalError, UsageError
from zprime.measure.likelihood.density_error import with_density_error
from zprime.measure.likelihood.gains import DIVERGE, PRIOR, RowGains, deciding, moved
from zprime.results.audit import Score, Scores
from zprime.results.names import CandidateId, Gain
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate, mean_estimate

UNIT = "nats per row"


def elbo_estimate(row_gains: RowGains, wanted: CandidateId, seed: int) -> Estimate:
    """ELBO gain of one candidate."""
    e = mean_estimate(row_gains.elbo[wanted], unit=UNIT, split=row_gains.split, seed=seed, design=row_gains.design)
    return with_density_error(e, row_gains, Gain.ELBO, wanted)


def exact_posterior_estimate(row_gains: RowGains, wanted: CandidateId, seed: int) -> Estimate:
    """Exact-posterior gain of one candidate; a row where it is infinite counts by its ELBO gain, a lower bound.

    Where it is an importance estimate, it is stable if it moves little from K/4 to K draws (`deciding`).
    """
    values = row_gains.exact_posterior[wanted]
    diverged = int(values.isinf().sum())
    values = torch.where(values.isinf(), row_gains.elbo[wanted], values)
    sampled = wanted in row_gains.exact_posterior_quarter
    used, design = seed if sampled or diverged else None, row_gains.design
    e = mean_estimate(values, unit=UNIT, split=row_gains.split, seed=used, design=design)
    if diverged:
        e = replace(e, because=f"{diverged} rows {DIVERGE}; they count by their ELBO gain, a lower bound")
    if not sampled:
        return e
    quarter = row_gains.exact_posterior_quarter[wanted]
    e = moved(e, values, quarter, row_gains.draws, design, limit=deciding(e.value))
    how = "by the draws of q" if row_gains.brought else "by importance sampling"
    e = replace(e, because=f"no closed form, {how}: {e.because}")
    return with_density_error(e, row_gains, Gain.EXACT_POSTERIOR, wanted)


def likelihood_estimate(row_gains: RowGains, wanted: CandidateId, seed: int) -> Estimate:
    """Likelihood gain of one candidate.

    It is stable if its move from K/4 to K draws is below its distance from 0.05 nats, or 0.05 nats.
    """
    e = mean_estimate(
        row_gains.likelihood[wanted], unit=UNIT, split=row_gains.split, seed=seed, design=row_gains.design
    )
    if wanted == PRIOR:
        return e
    full, quarter = row_gains.likelihood[wanted], row_gains.quarter[wanted]
    e = moved(e, full, quarter, row_gains.draws, row_gains.design, limit=deciding(e.value))
    return with_density_error(e, row_gains, Gain.LIKELIHOOD, wanted)


def scores(row_gains: RowGains, wanted: CandidateId, seed: int) -> Scores:
    """All gains of one candidate on one split.

    Raises:
        UsageError: its ELBO gain was not measured.
    """
    elbo, exact_posterior, likelihood = (_score(row_gains, gain, wanted, seed) for gain in Gain)
    if elbo is None:
        raise UsageError(f"gains: expected the ELBO gain of {wanted}, got none")
    return Scores(elbo, exact_posterior, likelihood)


def _score(row_gains: RowGains, gain: Gain, wanted: CandidateId, seed: int) -> Score | None:
    values = row_gains.of(gain).get(wanted)
    if values is None:
        return None
    estimate = {
        Gain.ELBO: elbo_estimate,
        Gain.EXACT_POSTERIOR: exact_posterior_estimate,
        Gain.LIKELIHOOD: likelihood_estimate,
    }[gain]
    design = row_gains.design
    khat = row_gains.khat[wanted] if gain is Gain.LIKELIHOOD else None
    try:
        found = estimate(row_gains, wanted, seed)
    except NumericalError as error:
        raise NumericalError(f"{gain.value} gain of {wanted}: {error}") from error
    return Score(
        found,
        median=design.median(values),
        above=design.mean(values > 0),
        below=design.mean(values < THRESHOLDS.lost),
        diverged=int((~torch.isfinite(values)).sum()),
        # of few draws there is no k-hat
        khat=None if khat is None or bool(khat.isnan().any()) else design.mean(khat > THRESHOLDS.khat),
    )

"""The likelihood side of an audit: the gains, log p(x) under every candidate, and what the encoder loses."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from zprime.engine import in_threads
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings
from zprime.measure.likelihood.bits import bits_per_dimension, units
from zprime.measure.likelihood.calibration import calibration
from zprime.measure.likelihood.density_error import density_errors, with_density_error
from zprime.measure.likelihood.exchange import exchange_check, uncheckable
from zprime.measure.likelihood.finer import Measured, some_rows
from zprime.measure.likelihood.gains import PRIOR, RowGains, measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.likelihood.modes import searched
from zprime.measure.likelihood.sandwich import sandwich
from zprime.measure.likelihood.simulation import Simulator
from zprime.measure.study import Split, Study
from zprime.progress import Progress
from zprime.results.likelihood import Calibration, Exchange, LikelihoodSide, Sandwich
from zprime.results.names import CandidateId, Gain
from zprime.results.verdicts import Choice
from zprime.rng import fork
from zprime.statistics.estimate import Estimate

LOOK = 8  # rows from which the units of p(x|z) are told


def measure_splits(
    study: Study, candidates: Candidates, names: Sequence[str] = ("selection", "heldout")
) -> dict[str, RowGains]:
    """The gains on these splits, on at most `settings.rows` of the rows of each, side by side.

    Where modes are searched for, on at most `settings.repair` rows.
    """
    most = study.settings.repair if study.search else study.settings.rows

    def measure(split: Split, progress: Progress) -> RowGains:
        rng, draws = study.stream("audit", split.name), study.settings.draws
        picked = split.posteriors.pick(most, rng=rng)
        some = split.take(picked)
        some = searched(study, candidates, some, rng=study.stream("modes", split.name), progress=progress)
        gains = measure_gains(candidates, some, rng=rng, model=study.model, draws=draws, progress=progress)
        errors = density_errors(candidates, some, study.model, draws, rng=fork(rng, "density"))
        return replace(gains, density_error=errors)

    calls = [partial(measure, split) for split in study.splits if split.name in names]
    measured = in_threads(calls, workers=study.workers, progress=study.progress)
    return {row_gains.split: row_gains for row_gains in measured}


def check_choice(study: Study, candidates: Candidates, chosen: Choice) -> Exchange | None:
    """The exchange check of what the selection split chose; None for the prior, or where the check is left out."""
    best = CandidateId.parse(chosen.best)
    if best == PRIOR or chosen.gain is not Gain.LIKELIHOOD:
        return None
    return exchange_check(study, candidates, best, chosen.selection.value)


def likelihood_side(
    study: Study, candidates: Candidates, heldout: RowGains, *, best: str, draws: int
) -> LikelihoodSide | None:
    """Log p(x), bits, the encoder's gap, calibration and annealed bounds; None where no likelihood gain was measured.

    Args:
        study: what the audit works on.
        candidates: the candidates.
        heldout: gains of held-out rows.
        best: name of the candidate that the verdict looked at; the encoder is tested under it and under the prior.
        draws: draws a row that were asked for; where gains took fewer, some rows are measured with so many here.
    """
    model, rows = study.model, study.heldout.rows
    if model is None or rows is None or not heldout.likelihood:
        return None
    measured = _finer(study, candidates, heldout, draws)
    log_prob = {wanted: _log_prob(measured, wanted, study.seed) for wanted in heldout.likelihood}
    x, codes = rows.x[:LOOK], study.heldout.posteriors
    with torch.no_grad():
        mean = codes.mean[:LOOK] if codes.form == "points" else model.encode(x)[0]
    unit = units(model, x, mean, log_scale=study.data.log_scale)
    names = dict.fromkeys(("prior", best))
    found = {name: candidates.distribution(CandidateId.parse(name)) for name in names}
    gaussian = codes.form != "points" and not uncheckable(study)
    simulators = [Simulator(name, r, model, mean.dtype) for name, r in found.items()] if gaussian else []
    calibrations, sandwiches = _simulated(study, candidates, simulators)
    return LikelihoodSide(
        log_prob=log_prob,
        units=unit,
        bits={k: bits_per_dimension(e, unit) for k, e in log_prob.items()} if unit.meaningful else {},
        gaps={"heldout": inference_gap(measured, seed=study.seed)},
        calibration=calibrations,
        sandwiches=sandwiches,
    )


def _finer(study: Study, candidates: Candidates, few: RowGains, draws: int) -> Measured:
    """Gains of held-out rows beside those of some of them with `draws` draws, where they took fewer."""
    if few.brought or few.draws >= draws:
        return Measured(few)
    split, at = study.heldout, some_rows(len(few.ids))
    some = split.take(torch.isin(split.posteriors.row_ids, few.ids[at]).nonzero().flatten())
    some = searched(study, candidates, some, rng=study.stream("modes", split.name), progress=study.progress)
    rng = study.stream("finer", split.name)
    many = measure_gains(candidates, some, rng=rng, model=study.model, draws=draws, progress=study.progress)
    return Measured(few, at, many)


def _log_prob(measured: Measured, wanted: CandidateId, seed: int) -> Estimate:
    """Mean log p_r(x), stable if it moved little from a quarter of the draws to all."""
    e = measured.mean(measured.few.log_prob(wanted)[0], wanted, seed=seed)
    return with_density_error(e, measured.few, Gain.LIKELIHOOD, wanted)


def _simulated(
    study: Study, candidates: Candidates, simulators: list[Simulator]
) -> tuple[list[Calibration], list[Sandwich]]:
    """What is measured on simulated data, as far as it is asked for."""
    settings = study.settings
    calibrations, sandwiches = [], []
    for i, simulator in enumerate(simulators):
        if settings.simulated:
            study.progress("calibration", i, len(simulators))
            rng = study.stream("calibration", simulator.name)
            ranked = calibration(simulator, rng=rng, rows=settings.simulated, prior=study.prior)
            calibrations += [] if ranked is None else [ranked]
        if settings.ais:
            annealing = AISSettings(temperatures=settings.temperatures)
            sandwiches.append(sandwich(study, candidates, simulator, settings=annealing, rng=study.stream("ais")))
    return calibrations, sandwiches

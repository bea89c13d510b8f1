"""Log p_r(x) of simulated data between two bounds, and the likelihood gain's estimator beside them (Wu et al. 2017)."""

from dataclasses import replace

import torch

from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings, Annealer, Target
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.modes import searched
from zprime.measure.likelihood.simulation import SIMULATED, Simulator
from zprime.measure.study import Split, Study
from zprime.results.likelihood import Sandwich
from zprime.results.names import CandidateId
from zprime.rng import fork
from zprime.statistics.estimate import Estimate, mean_estimate

UNIT = "nats per row"
NARROW = 1.0  # nats: a wider sandwich says too little about the estimator


def sandwich(
    study: Study, candidates: Candidates, simulator: Simulator, *, settings: AISSettings, rng: torch.Generator
) -> Sandwich:
    """Simulate rows from one candidate, and measure their log p_r(x) in three ways.

    The chains start from the encoder's posteriors.

    Args:
        study: says how many rows are simulated and how many draws a row the likelihood gain takes.
        candidates: all candidates, whose proposal the likelihood gain uses.
        simulator: one of the candidates, by its name, and the model.
        settings: how long to anneal.
        rng: source of randomness.

    Raises:
        UsageError: settings that cannot be used, or a log-density without a gradient.
    """
    name, r, model = simulator.name, simulator.r, simulator.model
    simulated = simulator.simulate(study.settings.ais, rng=fork(rng, "simulate", name))
    target = Target(r, model, simulated.rows.x)
    annealing = fork(rng, "anneal", name)
    chains = Annealer(target, settings, rng=annealing, start=simulated.posteriors, progress=study.progress)
    forward, reverse = chains.forward(), chains.reverse(simulated.z)
    split = Split(SIMULATED, simulated.posteriors, simulated.rows)
    split = searched(study, candidates, split, rng=fork(rng, "modes", name), progress=study.progress)
    row_gains = measure_gains(
        candidates,
        split,
        rng=fork(rng, "ladder", name),
        model=model,
        draws=study.settings.draws,
        progress=study.progress,
    )
    importance, _ = row_gains.log_prob(CandidateId.parse(name))
    low, high = forward.log_prob, reverse.log_prob

    def mean(values: torch.Tensor) -> Estimate:
        return mean_estimate(values, unit=UNIT, split=SIMULATED, seed=study.seed)

    gap = mean(high - low)
    if gap.stable and gap.value > NARROW:
        because = f"the bounds are {gap.value:.1f} nats apart: more temperatures bring them together"
        gap = replace(gap, stable=False, because=because)
    return Sandwich(
        name=name,
        forward=mean(low),
        reverse=mean(high),
        gap=gap,
        importance=mean(importance),
        below=mean(importance - low),
        above=mean(high - importance),
        acceptance=float(torch.cat([forward.acceptance, reverse.acceptance]).mean()),
        temperatures=settings.temperatures,
        chains=settings.chains,
        leapfrog=settings.leapfrog,
    )

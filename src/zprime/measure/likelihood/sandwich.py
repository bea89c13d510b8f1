"""Log p_r(x) of simulated data between two bounds, and the likelihood gain's estimator beside them (Wu et al. 2017)."""

from dataclasses import replace

import torch

from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings, Annealer
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.simulation import encode, simulate
from zprime.progress import Progress, silent
from zprime.results.likelihood import Sandwich
from zprime.results.names import CandidateId
from zprime.rng import fork
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.vae import Model

UNIT = "nats per row"
SPLIT = "simulated"
NARROW = 1.0  # nats: a wider sandwich says too little about the estimator


def sandwich(
    candidates: Candidates,
    name: str,
    model: Model,
    *,
    rows: int,
    draws: int,
    dtype: torch.dtype,
    rng: torch.Generator,
    seed: int,
    settings: AISSettings = AISSettings(),
    progress: Progress = silent,
) -> Sandwich:
    """Simulate from one candidate of the candidates, and measure log p_r(x) of what came out in three ways.

    Args:
        candidates: all candidates, whose proposals it shares.
        name: the candidate to simulate from and to measure.
        model: encoder and decoder; the chains start from the encoder's posteriors.
        rows: how many to simulate.
        draws: of the likelihood gain, a row.
        dtype: what the model computes in.
        rng: source of randomness.
        seed: recorded with the estimates.
        settings: how long to anneal.
        progress: called once a temperature.

    Raises:
        UsageError: settings that cannot be used, or a log-density without a gradient.
    """
    r = candidates.distributions[name]
    z, simulated = simulate(r, model, rows, dtype=dtype, rng=fork(rng, "simulate", name))
    posteriors = encode(model, simulated)
    chains = Annealer(
        r, model, simulated.x, settings, rng=fork(rng, "anneal", name), start=posteriors, progress=progress
    )
    forward, reverse = chains.forward(), chains.reverse(z)
    row_gains = measure_gains(
        candidates,
        posteriors,
        split=SPLIT,
        rng=fork(rng, "ladder", name),
        model=model,
        rows=simulated,
        draws=draws,
        progress=progress,
    )
    importance, _ = row_gains.log_prob(CandidateId(name))
    low, high = forward.log_prob, reverse.log_prob

    def mean(values: torch.Tensor) -> Estimate:
        return mean_estimate(values, unit=UNIT, split=SPLIT, seed=seed)

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

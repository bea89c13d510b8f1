"""Log p_r(x) of simulated data between two bounds, and rung (c) beside them (Wu et al. 2017)."""

from dataclasses import dataclass, replace

import torch

from zprime.distribution import Progress, silent
from zprime.measure.likelihood.ais import AISSettings, Annealer
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.measure.likelihood.gains import climb
from zprime.measure.candidates import Panel
from zprime.measure.likelihood.simulation import encode, simulate
from zprime.rng import fork
from zprime.vae import Model

UNIT = "nats per row"
SPLIT = "simulated"
NARROW = 1.0  # nats: a wider sandwich says too little about rung (c)


@dataclass(frozen=True)
class Sandwich:
    """Means over rows simulated from one latent distribution and the decoder; differences are paired over rows.

    Attributes:
        name: of the latent distribution.
        forward: annealed importance sampling, below log p_r(x) in expectation.
        reverse: the same chains in reverse from the z that made x, above it in expectation.
        gap: reverse - forward: on average the truth is no further than this from either. Trusted below 1 nat.
        importance: rung (c)'s log p_r(x) of the same rows, with the draws and candidates of the audit.
        below: importance - forward; above: reverse - importance. Rung (c) is a lower bound in expectation, so `above`
            says how much it can be short of at most, and a negative one would contradict it.
        acceptance: share of accepted trajectories.
        temperatures, chains, leapfrog: how long it was annealed.
    """

    name: str
    forward: Estimate
    reverse: Estimate
    gap: Estimate
    importance: Estimate
    below: Estimate
    above: Estimate
    acceptance: float
    temperatures: int
    chains: int
    leapfrog: int


def sandwich(
    panel: Panel,
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
    """Simulate from one candidate of the panel, and measure log p_r(x) of what came out in three ways.

    Args:
        panel: all candidates, whose proposals rung (c) shares.
        name: the candidate to simulate from and to measure.
        model: encoder and decoder; the chains start from the encoder's posteriors.
        rows: how many to simulate.
        draws: of rung (c), a row.
        dtype: what the model computes in.
        rng: source of randomness.
        seed: recorded with the estimates.
        settings: how long to anneal.
        progress: called once a temperature.

    Raises:
        UsageError: settings that cannot be used, or a log-density without a gradient.
    """
    r = panel.candidates[name]
    z, simulated = simulate(r, model, rows, dtype=dtype, rng=fork(rng, "simulate", name))
    posteriors = encode(model, simulated)
    chains = Annealer(
        r, model, simulated.x, settings, rng=fork(rng, "anneal", name), start=posteriors, progress=progress
    )
    forward, reverse = chains.forward(), chains.reverse(z)
    ladder = climb(
        panel,
        posteriors,
        split=SPLIT,
        rng=fork(rng, "ladder", name),
        model=model,
        rows=simulated,
        draws=draws,
        progress=progress,
    )
    importance, _ = ladder.log_prob(name)
    low, high = forward.log_prob, reverse.log_prob

    def mean(values: torch.Tensor) -> Estimate:
        return mean_estimate(values, unit=UNIT, split=SPLIT, seed=seed)

    gap = mean(high - low)
    if gap.trusted and gap.value > NARROW:
        because = f"the bounds are {gap.value:.1f} nats apart: more temperatures bring them together"
        gap = replace(gap, trusted=False, because=because)
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

"""Modes of the posterior that the encoder misses: found by annealed chains from the prior, used in the proposal.

The chains do not start from the encoder's answer, so they reach modes that it does not know. From where they end one
goes uphill, and the proposal of the likelihood gain gets a Gaussian there with the encoder's scales. The estimate stays
unbiased for p_r(x), whatever the chains found: what was drawn to make a proposal is not used in the estimate.
"""

from dataclasses import replace

import torch

from zprime.distribution import LatentDistribution
from zprime.measure.likelihood.ais import AISSettings, Annealer, Target
from zprime.measure.study import Split
from zprime.progress import Progress
from zprime.vae import Model

SEARCH = AISSettings(temperatures=40, chains=6, leapfrog=4)
CLIMB = AISSettings(temperatures=1, chains=6, leapfrog=1)
STEPS = 10


def search_modes(
    split: Split, prior: LatentDistribution, model: Model, *, rng: torch.Generator, progress: Progress
) -> Split:
    """The same rows with what chains from the prior found; without rows, or without a gradient, as they were.

    Args:
        split: rows and posteriors.
        prior: where the chains start.
        model: its decoder needs a gradient in z.
        rng: source of randomness.
        progress: called once a temperature.
    """
    if split.rows is None:
        return split
    ends = Annealer(Target(prior, model, split.rows.x), SEARCH, rng=rng, progress=progress).forward().z
    # uphill by the encoder's scales, which are those of a mode, not of the prior
    at = Annealer(Target(prior, model, split.rows.x), CLIMB, rng=rng, start=split.posteriors)
    return replace(split, modes=at.climb(ends, steps=STEPS))

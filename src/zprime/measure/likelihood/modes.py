"""Modes of the posterior that the encoder misses: found by annealed chains from the prior, used in the proposal.

The chains do not start from the encoder's answer, so they reach modes that it does not know. They find their step
sizes on the way, since no bound is made of them. From where they end one goes uphill, and the proposal of the
likelihood gain gets a Gaussian there with the encoder's scales. The estimate stays unbiased for p_r(x), whatever the
chains found: what was drawn to make a proposal is not used in the estimate.
"""

from dataclasses import replace

import torch

from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings, Annealer, Target
from zprime.measure.likelihood.proposal import Plan
from zprime.measure.study import Split, Study
from zprime.progress import Progress
from zprime.vae import Model

SEARCH = AISSettings(temperatures=12, chains=6, leapfrog=3)
"""Few temperatures: chains need only come into the reach of a mode, for they go uphill from where they end."""
CLIMB = AISSettings(temperatures=1, chains=SEARCH.chains, leapfrog=1)
STEPS = 20
EVALUATIONS = 1 + SEARCH.leapfrog * (SEARCH.temperatures - 1) + 1 + STEPS
"""Times that each chain's latents are decoded with their gradient, at most: by the chains, and uphill."""
FEW = 8  # rows on which it is tried whether the decoder has a gradient


def unsearchable(study: Study, candidates: Candidates) -> str:
    """Why modes cannot be searched for; empty where they can.

    The gradient of log p(x|z) in z is tried on a few rows: a decoder may be anything that answers `decode(z)`.
    """
    rows, model = study.heldout.rows, study.model
    if rows is None or model is None:
        return "it needs the decoder and the rows"
    if study.heldout.posteriors.form == "points":
        return "the proposal is the posteriors' own draws, to which none are added"
    try:
        Plan.of(candidates, study.settings.draws, modes=True)
    except UsageError as error:
        return f"{error} (modes among the proposals take some of them)"
    few = rows.head(FEW)
    try:
        z = candidates.prior.sample(len(few), rng=study.stream("modes", "probe")).to(few.x.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(model.decode(z).log_prob(few.x).sum(), z)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        return f"the decoder has no gradient in z ({type(error).__name__})"
    return "" if bool(torch.isfinite(gradient).all()) else "the decoder's gradient in z is not finite"


def searched(study: Study, candidates: Candidates, split: Split, *, rng: torch.Generator, progress: Progress) -> Split:
    """The same rows with their modes, where the study searches for them; else as they were.

    What was searched for with the same random numbers is found again, also some of its rows.
    """
    if not study.search or study.model is None:
        return split
    stream, ids = rng.initial_seed(), split.posteriors.row_ids
    if stream in study.modes:
        known, modes = study.modes[stream]
        same = ids[:, None] == known
        if bool(same.any(1).all()):
            return replace(split, modes=modes[same.int().argmax(1)])
    found = search_modes(split, candidates.prior, study.model, rng=rng, progress=progress)
    if found.modes is not None:
        study.modes[stream] = ids, found.modes
    return found


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
    ends = Annealer(Target(prior, model, split.rows.x), SEARCH, rng=rng, progress=progress).warm
    # uphill by the encoder's scales, which are those of a mode, not of the prior
    at = Annealer(Target(prior, model, split.rows.x), CLIMB, rng=rng, start=split.posteriors)
    return replace(split, modes=at.climb(ends, steps=STEPS))

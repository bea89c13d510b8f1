"""The latent side of an audit in one call: all that needs no decoder, beside the row_gains and the surgery."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.latent import Active, Aggregated
from zprime.measure.candidates import Candidates
from zprime.measure.latents.hole import hole
from zprime.measure.latents.leave_one_out import leave_one_out
from zprime.measure.latents.low_density import low_density
from zprime.measure.latents.minibatch import minibatch
from zprime.measure.latents.total_correlation import total_correlation
from zprime.measure.likelihood.gains import RowGains, elbo_gain, exact_posterior_gain
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import Progress, silent
from zprime.results.latents import LatentsSide, LeaveOneOut, Surgery, TwoSample
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.statistics.c2st import c2st
from zprime.statistics.mmd import mmd

SAMPLE = 1000  # held-out codes, and draws of each candidate, for the two-sample tests
FEWEST = 8
ALONE = 500  # held-out rows for an aggregated posterior that is no candidate
CONTROL = "codes of the selection split"


def latents_side(
    candidates: Candidates,
    posteriors: Mapping[str, Posteriors],
    split_gains: Mapping[str, RowGains],
    surgeries: Mapping[str, Surgery],
    *,
    seed: int,
    progress: Progress = silent,
) -> LatentsSide:
    """Measure it. With 60,000 training rows, 16 latents and ten candidates it takes half a minute of one core.

    Args:
        candidates: the candidates.
        posteriors: `train`, `selection` and `heldout`.
        split_gains: of `selection` and `heldout`, measured with the same candidates.
        surgeries: of `train`.
        seed: of all draws.
        progress: called by the long parts.
    """
    train, held = posteriors["train"].gather(), posteriors["heldout"].gather()
    return LatentsSide(
        leave_one_out=_leave_one_out(candidates, train, held, split_gains["heldout"], seed, progress),
        hole=hole(posteriors, split_gains, surgeries, seed=seed) if held.n > 2 else None,
        total_correlation=total_correlation(train, split="train", seed=seed, progress=progress),
        minibatch=minibatch(train, split="train", seed=seed) if train.weights is None and train.n > 1 else None,
        low_density=low_density(train, held, seed=seed),
        two_sample=two_sample(candidates, posteriors["selection"].gather(), held, seed=seed, progress=progress),
    )


def _leave_one_out(
    candidates: Candidates,
    train: MemoryPosteriors,
    held: MemoryPosteriors,
    heldout: RowGains,
    seed: int,
    progress: Progress,
) -> dict[CandidateId, LeaveOneOut]:
    """Of the candidates; with the aggregated posterior measured beside it where it is no candidate."""
    if train.n == 1:
        return {}
    out = leave_one_out(candidates, train, heldout, seed=seed, progress=progress)
    if not any(isinstance(r.base if isinstance(r, Active) else r, Aggregated) for r in candidates.bases.values()):
        alone = Candidates({"aggregated": Aggregated(train.mean, train.scale, train.weights)})
        some = held.take(_pick(held, ALONE, seed))
        rng = stream(seed, "aggregated alone")
        row_gains = RowGains("heldout", elbo_gain(alone, some, rng=rng), exact_posterior_gain(alone, some, rng=rng))
        out |= leave_one_out(alone, train, row_gains, seed=seed, progress=progress)
    return out


def two_sample(
    candidates: Candidates,
    selection: MemoryPosteriors,
    heldout: MemoryPosteriors,
    *,
    seed: int,
    progress: Progress = silent,
) -> dict[str, TwoSample]:
    """One code of each held-out row against as many draws of every candidate, and of the selection split as control.

    Nothing where there are fewer than 8 rows.
    """
    n = min(SAMPLE, heldout.n, selection.n)
    if n < FEWEST:
        return {}
    rng = stream(seed, "two samples")
    x = heldout.take(_pick(heldout, n, seed)).draw(rng=rng)
    others = {CONTROL: selection.take(_pick(selection, n, seed)).draw(rng=rng)}
    for name, r in candidates.distributions.items():
        others[name] = r.sample(n, rng=stream(seed, "two samples", name))
    out: dict[str, TwoSample] = {}
    for step, (name, y) in enumerate(others.items()):
        progress("two-sample tests", step, len(others))
        out[name] = TwoSample(
            c2st(x, y.to(x.dtype), split="heldout", seed=seed), mmd(x, y.to(x.dtype), split="heldout", seed=seed)
        )
    progress("two-sample tests", len(others), len(others))
    return out


def _pick(p: MemoryPosteriors, n: int, seed: int) -> Int[Tensor, " m"]:
    return torch.randperm(p.n, generator=stream(seed, "latent side rows"))[:n].sort().values

"""The latent side of an audit in one call: all that needs no decoder, beside the ladder and the surgery."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.distribution import Progress, silent
from zprime.latent import Active, Aggregated
from zprime.statistics.c2st import C2ST, c2st
from zprime.statistics.estimate import Estimate
from zprime.measure.latents.hole import Hole, hole
from zprime.measure.likelihood.gains import Ladder, code_gain, evidence_gain
from zprime.measure.latents.leave_one_out import LeaveOneOut, leave_one_out
from zprime.measure.latents.low_density import low_density
from zprime.measure.latents.minibatch import Minibatch, minibatch
from zprime.statistics.mmd import MMD, mmd
from zprime.measure.candidates import Panel
from zprime.measure.latents.surgery import Surgery
from zprime.measure.latents.total_correlation import TotalCorrelation, total_correlation
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import generator

SAMPLE = 1000  # held-out codes, and draws of each candidate, for the two-sample tests
FEWEST = 8
ALONE = 500  # held-out rows for an aggregated posterior that is no candidate
CONTROL = "codes of the selection split"


@dataclass(frozen=True)
class TwoSample:
    """Held-out codes against draws of one distribution."""

    c2st: C2ST
    mmd: MMD


@dataclass(frozen=True)
class LatentSide:
    """All of it.

    Attributes:
        leave_one_out: name -> what is memorised, for the aggregated posterior and exemplars.
        hole: of the population, as a bracket, and of the training rows; None with fewer than 3 held-out rows.
        total_correlation: of the training rows' mixture.
        minibatch: what minibatch estimators say of the I in the training rows' surgery; None where rows have weights,
            or there is one only.
        low_density: `1 %` and `5 %` -> share of prior draws below that quantile of log qbar at held-out codes.
        two_sample: name -> tests of held-out codes against its draws; among them a control, `codes of the selection
            split`, which no test should tell from held-out codes.
    """

    leave_one_out: dict[str, LeaveOneOut]
    hole: Hole | None
    total_correlation: TotalCorrelation
    minibatch: Minibatch | None
    low_density: dict[str, Estimate]
    two_sample: dict[str, TwoSample]


def latent_side(
    panel: Panel,
    posteriors: Mapping[str, Posteriors],
    ladders: Mapping[str, Ladder],
    surgeries: Mapping[str, Surgery],
    *,
    seed: int,
    progress: Progress = silent,
) -> LatentSide:
    """Measure it. With 60,000 training rows, 16 latents and ten candidates it takes half a minute of one core.

    Args:
        panel: the candidates.
        posteriors: `train`, `selection` and `heldout`.
        ladders: of `selection` and `heldout`, climbed with the same panel.
        surgeries: of `train`.
        seed: of all draws.
        progress: called by the long parts.
    """
    train, held = posteriors["train"].gather(), posteriors["heldout"].gather()
    return LatentSide(
        leave_one_out=_leave_one_out(panel, train, held, ladders["heldout"], seed, progress),
        hole=hole(posteriors, ladders, surgeries, seed=seed) if held.n > 2 else None,
        total_correlation=total_correlation(train, split="train", seed=seed, progress=progress),
        minibatch=minibatch(train, split="train", seed=seed) if train.weights is None and train.n > 1 else None,
        low_density=low_density(train, held, seed=seed),
        two_sample=two_sample(panel, posteriors["selection"].gather(), held, seed=seed, progress=progress),
    )


def _leave_one_out(
    panel: Panel, train: InMemory, held: InMemory, heldout: Ladder, seed: int, progress: Progress
) -> dict[str, LeaveOneOut]:
    """Of the panel; with the aggregated posterior measured beside it where it is no candidate."""
    if train.n == 1:
        return {}
    out = leave_one_out(panel, train, heldout, seed=seed, progress=progress)
    if not any(isinstance(r.base if isinstance(r, Active) else r, Aggregated) for r in panel.bases.values()):
        alone = Panel({"aggregated": Aggregated(train.mean, train.scale, train.weights)})
        some = held.take(_pick(held, ALONE, seed))
        rng = generator(seed, "aggregated alone")
        ladder = Ladder("heldout", code_gain(alone, some, rng=rng), evidence_gain(alone, some, rng=rng))
        out |= leave_one_out(alone, train, ladder, seed=seed, progress=progress)
    return out


def two_sample(
    panel: Panel, selection: InMemory, heldout: InMemory, *, seed: int, progress: Progress = silent
) -> dict[str, TwoSample]:
    """One code of each held-out row against as many draws of every candidate, and of the selection split as control.

    Nothing where there are fewer than 8 rows.
    """
    n = min(SAMPLE, heldout.n, selection.n)
    if n < FEWEST:
        return {}
    rng = generator(seed, "two samples")
    x = heldout.take(_pick(heldout, n, seed)).draw(rng=rng)
    others = {CONTROL: selection.take(_pick(selection, n, seed)).draw(rng=rng)}
    for name, r in panel.candidates.items():
        others[name] = r.sample(n, rng=generator(seed, "two samples", name))
    out: dict[str, TwoSample] = {}
    for step, (name, y) in enumerate(others.items()):
        progress("two-sample tests", step, len(others))
        out[name] = TwoSample(
            c2st(x, y.to(x.dtype), split="heldout", seed=seed), mmd(x, y.to(x.dtype), split="heldout", seed=seed)
        )
    progress("two-sample tests", len(others), len(others))
    return out


def _pick(p: InMemory, n: int, seed: int) -> Int[Tensor, " m"]:
    return torch.randperm(p.n, generator=generator(seed, "latent side rows"))[:n].sort().values

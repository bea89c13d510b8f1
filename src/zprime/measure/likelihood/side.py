"""What the model itself says of data: log p(x) under every candidate, and what the encoder and its estimates are worth.

One call gathers the measures that need encoder and decoder and no other part of the audit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from zprime.data import Rows
from zprime.distribution import Progress, silent
from zprime.measure.likelihood.ais import AISSettings
from zprime.measure.likelihood.bits import Units, bits_per_dimension, units
from zprime.measure.likelihood.calibration import Calibration, calibration
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.measure.likelihood.inference import UNIT, InferenceGap, inference_gap
from zprime.measure.likelihood.gains import Ladder, moved
from zprime.measure.candidates import Panel
from zprime.measure.likelihood.sandwich import Sandwich, sandwich
from zprime.rng import generator
from zprime.vae import Model

LOOK = 8  # rows that tell what p(x|z) is


@dataclass(frozen=True)
class ModelSide:
    """The likelihood and the encoder.

    Attributes:
        log_prob: view -> mean log p_r(x) of held-out rows, rung (c), nats a row: a lower bound in expectation, of
            scaled data.
        units: what that is a likelihood of.
        bits: view -> the same as bits per dimension of the data as stored; empty where that has no meaning.
        gaps: split -> what the encoder loses.
        calibration: of the encoder on data simulated from the prior, and from the candidate that the verdict looked at.
        sandwiches: annealed bounds beside rung (c), where they were asked for.
    """

    log_prob: dict[str, Estimate]
    units: Units
    bits: dict[str, Estimate]
    gaps: dict[str, InferenceGap]
    calibration: list[Calibration] = field(default_factory=list)
    sandwiches: list[Sandwich] = field(default_factory=list)


def model_side(
    panel: Panel,
    ladders: Mapping[str, Ladder],
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    *,
    best: str,
    log_scale: float | None,
    simulated: int,
    ais: int,
    temperatures: int,
    seed: int,
    progress: Progress = silent,
) -> ModelSide | None:
    """All of it, for the prior and the candidate called `best`; None without a decoder, or where rung (c) is left out.

    Args:
        panel: the candidates.
        ladders: split -> ladder, climbed with the decoder; `heldout` among them.
        model: encoder and decoder.
        rows: split -> rows.
        best: the candidate that the verdict looked at.
        log_scale: see `units`.
        simulated: rows to calibrate on; 0 leaves it out.
        ais: rows to anneal; 0 leaves it out.
        temperatures: of the annealing.
        seed: decides every draw.
        progress: called by the long parts.
    """
    heldout = ladders["heldout"]
    if model is None or rows is None or not heldout.likelihood:
        return None
    log_prob = {}
    for name in heldout.likelihood:
        whole, quarter = heldout.log_prob(name)
        e = mean_estimate(whole, unit=UNIT, split="heldout", seed=seed)
        log_prob[name] = moved(e, whole, quarter, heldout.draws)
    x = rows["heldout"].x[:LOOK]
    with torch.no_grad():
        mean, _ = model.encode(x)
    unit = units(model, x, mean, log_scale=log_scale)
    sources = list(dict.fromkeys(("prior", best)))
    calibrations, sandwiches = [], []
    for i, name in enumerate(sources):
        if simulated:
            progress("calibration", i, len(sources))
            rng = generator(seed, "calibration", name)
            found = calibration(panel.candidates[name], model, source=name, dtype=mean.dtype, rng=rng, rows=simulated)
            calibrations += [found] if found is not None else []
        if ais:
            sandwiches.append(
                sandwich(
                    panel,
                    name,
                    model,
                    rows=ais,
                    draws=heldout.draws,
                    dtype=mean.dtype,
                    rng=generator(seed, "ais"),
                    seed=seed,
                    settings=AISSettings(temperatures=temperatures),
                    progress=progress,
                )
            )
    return ModelSide(
        log_prob=log_prob,
        units=unit,
        bits={k: bits_per_dimension(e, unit) for k, e in log_prob.items()} if unit.meaningful else {},
        gaps={split: inference_gap(ladder, seed=seed) for split, ladder in ladders.items()},
        calibration=calibrations,
        sandwiches=sandwiches,
    )

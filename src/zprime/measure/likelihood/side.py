"""What the model itself says of data: log p(x) under every candidate, and what the encoder and its estimates are worth.

One call gathers the measures that need encoder and decoder and no other part of the audit.
"""

from collections.abc import Mapping

import torch

from zprime.data import Rows
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings
from zprime.measure.likelihood.bits import bits_per_dimension, units
from zprime.measure.likelihood.calibration import calibration
from zprime.measure.likelihood.gains import RowGains, moved
from zprime.measure.likelihood.inference import UNIT, inference_gap
from zprime.measure.likelihood.sandwich import sandwich
from zprime.progress import Progress, silent
from zprime.results.likelihood import LikelihoodSide
from zprime.rng import stream
from zprime.statistics.estimate import mean_estimate
from zprime.vae import Model

LOOK = 8  # rows that tell what p(x|z) is


def likelihood_side(
    candidates: Candidates,
    split_gains: Mapping[str, RowGains],
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
) -> LikelihoodSide | None:
    """All of it, for the prior and the candidate called `best`; None without a decoder, or where the likelihood gain is left out.

    Args:
        candidates: the candidates.
        split_gains: split -> gains, measured with the decoder; `heldout` among them.
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
    heldout = split_gains["heldout"]
    if model is None or rows is None or not heldout.likelihood:
        return None
    log_prob = {}
    for wanted in heldout.likelihood:
        whole, quarter = heldout.log_prob(wanted)
        e = mean_estimate(whole, unit=UNIT, split="heldout", seed=seed)
        log_prob[wanted] = moved(e, whole, quarter, heldout.draws)
    x = rows["heldout"].x[:LOOK]
    with torch.no_grad():
        mean, _ = model.encode(x)
    unit = units(model, x, mean, log_scale=log_scale)
    sources = list(dict.fromkeys(("prior", best)))
    calibrations, sandwiches = [], []
    for i, name in enumerate(sources):
        if simulated:
            progress("calibration", i, len(sources))
            rng = stream(seed, "calibration", name)
            found = calibration(
                candidates.distributions[name], model, source=name, dtype=mean.dtype, rng=rng, rows=simulated
            )
            calibrations += [found] if found is not None else []
        if ais:
            sandwiches.append(
                sandwich(
                    candidates,
                    name,
                    model,
                    rows=ais,
                    draws=heldout.draws,
                    dtype=mean.dtype,
                    rng=stream(seed, "ais"),
                    seed=seed,
                    settings=AISSettings(temperatures=temperatures),
                    progress=progress,
                )
            )
    return LikelihoodSide(
        log_prob=log_prob,
        units=unit,
        bits={k: bits_per_dimension(e, unit) for k, e in log_prob.items()} if unit.meaningful else {},
        gaps={split: inference_gap(row_gains, seed=seed) for split, row_gains in split_gains.items()},
        calibration=calibrations,
        sandwiches=sandwiches,
    )

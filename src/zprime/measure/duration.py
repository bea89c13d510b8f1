"""About how long an audit will take, by small first pieces of its work, timed on the machine that it runs on.

The pieces have random numbers of their own, and held-out rows are none of them: no number of the audit changes.
"""

import time
from collections.abc import Callable

import torch

from zprime.kernels import ExactIndex
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import CHUNK, measure_gains
from zprime.measure.samples.features import BATCH, EPOCHS, STEPS, train_classifier
from zprime.measure.samples.known import KNOWN, SPREADS
from zprime.measure.study import Study

PIECE = 64
"""Latents that are decoded, and rows that are searched for among training rows."""
NEIGHBOURS = 5
CHECKED = 4
"""Samples beside those of candidates: reconstructions of two splits, fresh draws of the prior and the choice."""


def duration(study: Study, candidates: Candidates) -> float:
    """Seconds that gains, exchange check, attack and samples will take; what else an audit has is short beside them.

    A second measurement, which a failed exchange check asks for, is not among them.
    """
    return _gains(study, candidates) + _samples(study, candidates)


def _gains(study: Study, candidates: Candidates) -> float:
    settings, split = study.settings, study.selection
    some = split.take(split.posteriors.pick(CHUNK, rng=study.stream("duration", "rows")))

    def measure() -> None:
        rng = study.stream("duration", "gains")
        measure_gains(candidates, some, rng=rng, model=study.model, draws=settings.draws)

    side_by_side = 2 if study.workers > 1 else 1
    rows = sum(min(settings.rows, s.n) for s in (study.selection, study.heldout)) / side_by_side
    rows += min(settings.members, study.train.n)
    rows += 2 * settings.exchange if study.model is not None and split.rows is not None else 0
    data = some.n if some.posteriors.datum is None else len(torch.unique(some.posteriors.datum))
    return rows * _timed(measure) / data


def _samples(study: Study, candidates: Candidates) -> float:
    settings, rows = study.settings, study.train.rows
    if study.model is None or rows is None or not settings.samples or study.selection.rows is None:
        return 0.0
    rng = study.stream("duration", "samples")
    z = study.prior.sample(PIECE, rng=rng)
    made = study.decode(z, noise="draw", rng=rng).flatten(1).float()
    decode = _timed(lambda: study.decode(z, noise="draw", rng=rng)) / PIECE
    index = ExactIndex(rows.x.flatten(1).float())
    search = _timed(lambda: index.nearest(made, min(NEIGHBOURS, len(rows)))) / PIECE
    known = (1 + len(SPREADS)) * max(settings.samples, KNOWN)
    sampled = (len(candidates.bases) + CHECKED) * settings.samples
    total = 2 * decode * sampled + 2 * search * (1.25 * sampled + known)
    if settings.feature_networks and rows.labels is not None:
        some = rows.take(torch.arange(min(BATCH, len(rows))))
        start = time.perf_counter()
        train_classifier(some, seed=study.seed)  # one step an epoch
        total += STEPS * (time.perf_counter() - start) / EPOCHS
    return total


def _timed(work: Callable[[], object]) -> float:
    """Seconds of a second call: the first one also pays for what is loaded once."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

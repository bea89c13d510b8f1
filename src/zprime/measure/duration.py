"""About how long an audit will take, by small first pieces of its work, timed on the machine that it runs on.

The pieces have random numbers of their own, and held-out rows are none of them: no number of the audit changes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from zprime.data.blocks import as_matrix
from zprime.kernels import ExactIndex
from zprime.kernels.scaling import is_large
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import DECODE, Annealer, Target
from zprime.measure.likelihood.decoding import LEAST, chunk
from zprime.measure.likelihood.exchange import WHAT, uncheckable
from zprime.measure.likelihood.finer import some_rows
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.modes import CLIMB, EVALUATIONS, unsearchable
from zprime.measure.samples.features import BATCH, EPOCHS, STEPS, train_classifier
from zprime.measure.samples.known import KNOWN, SPREADS
from zprime.measure.study import Study
from zprime.measure.verdicts.draws import steps
from zprime.progress import Part, about
from zprime.results.names import Gain
from zprime.threads import one_thread

PIECE = 64
"""Latents that are decoded, and rows that are searched for among training rows."""
NEIGHBOURS = 5
CHECKED = 4
"""Samples beside those of candidates: reconstructions of two splits, fresh draws of the prior and the choice."""


FASTER = 1.5
"""Times that one thread must be faster than torch's own number for a user to be told."""


@dataclass(frozen=True)
class Duration:
    """How long an audit will take on this machine, as it is now.

    Attributes:
        seconds: of gains, exchange check, attack and samples; what else an audit has is short beside them.
        again: seconds more where gains are measured with all draws, and then once more because the exchange check
            fails; 0 where they would not be.
        faster: times that one thread is faster than as many as torch has now; 1 where it has one.
        parts: what the progress of an audit says of a part of it -> its pieces, and seconds.
    """

    seconds: float
    again: float = 0.0
    faster: float = 1.0
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """About how long, e.g. `about 2 minutes, or 3 minutes if more draws are needed`."""
        says, alone = about(self.seconds), about(self.seconds / self.faster)
        if self.faster > FASTER and alone != says:
            says += f" (torch.set_num_threads(1): {alone})"
        longer = about(self.seconds + self.again)
        return says if longer == about(self.seconds) else f"{says}, or {longer} if more draws are needed"


def duration(study: Study, candidates: Candidates) -> Duration:
    """How long an audit will take; several threads may be slower than one, since many operations are small."""
    few, *more = steps(study, candidates)
    row, alone = _gain(study, candidates, few)
    most = _gain(study, candidates, more[-1])[0] if more else row
    settings, model = study.settings, study.model
    side_by_side = 2 if study.workers > 1 else 1
    scored = {s.name: min(settings.rows, s.n) for s in (study.selection, study.heldout)}
    with_rows = model is not None and study.selection.rows is not None
    members, simulated = min(settings.members, study.train.n), 2 * settings.exchange if with_rows else 0
    gain = (Gain.LIKELIHOOD if with_rows else Gain.EXACT_POSTERIOR).words
    parts: dict[str, Part] = {}
    for name, n in scored.items():
        finer = len(some_rows(n)) if more else 0
        parts[f"{gain}, {name}"] = Part(n + finer, n * row / side_by_side + finer * most)
    parts[f"{gain}, {study.train.name}"] = Part(members, members * row)
    parts[WHAT] = Part(simulated, simulated * row)
    parts["samples"] = Part(len(candidates.given), _samples(study, candidates))
    parts = {what: part for what, part in parts.items() if part.pieces and part.seconds}
    rows = sum(scored.values()) / side_by_side + members + simulated
    again = _again(study, candidates, most, side_by_side=side_by_side) + (rows * most if more else 0.0)
    return Duration(sum(part.seconds for part in parts.values()), again, row / alone, parts)


def _gain(study: Study, candidates: Candidates, draws: int) -> tuple[float, float]:
    """Seconds of the gains of a row by so many draws: with torch's threads as they are, and with one."""
    split = study.selection
    some = split.take(split.posteriors.pick(chunk(draws) if draws else LEAST, rng=study.stream("duration", "rows")))

    def measure() -> None:
        measure_gains(candidates, some, rng=study.stream("duration", "gains"), model=study.model, draws=draws)

    data = some.n if some.posteriors.datum is None else len(torch.unique(some.posteriors.datum))
    now = _timed(measure)
    if torch.get_num_threads() == 1:
        return now / data, now / data
    with one_thread():
        return now / data, _timed(measure) / data


def _again(study: Study, candidates: Candidates, gain: float, *, side_by_side: int) -> float:
    """Seconds of what a failed exchange check asks for, where the gains of a row take `gain` seconds."""
    settings, rows, model = study.settings, study.selection.rows, study.model
    if not (settings.exchange and settings.draws and settings.repair) or model is None or rows is None:
        return 0.0
    if uncheckable(study) or unsearchable(replace(study, heldout=study.selection), candidates):
        return 0.0
    some = rows.head(max(1, DECODE // CLIMB.chains))
    target = Target(candidates.prior, model, some.x)
    # with one temperature the latents are evaluated once
    once = _timed(lambda: Annealer(target, CLIMB, rng=study.stream("duration", "modes")))
    search = EVALUATIONS * once / len(some)
    measured = sum(min(settings.repair, s.n) for s in (study.selection, study.heldout)) / side_by_side
    measured += 2 * settings.exchange
    members = min(settings.members, settings.repair, study.train.n)  # their gains are measured in any case
    return measured * (gain + search) + members * search


def _samples(study: Study, candidates: Candidates) -> float:
    settings, rows = study.settings, study.train.rows
    if study.model is None or rows is None or not settings.samples or study.selection.rows is None:
        return 0.0
    rng = study.stream("duration", "samples")
    z = study.prior.sample(PIECE, rng=rng)
    made = study.decode(z, noise="draw", rng=rng).flatten(1).float()
    decode = _timed(lambda: study.decode(z, noise="draw", rng=rng)) / PIECE
    index = ExactIndex(as_matrix(rows.x))
    if is_large(index.points):  # a search goes through all of them, for however few
        made = study.decode(study.prior.sample(settings.samples, rng=rng), noise="draw", rng=rng).flatten(1).float()
    search = _timed(lambda: index.nearest(made, min(NEIGHBOURS, len(rows)))) / len(made)
    known = (1 + len(SPREADS)) * max(settings.samples, KNOWN)
    sampled = (len(candidates.bases) + CHECKED) * settings.samples
    total = decode * sampled + 2 * search * (1.25 * sampled + known)
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

"""What an audit will take: memory, and about how long, by small first pieces of its work that are timed beforehand.

The pieces have random numbers of their own, and held-out rows are none of them: no number of the audit changes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from zprime import memory
from zprime.data.blocks import as_matrix
from zprime.kernels import ExactIndex
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

PIECE = 128
"""Latents that are decoded, and rows that are searched for among training rows: so many that the search is by axes."""
SEARCHED = 8192
"""Training rows among which it is searched, at most; with all of them it takes as much longer as there are more."""
NEIGHBOURS = 5
CHECKED = 4
"""Samples beside those of candidates: reconstructions of two splits, fresh draws of the prior and the choice."""


FASTER = 1.5
"""Times that one thread must be faster than torch's own number for a user to be told."""
LONG = 300.0
"""Seconds from which on a quick audit is spoken of."""


@dataclass(frozen=True)
class Duration:
    """How long an audit will take on this machine, as it is now.

    Attributes:
        seconds: of gains, exchange check, attack and samples; what else an audit has is short beside them.
        again: seconds more where gains are measured with all draws, and then once more because the exchange check
            fails; 0 where they would not be.
        faster: times that one thread is faster than as many as torch has now; 1 where it has one.
        quick: it is a quick audit.
        parts: what the progress of an audit says of a part of it -> its pieces, and seconds.
    """

    seconds: float
    again: float = 0.0
    faster: float = 1.0
    quick: bool = False
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """About how long, e.g. `about 2 minutes, or 3 minutes if more draws are needed`."""
        says, longer = about(self.seconds), about(self.seconds + self.again)
        if longer != says:
            says += f", or {longer} if more draws are needed"
        alone = about(self.seconds / self.faster)
        if self.faster > FASTER and alone != about(self.seconds):
            says += f"; on one thread (--threads 1, torch.set_num_threads(1)) {alone}"
        if self.seconds > LONG and not self.quick:
            says += "; a quick audit (quick=True, --quick) takes a small part of it"
        return says


def duration(study: Study, candidates: Candidates) -> Duration:
    """How long an audit will take; several threads may be slower than one, since many operations are small."""
    few, *more = steps(study, candidates)
    row, alone = _gain(study, candidates, few)
    most = row * more[-1] / few if more else row
    settings, model = study.settings, study.model
    side_by_side = 2 if study.workers > 1 else 1
    scored = {s.name: min(settings.rows, s.n) for s in (study.selection, study.heldout)}
    with_rows = model is not None and study.selection.rows is not None
    members, simulated = min(settings.members, study.train.n), 2 * settings.exchange if with_rows else 0
    gain = (Gain.LIKELIHOOD if with_rows else Gain.EXACT_POSTERIOR).words
    parts: dict[str, Part] = {}
    for name, n in scored.items():
        finer = len(some_rows(n)) if more and name == study.heldout.name else 0
        parts[f"{gain}, {name}"] = Part(n + finer, n * row / side_by_side + finer * most)
    parts[f"{gain}, {study.train.name}"] = Part(members, members * row)
    parts[WHAT] = Part(simulated, simulated * row)
    parts["samples"] = Part(len(candidates.given), _samples(study, candidates))
    parts = {what: part for what, part in parts.items() if part.pieces and part.seconds}
    rows = sum(scored.values()) / side_by_side + members + simulated
    again = _again(study, candidates, most, side_by_side=side_by_side) + (rows * most if more else 0.0)
    return Duration(sum(part.seconds for part in parts.values()), again, row / alone, quick=settings.quick, parts=parts)


def check_memory(study: Study) -> None:
    """Refuse settings whose smallest tables do not fit into memory: float64 weights of draws, and float32 samples.

    Raises:
        UsageError: they do not.
    """
    settings, d = study.settings, study.prior.d
    rows = min(settings.rows, study.heldout.posteriors.n)
    size = 1 if study.heldout.rows is None else study.heldout.rows.x[0].numel()
    tables = {
        "draws": (8 * rows * settings.draws, f"{rows:,} rows x {settings.draws:,} draws"),
        "samples": (4 * settings.samples * (d + size), f"{settings.samples:,} samples of {d + size:,} numbers"),
        "grid": (4 * settings.grid * (d + size), f"{settings.grid:,} pictures of {d + size:,} numbers"),
        "map": (4 * settings.map * d, f"{settings.map:,} codes of {d:,} numbers"),
        "simulated": (4 * settings.simulated * (d + size), f"{settings.simulated:,} rows of {d + size:,} numbers"),
        "exchange": (4 * settings.exchange * (d + size), f"{settings.exchange:,} rows of {d + size:,} numbers"),
    }
    for name, (count, what) in tables.items():
        memory.need(count, f"{name}: {what}", f"lower {name}")


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
    at = Annealer(target, CLIMB, rng=study.stream("duration", "modes"))
    once = _timed(lambda: at.climb(at.warm, steps=0))  # the latents are evaluated once
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
    searched = as_matrix(rows.x[:SEARCHED])
    index = ExactIndex(searched)
    search = _timed(lambda: index.nearest(made, min(NEIGHBOURS, len(searched)))) / PIECE
    search *= len(rows) / len(searched)
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

"""Training and audit repeated with other seeds: whole runs in `seeds/<seed>`, and a summary of all of them.

The verdicts of an audit are about one VAE. What another training would have given is told by training again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zprime import artifact, chain, serialise
from zprime.artifact import Artifact
from zprime.data import DataSettings
from zprime.errors import UsageError
from zprime.progress import Progress, named
from zprime.reporting import report
from zprime.results.audit import Audit, Entry
from zprime.results.names import PRIOR, CandidateId, Gain
from zprime.results.seeds import KIND, PLACE, CandidateOverSeeds, Seeds, VerdictOverSeeds
from zprime.run_folder import FOLDERS
from zprime.stages import key_of, reuse_or_make
from zprime.statistics.estimate import Estimate, mean_estimate

MakeRun = Callable[[Path, DataSettings, int, Progress], Audit]
"""Called with folder, data, seed and progress: makes or completes the run in that folder."""


def check(seeds: int) -> None:
    """Raise `UsageError` for a number of seeds that cannot be used."""
    if seeds < 1:
        raise UsageError(f"seeds: expected at least 1, got {seeds}")


def check_room(out: Path, fits: Sequence[str], others: Sequence[int]) -> None:
    """Refuse what is in the way of a run, or of one with another seed, before the first training.

    Args:
        out: folder of the run.
        fits: names of the latent distributions that it will have.
        others: the other seeds.

    Raises:
        UsageError: something else than a folder lies in the place of one.
    """
    chain.check_folders(out, [f"seeds/{seed}" for seed in others])
    for place in (out, *(out / "seeds" / str(seed) for seed in others)):
        chain.check_folders(place, [*FOLDERS, *(f"latent/{name}" for name in fits)])


def repeat(make: MakeRun, data: DataSettings, out: Path, seeds: Sequence[int], progress: Progress) -> Audit:
    """Make a run with each seed, and the summary of all; with one seed only the run.

    The rows are split by the first seed in all of them (or by `data.split_seed`): the spread between seeds is then that
    of training and audit alone.

    Args:
        make: makes or completes one run.
        data: what to read and how to split it.
        out: folder of the first run; the others are in its `seeds`.
        seeds: of the runs, each once.
        progress: called by every long stage, with the seed in front, and once a seed.

    Returns:
        The audit of the first run, with the summary.
    """
    first, *others = seeds
    if not others:
        return make(out, data, first, progress)
    split = data.split_seed if data.split_seed is not None else first
    audits: list[Audit] = []
    keys: dict[int, str] = {}
    for i, seed in enumerate(seeds):
        progress("seeds", i, len(seeds))
        path = out / "seeds" / str(seed) if i else out
        audit = make(path, replace(data, split_seed=split) if i else data, seed, named(f"seed {seed}", progress))
        if i:
            report(path)
        audits.append(replace(audit, tensors=audit.tensors if i == 0 else {}))
        keys[seed] = artifact.read(path / "audit", "audit").key
    summary = summarise(audits)

    def write(path: Path, key: str) -> Artifact:
        first = artifact.read(out / "audit", "audit").hash
        return summary.save(path, key=key, audits=keys, inputs={"audit": first})

    key = key_of("seeds", [list(pair) for pair in keys.items()], serialise.outline(Seeds))
    reuse_or_make(out, PLACE, key, write, kind=KIND)
    progress("seeds", len(seeds), len(seeds))
    return replace(audits[0], seeds=summary)


def summarise(audits: Sequence[Audit]) -> Seeds:
    """Gains between and within seeds, and verdicts, from audits of the same split with different seeds."""
    by_seed = [_by_fit(a) for a in audits]
    names = list(dict.fromkeys(name for entries in by_seed for name in entries))
    every = [e for entries in by_seed for e in entries.values()]
    gain = Gain.LIKELIHOOD if all(e.heldout.likelihood is not None for e in every) else Gain.ELBO
    generation = [a.samples.verdict for a in audits if a.samples is not None]
    likelihood = [a.verdict for a in audits]
    return Seeds(
        seeds=[a.seed for a in audits],
        gain=gain,
        candidates=[_candidate(name, [entries.get(name) for entries in by_seed], gain) for name in names],
        likelihood=VerdictOverSeeds([v.decision for v in likelihood], [fit_of(v.choice) for v in likelihood]),
        generation=VerdictOverSeeds([v.decision for v in generation], [fit_of(v.choice) for v in generation])
        if len(generation) == len(audits)
        else None,
        shipped=[fit_of(a.shipped) for a in audits],
    )


def fit_of(name: str) -> str:
    """Name of the fit that a candidate comes from: `mixture` of `mixture+p10`."""
    return CandidateId.parse(name).name


def _by_fit(audit: Audit) -> dict[str, Entry]:
    """The candidate that may be chosen of every fit, without the prior; its share of the prior may differ by seed."""
    return {e.id.name: e for e in audit.entries if e.eligible and e.id.name != PRIOR}


def _candidate(name: str, entries: Sequence[Entry | None], gain: Gain) -> CandidateOverSeeds:
    scores = [None if e is None else e.heldout.of(gain) for e in entries]
    gains: list[Estimate | None] = [None if s is None else s.gain for s in scores]
    there = [g for g in gains if g is not None]
    values = torch.tensor([g.value for g in there], dtype=torch.float64)
    several = len(there) > 1
    return CandidateOverSeeds(
        name=name,
        labels=[None if e is None else e.label for e in entries],
        gains=gains,
        mean=mean_estimate(values, unit=there[0].unit, split=there[0].split, seed=None) if several else None,
        between=float(values.std()) if several else None,
        within=sum(g.stderr or 0.0 for g in there) / len(there),
    )

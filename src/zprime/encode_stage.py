"""The stage of a run that encodes the three splits: the artefacts `posteriors/<split>`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from zprime import artifact, chain, distributed
from zprime.artifact import Artifact
from zprime.data import SPLITS, Rows
from zprime.encoding import DRAWS, encode, encode_shard, shard_count
from zprime.errors import UsageError
from zprime.own_model import OwnModel
from zprime.posteriors import Posteriors, ShardedPosteriors
from zprime.progress import Progress, silent
from zprime.run_folder import RunFolder
from zprime.run_posteriors import draws_by_split, steps_by_split
from zprime.semi_amortised import check_steps
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.vae import Encoder

Source = tuple[Path, OwnModel, str, int, int | None]
"""Folder of a run, code of its model, hash of its model, gradient steps on the q of each row, draws of each flow."""
_open: dict[Source, tuple[Encoder, Mapping[str, Rows]]] = {}
"""Model and rows of the run that this process encodes, read once."""


@final
@dataclass(frozen=True)
class EncodeStage:
    """How to encode the rows of a run; the processes of a job share the shards.

    Attributes:
        folder: of the run.
        threads: how many threads torch uses, by the work.
        progress: called once a shard.
        steps: gradient steps on the q of each row (`semi_amortised`); None as many as the posteriors there have, or 0.
        replace: put the posteriors in the place of those that have another number of steps or draws, and were used.
        draws: of each posterior that is a flow (`encoding.encode`); None as many as those there have, or 64.
    """

    folder: RunFolder
    threads: Threads = Threads()
    progress: Progress = silent
    steps: int | None = None
    replace: bool = False
    draws: int | None = None

    def run(self) -> dict[str, Posteriors]:
        """Encode what is not encoded yet.

        Raises:
            ArtifactError: there is no model, or the data are not those that it was trained on.
            NumericalError: the encoder gave numbers that are not finite, or a scale that is not above 0.
            UsageError: posteriors with another number of steps or draws would be replaced, and what was made from them;
                a model with which no steps can be made, or one without draws.
        """
        folder, source = self.folder, self.folder.model
        source.verify()
        steps, draws = self._steps(), self._draws()
        # code of the user's own runs only where something is to be encoded
        model = functools.cache(lambda: folder.encoding(steps))
        self.threads.use(heavy=folder.of_model.heavy)
        inputs = {"model": source.hash, "data": source.inputs["data"]}
        posteriors: dict[str, Posteriors] = {}
        for split in SPLITS:

            def make(path: Path, key: str, split: str = split) -> Artifact:
                rows = folder.rows[split]
                several = distributed.world() > 1
                if several:
                    at = (folder.path, folder.own, source.hash, steps, draws)
                    count = shard_count(model(), rows, draws)
                    _open.clear()
                    _open[at] = model(), folder.rows
                    tell = functools.partial(self._tell, rows, count)
                    distributed.each(_encode_shard, (at, split, path, key), range(count), before=tell)
                progress = silent if several else self.progress
                encode(model(), rows, path, key=key, seed=source.seed, inputs=inputs, draws=draws, progress=progress)
                if several:
                    self._tell(rows, count, count)
                return artifact.read(path)

            name = f"posteriors/{split}"
            how = ["steps", steps] if steps else []  # the encoder's own have the key of earlier versions
            how += [] if draws is None else ["draws", draws]
            reuse_or_make(folder.path, name, key_of(split, source.hash, *how), make, kind="posteriors")
            posteriors[split] = ShardedPosteriors(folder.path / name)
        if _open:
            distributed.each(_forget, (), range(distributed.world()))
        return posteriors

    def _steps(self) -> int:
        """How many steps, after a look at what would be replaced."""
        there = steps_by_split(self.folder.path)
        if self.steps is None:
            return next(iter(there.values()), 0)
        made = self.folder.of_model
        check_steps(self.steps, "diagonal" if made.brought else made.form)
        self._check_lost("steps", self.steps, there)
        return self.steps

    def _draws(self) -> int | None:
        """How many draws of each posterior, after a look at what would be replaced; None where it is no flow."""
        folder, there = self.folder, draws_by_split(self.folder.path)
        if folder.of_model.brought or folder.of_model.form != "flow":
            return self.draws  # whoever encodes refuses them
        if self.draws is None:
            return next(iter(there.values()), DRAWS)
        self._check_lost("draws", self.draws, there)
        return self.draws

    def _check_lost(self, what: str, wanted: int, there: Mapping[str, int]) -> None:
        """Raise `UsageError` where posteriors with other numbers of steps, or of draws, were used, unless asked to."""
        run = self.folder.path
        other = {s: n for s, n in there.items() if n != wanted}
        names = [f"posteriors/{s}" for s in other]
        lost = list(dict.fromkeys(n for name in names for n in chain.below(run, name)))
        if lost and not self.replace:
            raise UsageError(
                f"{run}: the posteriors were encoded with {what}={next(iter(other.values()))}, and {what}={wanted} was "
                f"asked for. Going on would replace them and remove {', '.join([*lost, *chain.outputs(run, lost)])}, "
                "which were made from them. Say --replace to do that (in Python: replace=True)"
            )

    def _tell(self, rows: Rows, count: int, k: int) -> None:
        """How far all processes are, where this one is at shard `k` of `count`."""
        self.progress(f"encode {rows.name}", len(rows) * k // count, len(rows))


def _forget(process: int) -> None:
    """Keep model and rows no longer, in whatever process."""
    _open.clear()


def _encode_shard(at: Source, split: str, path: Path, key: str, k: int) -> None:
    """Encode one shard of a split, in whatever process."""
    if at not in _open:
        folder = RunFolder(*at[:2])
        _open.clear()
        _open[at] = folder.encoding(at[3]), folder.rows
    model, rows = _open[at]
    encode_shard(model, rows[split], path, key, k, at[4])

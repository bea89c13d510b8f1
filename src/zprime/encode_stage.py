"""The stage of a run that encodes the three splits: the artefacts `posteriors/<split>`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from zprime import artifact, distributed
from zprime.artifact import Artifact
from zprime.data import SPLITS, Rows
from zprime.encoding import encode, encode_shard, shard_count
from zprime.own_model import OwnModel
from zprime.posteriors import Posteriors, ShardedPosteriors
from zprime.progress import Progress, silent
from zprime.run_folder import RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.vae import Encoder

Source = tuple[Path, OwnModel, str]
"""Folder of a run, code of its model, hash of its model."""
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
    """

    folder: RunFolder
    threads: Threads = Threads()
    progress: Progress = silent

    def run(self) -> dict[str, Posteriors]:
        """Encode what is not encoded yet.

        Raises:
            ArtifactError: there is no model, or the data are not those that it was trained on.
            NumericalError: the encoder gave numbers that are not finite, or a scale that is not above 0.
        """
        folder, source = self.folder, self.folder.model
        source.verify()
        model = functools.cache(lambda: folder.vae)  # code of the user's own runs only where something is to be encoded
        self.threads.use(heavy=folder.of_model.heavy)
        inputs = {"model": source.hash, "data": source.inputs["data"]}
        posteriors: dict[str, Posteriors] = {}
        for split in SPLITS:

            def make(path: Path, key: str, split: str = split) -> Artifact:
                rows = folder.rows[split]
                several = distributed.world() > 1
                if several:
                    at, count = (folder.path, folder.own, source.hash), shard_count(rows)
                    _open.clear()
                    _open[at] = model(), folder.rows
                    tell = functools.partial(self._tell, rows, count)
                    distributed.each(_encode_shard, (at, split, path, key), range(count), before=tell)
                progress = silent if several else self.progress
                encode(model(), rows, path, key=key, seed=source.seed, inputs=inputs, progress=progress)
                if several:
                    self._tell(rows, count, count)
                return artifact.read(path)

            name = f"posteriors/{split}"
            reuse_or_make(folder.path, name, key_of(split, source.hash), make, kind="posteriors")
            posteriors[split] = ShardedPosteriors(folder.path / name)
        if _open:
            distributed.each(_forget, (), range(distributed.world()))
        return posteriors

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
        _open[at] = folder.vae, folder.rows
    model, rows = _open[at]
    encode_shard(model, rows[split], path, key, k)

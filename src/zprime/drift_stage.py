"""The stage of a run that compares new rows with it: the artefact `drift`."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from zprime import data as datasets
from zprime.artifact import Artifact
from zprime.encoding import encode
from zprime.errors import UsageError
from zprime.measure.latents.drift import drift
from zprime.measure.study import Split
from zprime.progress import Progress, silent
from zprime.results.audit import load
from zprime.results.drift import PLACE, Drift
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.run_posteriors import draws_of_run
from zprime.serialise import to_jsonable
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads


@final
@dataclass(frozen=True)
class DriftStage:
    """How to compare codes of new rows with those of held-out rows, under what was shipped.

    Attributes:
        folder: of the run.
        seed: decides draws and shuffles.
        threads: how many threads torch uses, by the work.
        progress: called once a shard.
    """

    folder: RunFolder
    seed: int
    threads: Threads = Threads()
    progress: Progress = silent

    def run(self, new_data: str) -> Drift:
        """Read the rows, encode and compare them.

        Raises:
            UsageError: nothing to read there; a latent distribution without a density.
            ArrayError: rows of another shape, that are not finite, or fewer than 8.
            ArtifactError: the run was not audited.
        """
        folder, seed = self.folder, self.seed
        shipped = folder.distribution(folder.choice())
        if shipped.density == "none":
            raise UsageError(
                f"new data: {shipped.label} knows no log r(z), which drift is measured by; ship another kind"
            )
        self.threads.use(heavy=True)
        column, described = load(folder.path / "audit").data.weights, folder.data.config
        rows, weights = datasets.new_rows(new_data, described, folder.scaling(), weights=column, seed=seed)
        draws = draws_of_run(folder.path) or None  # as many as held-out rows have
        codes = encode(folder.encoding(), rows, draws=draws, progress=self.progress).gather()
        groups = None if rows.groups is None else rows.groups[codes.row_of]
        new = Split("new rows", codes if weights is None else codes.weighted(weights[codes.row_of]), groups=groups)
        moved = drift(shipped, new, self._heldout(column), source=shipped.label, rng=stream(seed, "drift"))
        inputs = {"audit": folder.audit.hash}

        def make(path: Path, key: str) -> Artifact:
            return moved.save(path, key=key, seed=seed, inputs=inputs)

        reuse_or_make(folder.path, PLACE, key_of(to_jsonable(moved), inputs), make, kind=PLACE)
        return moved

    def _heldout(self, column: str) -> Split:
        """Held-out codes, weighed by a column, in the groups of the run; the data are read only where these matter."""
        codes = self.folder.posteriors("heldout").gather()
        if column:
            codes = codes.weighted(self.folder.dataset.weights(column, "heldout")[codes.row_of])
        groups = self.folder.rows["heldout"].groups if self.folder.data.config["settings"]["group"] else None
        return Split("heldout", codes, groups=None if groups is None else groups[codes.row_of])

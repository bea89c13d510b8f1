"""The main job: train, encode, fit, audit, ship, report, in one folder; what is already done is used again, by key.

`run` does everything in one call. A `Run` has one method for each stage.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from zprime import artifact, sampling, vae
from zprime import data as datasets
from zprime.artifact import Artifact, Manifest
from zprime.audit_stage import AuditStage
from zprime.data import SPLITS, DataSettings
from zprime.distribution import LatentDistribution
from zprime.encoding import encode
from zprime.errors import UsageError
from zprime.fit_stage import KINDS, FitStage, Wanted, settings_of
from zprime.latent.kind import Fit
from zprime.measure.latents.drift import drift
from zprime.measure.study import Split
from zprime.posteriors import Posteriors, ShardedPosteriors
from zprime.progress import Progress, silent
from zprime.reporting import report
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.drift import Drift
from zprime.results.names import PRIOR, CandidateId
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.sampling import GenerativeModel
from zprime.seeds import check as check_seeds
from zprime.seeds import repeat
from zprime.stages import Make, NewFolder, key_of, reuse_or_make
from zprime.threads import Threads
from zprime.train_stage import TrainStage
from zprime.training import TrainSettings
from zprime.vae import VAE, VAESettings

log = logging.getLogger("zprime")


def run(
    data: str | Path | DataSettings,
    out: str | Path,
    *,
    network: VAESettings = VAESettings(),
    training: TrainSettings = TrainSettings(),
    kinds: Wanted = KINDS,
    by: str = "",
    weights: str = "",
    auditing: AuditSettings = AuditSettings(),
    seed: int = 0,
    seeds: int = 1,
    workers: int = 1,
    threads: Threads = Threads(),
    progress: Progress = silent,
) -> Audit:
    """Do everything: train, encode, fit, audit, report. What is already done in the folder is used again.

    Args:
        data: what to read, e.g. `digits` or a file, or that with how to split it.
        out: folder of the run: new, empty, or of an earlier run. It then also holds `report.html`.
        network: the architecture of the VAE.
        training: how to train it.
        kinds: latent distributions to fit beside the prior, by name or as settings.
        by: `label` fits each kind once for each label: r(z|y).
        weights: column of the data that rows are weighed by, in fits and in every average of the audit: another
            population.
        auditing: how much to measure.
        seed: decides every random choice: splits, weights, noise, draws.
        seeds: trainings: more than one repeats everything with the seeds after `seed`, each in `seeds/<seed>` of the
            folder, on the same splits; the audit then has the gains and verdicts over seeds (`Audit.seeds`).
        workers: fits in processes, and measures in threads, side by side, where the data are large; the numbers do not
            depend on it. A script that asks for more than 1 needs `if __name__ == "__main__":` round the call.
        threads: how many threads torch uses, by the work; by default torch is left as it is.
        progress: called by every long stage.

    Returns:
        The audit, which is also kept in the folder.

    Raises:
        UsageError: settings that cannot be used, nothing to read, or a folder that cannot be written.
        ArrayError: rows that cannot be used.
        ArtifactError: something in the folder was altered.
        NumericalError: training or a fit met numbers that are not finite, or a proven bound is broken.
    """
    wanted = settings_of(kinds, by)
    source = data if isinstance(data, DataSettings) else DataSettings(str(data))
    check_seeds(seeds)
    source = datasets.weighed_by(source, weights, seed=seed) if weights else source

    def make(path: Path, source: DataSettings, seed: int, progress: Progress) -> Audit:
        job = Run.create(path, progress=progress, threads=threads)
        job.train(source, network, training, seed=seed)
        job.encode()
        fitted = job.fit(wanted, seed=seed, weights=weights, workers=workers)
        return job.audit(auditing, seed=seed, names=list(fitted), weights=weights, workers=workers)

    audit = repeat(make, source, Path(out), range(seed, seed + seeds), progress)
    report(out)
    return audit


@final
class Run:
    """The stages that fill the folder of a run. Each uses what is already there, if it was made from the same.

    Attributes:
        folder: what is there.
        progress: called by every long stage.
        threads: how many threads torch uses, by the work.
    """

    def __init__(
        self, folder: RunFolder, new: NewFolder, *, progress: Progress = silent, threads: Threads = Threads()
    ) -> None:
        """Use `create` or `open` instead."""
        self.folder, self.progress, self.threads = folder, progress, threads
        self._new = new

    @classmethod
    def create(cls, path: str | Path, *, progress: Progress = silent, threads: Threads = Threads()) -> "Run":
        """Open a run's folder, or make one; if its first training fails, what was made is removed again.

        Raises:
            UsageError: the folder cannot be written, or holds files that are not a run.
        """
        path = Path(path)
        artifact.check_replaceable(path)
        if artifact.is_artifact(path):
            return cls.open(path, progress=progress, threads=threads)
        job = cls(RunFolder(path), _new_folder(path), progress=progress, threads=threads)
        with job._new.attempt():
            return job

    @classmethod
    def open(cls, path: str | Path, *, progress: Progress = silent, threads: Threads = Threads()) -> "Run":
        """Open a run's folder, and clear away what a killed process left half written.

        Raises:
            ArtifactError: it is no run's folder.
        """
        path = Path(path)
        return cls(RunFolder.open(path), _new_folder(path), progress=progress, threads=threads)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    # -- stages, in order ------------------------------------------------------------------------------------------

    def train(
        self,
        data: DataSettings,
        network: VAESettings = VAESettings(),
        training: TrainSettings = TrainSettings(),
        *,
        seed: int,
    ) -> VAE:
        """Read and split the data, train a VAE, write `data` and `model`.

        Args:
            data: what to read and how to split it.
            network: the architecture.
            training: how to train.
            seed: decides splits, weights, row order and noise.

        Raises:
            UsageError: settings that cannot be used, or nothing to read.
            ArrayError: rows that cannot be used.
            NumericalError: the loss is not finite.
        """
        with self._new.attempt():
            return TrainStage(self.folder, seed, self.threads, self.progress).run(data, network, training)

    def encode(self) -> dict[str, Posteriors]:
        """Encode all three splits; write `posteriors/<split>`.

        Raises:
            ArtifactError: there is no model, or the data are not those that it was trained on.
            NumericalError: the encoder gave numbers that are not finite, or a scale that is not above 0.
        """
        source = self.folder.model
        model = vae.load(source.path)
        self.threads.use(heavy=model.settings is not None and model.settings.network == "conv")
        inputs = {"model": source.hash, "data": source.inputs["data"]}
        posteriors: dict[str, Posteriors] = {}
        for split in SPLITS:

            def make(path: Path, key: str, split: str = split) -> Artifact:
                rows = self.folder.rows[split]
                encode(model, rows, path, key=key, seed=source.seed, inputs=inputs, progress=self.progress)
                return artifact.read(path)

            name = f"posteriors/{split}"
            self._stage(name, key_of(split, source.hash), make, kind="posteriors")
            posteriors[split] = ShardedPosteriors(self.path / name)
        return posteriors

    def fit(
        self,
        kinds: Wanted = KINDS,
        *,
        seed: int,
        names: Sequence[str] | None = None,
        weights: str = "",
        workers: int = 1,
    ) -> dict[str, Fit[LatentDistribution]]:
        """Fit each kind on the training posteriors; write `latent/<name>`.

        Args:
            kinds: kinds by name, or their settings.
            seed: decides every random choice.
            names: what to call them, instead of their kinds.
            weights: column of the data that rows are weighed by.
            workers: processes with one thread each, for kinds that take long, where the data are large and there are
                several such kinds. A script that asks for more than 1 needs `if __name__ == "__main__":` round it.

        Returns:
            Name -> fit, in the order of `kinds`; kinds that need labels are left out where the data have none.

        Raises:
            UsageError: an unknown kind, settings or names that cannot be used.
            ArtifactError: there are no posteriors of this run's model.
        """
        settings = settings_of(kinds)
        called = list(names) if names else [s.name for s in settings]
        if len(called) != len(settings):
            raise UsageError(f"names: expected {len(settings)}, one for each kind, got {len(called)}")
        stage = FitStage(self.folder, seed, weights, workers, self.threads, self.progress)
        return stage.run(dict(zip(called, settings, strict=True)))

    def audit(
        self,
        settings: AuditSettings = AuditSettings(),
        *,
        seed: int,
        names: Sequence[str] | None = None,
        weights: str | None = None,
        workers: int = 1,
    ) -> Audit:
        """Measure the fitted kinds (all, or those named); write `audit`, and `generator` of what is shipped.

        Args:
            settings: how much to measure.
            seed: of every draw.
            names: fitted latent distributions; default all.
            weights: column of the data that rows are weighed by in every average; empty for equal weights, None for
                the column that the fits were weighed by.
            workers: threads that measure side by side, where the data are large.

        Raises:
            UsageError: settings that cannot be used, or fits that were weighed by different columns.
            ArtifactError: something is missing, or does not belong together.
            NumericalError: a proven bound is broken.
        """
        AuditStage(self.folder, seed, weights, workers, self.threads, self.progress).run(settings, names)
        audit = load_audit(self.path / "audit")
        if audit.copying(audit.shipped) == "copies":
            log.warning("generator: nothing is shipped, for samples of %s copy training rows", audit.shipped)
            shutil.rmtree(self.path / "generator", ignore_errors=True)
        else:
            self.export(audit.shipped, self.path / "generator", allow_rows=settings.allow_rows)
        return audit

    def export(
        self, name: str, path: str | Path, *, allow_copies: bool = False, allow_rows: bool = False
    ) -> GenerativeModel:
        """Write the generative model with what is called `name`: decoder and r(z), nothing else.

        Raises:
            UsageError: its samples copy training rows, or it stores such rows, and that was not allowed.
        """
        path = Path(path)
        model = self.folder.generative(name)
        sampling.check_leaks(model, allow_copies=allow_copies, allow_rows=allow_rows)
        source = self.folder.model
        inputs = {"model": source.hash}
        base = CandidateId.parse(name).name
        if base != PRIOR:
            inputs["latent"] = artifact.read(self.path / "latent" / base).hash
        key = key_of(name, inputs, model.copying)
        if not (artifact.is_artifact(path) and artifact.read(path).key == key):
            model.save(path, key=key, seed=source.seed, allow_copies=allow_copies, allow_rows=allow_rows, **inputs)
        return model

    def drift(self, new_data: str | Path, *, seed: int = 0) -> Drift:
        """Compare codes of new rows with those of held-out rows, under what was shipped; the audit keeps the result.

        Both are weighed by the column that the audit weighed rows by, and grouped as the run's rows are.

        Args:
            new_data: a file or folder, as a run's own data, with the same columns of groups and weights.
            seed: decides draws and shuffles.

        Raises:
            UsageError: nothing to read there; a latent distribution without a density.
            ArrayError: rows of another shape, that are not finite, or fewer than 8.
            ArtifactError: the run was not audited.
        """
        folder = self.folder
        shipped = folder.generative(folder.choice()).latent
        if shipped.density == "none":
            raise UsageError(
                f"new data: {shipped.label} knows no log r(z), which drift is measured by; ship another kind"
            )
        self.threads.use(heavy=True)
        old = artifact.read(self.path / "audit", "audit")
        audit = load_audit(old.path)
        column, described = audit.data.weights, folder.data.config
        rows, weights = datasets.new_rows(str(new_data), described, folder.data.tensors(), weights=column, seed=seed)
        codes = encode(vae.load(folder.model.path), rows, progress=self.progress).gather()
        new = Split("new rows", codes if weights is None else codes.weighted(weights), groups=rows.groups)
        moved = drift(shipped, new, self._heldout(column), source=shipped.label, rng=stream(seed, "drift"))
        replace(audit, drift=moved).save(old.path, key=old.key, **old.inputs)
        return moved

    def _heldout(self, column: str) -> Split:
        """Held-out codes, weighed by a column, in the groups of the run; the data are read only where these matter."""
        codes = self.folder.posteriors("heldout").gather()
        if column:
            codes = codes.weighted(self.folder.dataset.weights(column, "heldout"))
        grouped = bool(self.folder.data.config["settings"]["group"])
        return Split("heldout", codes, groups=self.folder.rows["heldout"].groups if grouped else None)

    def _stage(self, name: str, key: str, make: Make, *, kind: str | None = None) -> Artifact:
        return reuse_or_make(self.path, name, key, make, kind=kind)


def _new_folder(path: Path) -> NewFolder:
    return NewFolder(path, Manifest("run"), worth=("checkpoint", "model"), scrap=("data",))

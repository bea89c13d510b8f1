"""The main job: train, encode, fit, audit, ship, report, in one folder; what is already done is used again, by key.

`run` does everything in one call. A `Run` has one method for each stage.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from zprime import artifact, chain
from zprime import data as datasets
from zprime.audit_stage import AuditStage, check_ahead
from zprime.data import DataSettings
from zprime.distribution import LatentDistribution
from zprime.drift_stage import DriftStage
from zprime.encode_stage import EncodeStage
from zprime.errors import UsageError
from zprime.fit_stage import KINDS, FitStage, Wanted, settings_of
from zprime.latent.kind import Fit
from zprime.learned import Asked, prior_for
from zprime.own_model import OwnModel
from zprime.own_stage import OwnStage, check_own
from zprime.posteriors import Posteriors
from zprime.progress import Progress, shown
from zprime.reporting import report
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.drift import Drift
from zprime.run_folder import CHECKPOINT, FOLDERS, RunFolder
from zprime.run_posteriors import Way, way_of
from zprime.sampling import GenerativeModel
from zprime.seeds import check as check_seeds
from zprime.seeds import check_room, repeat
from zprime.ship_stage import ShipStage
from zprime.stages import NewFolder
from zprime.threads import Threads
from zprime.train_settings import TrainSettings
from zprime.train_stage import TrainStage
from zprime.vae import VAE
from zprime.vae_settings import VAESettings

log = logging.getLogger("zprime")
GENERATOR = "generator"


def run(
    data: str | Path | DataSettings,
    out: str | Path,
    *,
    network: VAESettings = VAESettings(),
    training: TrainSettings = TrainSettings(),
    prior: Asked = None,
    own: OwnModel = OwnModel(),
    kinds: Wanted = KINDS,
    by: str = "",
    weights: str = "",
    auditing: AuditSettings = AuditSettings(),
    seed: int = 0,
    seeds: int = 1,
    workers: int = 1,
    threads: Threads = Threads(),
    progress: Progress = shown,
    replace: bool = False,
) -> Audit:
    """Do everything: train, encode, fit, audit, report. What is already done in the folder is used again.

    What is there and was made with other settings is not replaced unless `replace` says so.

    Args:
        data: what to read, e.g. `digits` or a file, or that with how to split it.
        out: folder of the run: new, empty, or of an earlier run. It then also holds `report.html`.
        network: the architecture of the VAE.
        training: how to train it.
        prior: p(z), kept as it is: ours, or a Gaussian of torch or a mixture of them; None is N(0, I). Or a kind that
            is learned in training, e.g. `vamp`, or its settings (`zprime.learned`).
        own: a VAE of your own in place of a training: `zprime.OwnModel("mymodel.py:build", "weights.pt")`.
        kinds: latent distributions to fit beside the prior, by name or as settings.
        by: `label` fits each kind once for each label: r(z|y).
        weights: column of the data that rows are weighed by, in fits and in averages of the audit: another population.
        auditing: how much to measure.
        seed: decides every random choice: splits, weights, noise, draws.
        seeds: trainings: more than one repeats everything with the seeds after `seed`, each in `seeds/<seed>` of the
            folder, on the same splits; the audit then has the gains and verdicts over seeds (`Audit.seeds`).
        workers: fits in processes, and measures in threads, side by side, where the data are large; the numbers do not
            depend on it. A script that asks for more than 1 needs `if __name__ == "__main__":` round the call.
        threads: how many threads torch uses, by the work; by default torch is left as it is.
        progress: called by every long stage.
        replace: put the new run in the place of one with other settings.

    Returns:
        The audit, which is also kept in the folder.

    Raises:
        UsageError: settings that cannot be used, nothing to read, a folder that cannot be written, that another process
            writes in, or that holds a run with other settings.
        ArrayError: rows that cannot be used.
        ArtifactError: something in the folder was altered.
        NumericalError: training or a fit met numbers that are not finite, or a proven bound is broken.
    """
    wanted = settings_of(kinds, by)
    check_ahead(wanted, auditing, "" if own.given else network.posterior, prior)
    source = data if isinstance(data, DataSettings) else DataSettings(str(data))
    check_seeds(seeds)
    if own.given:
        check_own(network, training, prior, seeds)
    check_room(Path(out), [s.name for s in wanted], range(seed + 1, seed + seeds))
    source = datasets.weighed_by(source, weights, seed=seed, brought=own.given) if weights else source

    def make(path: Path, source: DataSettings, seed: int, progress: Progress) -> Audit:
        job = Run.create(path, progress=progress, threads=threads, replace=replace, own=own)
        with job.alone():
            if own.given:
                job.bring(source, seed=seed)
            else:
                job.train(source, network, training, seed=seed, prior=prior)
            job.encode(**(Way() if path == Path(out) else way_of(Path(out)))._asdict())
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
        replace: whether what was made with other settings may be replaced.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        progress: Progress = shown,
        threads: Threads = Threads(),
        replace: bool = False,
    ) -> None:
        """Use `create` or `open` instead."""
        self.folder, self.progress, self.threads, self.replace = folder, progress, threads, replace
        self._new = NewFolder(folder.path, worth=(CHECKPOINT, "model"), scrap=("data",))

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        progress: Progress = shown,
        threads: Threads = Threads(),
        replace: bool = False,
        own: OwnModel = OwnModel(),
    ) -> "Run":
        """Open a run's folder, or make one; if its first training fails, what was made is removed again.

        Raises:
            UsageError: the folder cannot be written, another process writes in it, or it holds files that are no run.
        """
        path = Path(path)
        artifact.check_replaceable(path)
        if artifact.is_artifact(path):
            return cls.open(path, progress=progress, threads=threads, replace=replace, own=own)
        artifact.sweep(path)
        job = cls(RunFolder(path, own), progress=progress, threads=threads, replace=replace)
        with job.alone():
            return job

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        progress: Progress = shown,
        threads: Threads = Threads(),
        replace: bool = False,
        own: OwnModel = OwnModel(),
    ) -> "Run":
        """Open a run's folder, and clear away what a killed process left half written.

        Raises:
            ArtifactError: it is no run's folder.
            UsageError: another process writes in it, or something else than a folder is in the place of one.
        """
        chain.check_folders(Path(path), FOLDERS)
        job = cls(RunFolder.open(path, own), progress=progress, threads=threads, replace=replace)
        with job.alone():
            chain.tidy(job.path)
        return job

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process write in the folder; each stage does, and calls within it share the lock.

        Raises `UsageError` where another process writes in it.
        """
        with self._new.attempt():
            yield

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    def train(
        self,
        data: DataSettings,
        network: VAESettings = VAESettings(),
        training: TrainSettings = TrainSettings(),
        *,
        seed: int,
        prior: Asked = None,
    ) -> VAE:
        """Read and split the data, train a VAE, write `data` and `model`.

        Args:
            data: what to read and how to split it.
            network: the architecture.
            training: how to train.
            seed: decides splits, weights, row order and noise.
            prior: p(z); None is N(0, I). Or a kind that is learned in training, or its settings.

        Raises:
            UsageError: settings or a prior that cannot be used, or nothing to read.
            ArrayError: rows that cannot be used.
            NumericalError: the loss is not finite.
        """
        with self.alone():
            how = (self.threads, self.progress, self.replace, prior_for(prior, network.latents))
            return TrainStage(self.folder, seed, *how).run(data, network, training)

    def bring(self, data: DataSettings, *, seed: int) -> None:
        """Read and split the data, and take a model of your own, `folder.own`; write `data` and `model`.

        Args:
            data: what to read, and from where the rows that the model has not seen.
            seed: decides the selection split, and the rows that the model is tried on.

        Raises:
            UsageError: a model or settings that cannot be used, or no rows that the model has not seen.
            ArrayError, NumericalError: rows or answers that cannot be used.
        """
        with self.alone():
            OwnStage(self.folder, seed, self.threads, self.replace).run(data)

    def encode(self, *, steps: int | None = None, draws: int | None = None) -> dict[str, Posteriors]:
        """Encode all three splits, with `steps` and `draws` as `EncodeStage` has them; write `posteriors/<split>`.

        Raises:
            ArtifactError: there is no model, or the data are not those that it was trained on.
            NumericalError: the encoder gave numbers that are not finite, or a scale that is not above 0.
        """
        with self.alone():
            return EncodeStage(self.folder, self.threads, self.progress, steps, self.replace, draws).run()

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
        with self.alone():
            stage = FitStage(self.folder, seed, weights, workers, self.threads, self.progress, self.replace)
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
        with self.alone():
            stage = AuditStage(self.folder, seed, weights, workers, self.threads, self.progress, self.replace)
            audit = load_audit(stage.run(settings, names).path)
            ShipStage(self.folder).ship(audit, allow_rows=settings.allow_rows)
            return audit

    def export(
        self, name: str, path: str | Path, *, allow_copies: bool = False, allow_rows: bool = False
    ) -> GenerativeModel:
        """Write the generative model with what is called `name`: decoder and r(z), nothing else.

        Raises:
            UsageError: its samples copy training rows, or it stores such rows, and that was not allowed.
        """
        return ShipStage(self.folder).export(name, Path(path), allow_copies=allow_copies, allow_rows=allow_rows)

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
        with self.alone():
            return DriftStage(self.folder, seed, self.threads, self.progress).run(str(new_data))

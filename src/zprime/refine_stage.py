"""The stage of a run that trains the model of another run on, with a latent distribution in place of its prior."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from zprime import artifact, atomic, model_prior, vae
from zprime.artifact import Artifact, Manifest
from zprime.checkpoints import checkpoint_key
from zprime.data_stage import DataStage, Wanted, came_from
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent import Aggregated
from zprime.learned import Learned, going_on_from, words
from zprime.progress import Progress, silent
from zprime.results.names import CandidateId
from zprime.run_folder import CHECKPOINT, RunFolder
from zprime.run_model import WHOLE_SECONDS
from zprime.serialise import later, recorded
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.train_settings import TrainSettings
from zprime.train_stage import described, tensors
from zprime.training import train
from zprime.vae import VAE

WITH = "mixture"
"""What takes the prior's place, where nothing else is said."""
SLOWER = 3.0
"""What the learning rate of a run is divided by, where nothing else is said."""

WHOLE: Mapping[str, Any] = {"warmup": 0.0, "warmup_epochs": 0, "cycles": 1, "free_bits": 0.0}
"""Settings with which the KL term has its whole weight from the first epoch on, and no part of it is free."""


@final
@dataclass(frozen=True)
class Origin:
    """What a training goes on from.

    Attributes:
        parent: the folder of the run that was trained before; it stays as it is.
        name: what takes the prior's place: something that was fitted there, e.g. `mixture`.
        learn: whether that is trained with encoder and decoder; else it stays as it is.
    """

    parent: RunFolder
    name: str
    learn: bool = False

    @cached_property
    def model(self) -> Artifact:
        """The model as it was trained before.

        Raises:
            UsageError: it is one of the user's own.
        """
        found = self.parent.of_model
        if found.brought:
            raise UsageError(
                f"refine: the model of {self.parent.path} is your own, and zprime cannot train it; train it with the "
                "distribution that was fitted as its prior, and bring it again"
            )
        return found.source

    @cached_property
    def distribution(self) -> LatentDistribution:
        """What takes the prior's place.

        Raises:
            UsageError: there is none of this name, or it cannot be trained with: it has no log-density, or stays as it
                is and stores functions of single training rows.
        """
        fitted = CandidateId.parse(self.name).name
        if fitted not in self.parent.fitted:
            there = ", ".join(self.parent.fitted) or "none"
            raise UsageError(f"with: expected something that was fitted in this run ({there}), got {self.name!r}")
        r = self.parent.distribution(self.name)
        model_prior.checked(r, r.d)
        if r.holds_rows and not self.learn:
            raise _sees_itself(r)
        return r

    @cached_property
    def learned(self) -> Learned | None:
        """How it is learned on; None where it stays as it is.

        Raises:
            UsageError: it cannot be learned.
        """
        if not self.learn:
            return None
        settings = going_on_from(self.distribution)
        settings.make(self.distribution.d)  # can it be?
        return settings

    def vae(self) -> VAE:
        """The model as it was, with the other prior."""
        begun = vae.load(self.model.path)
        begun.prior = self.distribution
        return begun

    @cached_property
    def told(self) -> dict[str, object]:
        """Of the two artefacts that it goes on from, their hashes."""
        fit = self.parent.fit(CandidateId.parse(self.name).name)
        return {"model": self.model.hash, "name": self.name, "fit": fit.hash, "learned": self.learn}

    def spent(self, seconds: float) -> dict[str, float]:
        """CPU seconds of training on, and with those of the training and the fit before, where they were measured."""
        fit = self.parent.fit(CandidateId.parse(self.name).name)
        before = self.parent.of_model.seconds, fit.measured.get("seconds")
        known = [s for s in before if s is not None]
        return {"seconds": seconds} | ({WHOLE_SECONDS: seconds + sum(known)} if len(known) == len(before) else {})

    @property
    def prior(self) -> str:
        """The kind of the prior, and how it is learned, in words."""
        return self.distribution.kind if self.learned is None else words(self.learned.described)

    def settings(self, *, epochs: int, lr: float, patience: int | None) -> TrainSettings:
        """Those of the training before with some changes, and all of the KL term at its whole weight from the start.

        Raises:
            UsageError: they cannot be used, or the objective has no prior.
        """
        before = TrainSettings(**self.model.config["training"])
        if before.objective == "rae":
            raise UsageError(
                f"refine: expected a model that was trained with a prior, and {self.parent.path} was trained with "
                "--objective rae, whose codes are pulled towards 0; what was fitted there is used as it is"
            )
        patience = before.patience if patience is None else patience
        after = replace(before, epochs=epochs, lr=lr or before.lr / SLOWER, patience=patience, **WHOLE)
        after.check()
        return after


def _sees_itself(r: LatentDistribution) -> UsageError:
    """What is said of an r in which a training row has a component of its own."""
    learnable = isinstance(r, Aggregated) and r.weights is None
    on = "--learn-prior, with which a row leaves its own component out, or " if learnable else ""
    return UsageError(
        f"with: {r.label} stores functions of single training rows, so in training a row would find its own component "
        f"there, and its KL term would be at most log N nats; give {on}a mixture or a flow"
    )


@final
@dataclass(frozen=True)
class RefineStage:
    """How to fill the folder of a run with the data of another run, and with its model, trained on.

    Attributes:
        folder: of the run.
        origin: what it goes on from.
        settings: how to train.
        seed: decides row order and noise; None for that of the training before.
        threads: how many threads torch uses, by the work.
        progress: called once an epoch.
        replace: take out of the run what was made with other settings.
    """

    folder: RunFolder
    origin: Origin
    settings: TrainSettings
    seed: int | None = None
    threads: Threads = Threads()
    progress: Progress = silent
    replace: bool = False

    def run(self) -> VAE:
        """Train on, or use what is there already.

        The state before counts as epoch 0: it is kept if no epoch has a better ELBO on the selection split.

        Raises:
            UsageError: a run with other settings is there.
            ArtifactError: something of the other run is missing, or was altered.
            NumericalError: the loss is not finite.
        """
        origin, parent = self.origin, self.origin.parent
        rows, selection = (parent.dataset.rows(split) for split in ("train", "selection"))
        seed = int(origin.model.seed or 0) if self.seed is None else self.seed
        lies = {artifact.SOURCE: parent.data.source, artifact.HELDOUT_SOURCE: parent.data.heldout_source}
        stage = DataStage(self.folder, parent.dataset, {k: v for k, v in lies.items() if v}, self.replace)
        key = key_of("refined", origin.told, self._told, seed, stage.wanted.key)
        differing = {
            **later(self.settings),
            **self._told,
            "prior": origin.prior,
            "seed": seed,
            "refined from": came_from(origin.told),
        }

        def unfinished() -> str:
            return checkpoint_key(origin.vae(), rows, selection, self.settings, seed=seed, prior=origin.learned)

        stage.make_room(Wanted(key, differing), unfinished, origin.vae)
        source, checkpoint = stage.run(), self.folder.path / CHECKPOINT
        self.threads.use(heavy=parent.of_model.heavy)

        def make(path: Path, key: str) -> Artifact:
            trained = train(
                origin.vae(),
                rows,
                selection,
                self.settings,
                prior=origin.learned,
                start=True,
                seed=seed,
                checkpoint=checkpoint,
                progress=self.progress,
            )
            config = {
                "vae": vae.describe(trained.vae),
                "training": self._told,
                "epoch": trained.epoch,
                "history": trained.history,
                "stopped": trained.stopped,
                **described(trained.vae, origin.learned),
                "refined": {**origin.told, "selection": trained.start},
            }
            manifest = Manifest("model", config, key, seed, {"data": source.hash}, origin.spent(trained.seconds))
            return artifact.write(path, manifest, tensors=tensors(trained.vae))

        model = reuse_or_make(self.folder.path, "model", key, make, kind="model")
        atomic.remove(checkpoint)
        return vae.load(model.path)

    @property
    def _told(self) -> dict[str, object]:
        """The settings as an artefact has them: how often progress is saved does not change the result."""
        return {name: value for name, value in recorded(self.settings).items() if name != "checkpoint"}

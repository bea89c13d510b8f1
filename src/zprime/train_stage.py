"""The stage of a run that reads and splits the data and trains a VAE: the artefacts `data` and `model`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from zprime import artifact, atomic, distributed, fitting, model_prior, networks, vae
from zprime.artifact import Artifact, Manifest
from zprime.checkpoints import checkpoint_key
from zprime.data import Dataset, DataSettings
from zprime.data_stage import DataStage, Wanted
from zprime.distribution import LatentDistribution, is_standard
from zprime.encoding import encode
from zprime.errors import UsageError
from zprime.learned import GoingOn, Learned, LearnedPrior, words
from zprime.objectives import check_form, check_learned
from zprime.progress import Progress, silent
from zprime.results.names import STANDARD
from zprime.run_folder import CHECKPOINT, RunFolder
from zprime.serialise import later, recorded
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.train_settings import TrainSettings
from zprime.training import Trained, check_data, train
from zprime.vae import VAE
from zprime.vae_settings import VAESettings


@final
@dataclass(frozen=True)
class TrainStage:
    """How to fill the folder of a run with data and model.

    Attributes:
        folder: of the run.
        seed: decides weights, row order and noise, and the splits where `split_seed` does not.
        threads: how many threads torch uses, by the work.
        progress: called once an epoch.
        replace: take out of the run what was made with other settings.
        prior: p(z), or how it is learned; None is N(0, I).
    """

    folder: RunFolder
    seed: int
    threads: Threads = Threads()
    progress: Progress = silent
    replace: bool = False
    prior: LatentDistribution | Learned | None = None

    def run(self, data: DataSettings, network: VAESettings, training: TrainSettings) -> VAE:
        """Read the data and train, or use what is there already.

        Args:
            data: what to read and how to split it.
            network: the architecture.
            training: how to train.

        Raises:
            UsageError: settings that cannot be used, nothing to read, or a run with other settings is there.
            ArrayError: rows that cannot be used.
            NumericalError: the loss is not finite.
        """
        self.threads.use(heavy=False)
        data.check()
        training.check()  # what can be refused now is not refused after the data were read
        check_form(training, network.posterior)
        network.new_likelihood()
        if self.prior is not None and training.objective == "rae":
            raise UsageError(
                "prior: expected none with --objective rae, whose codes are pulled towards 0, got "
                f"{_kind(self.prior)}; after training it is the Gaussian with mean and covariance of the codes"
            )
        if isinstance(self.prior, LearnedPrior | GoingOn):
            self.prior.check()
            check_learned(training, network.posterior, self.prior.described["kind"])
        elif self.prior is not None:
            model_prior.checked(self.prior, network.latents)
            model_prior.tensors(self.prior)  # can it be kept?
        stage = DataStage.load(self.folder, data, seed=self.seed, replaced=self.replace)
        dataset, of_data = stage.dataset, stage.wanted
        network = network.resolve(dataset.shape)
        # how often progress is saved does not change the result
        settings = {name: value for name, value in recorded(training).items() if name != "checkpoint"}
        of_model = Wanted(
            key_of(recorded(network), settings, self.seed, of_data.key, *_key(self.prior)),
            {
                **later(network),
                **recorded(network),
                **later(training),
                **settings,
                "prior": _kind(self.prior),
                "seed": self.seed,
            },
        )
        start = Start(dataset, network, training, self.seed, self.prior)
        stage.make_room(of_model, lambda: start.key, start.check)
        return self._train(stage.run(), start, settings, of_model.key)

    def _train(self, source: Artifact, start: "Start", settings: Mapping[str, object], key: str) -> VAE:
        checkpoint = self.folder.path / CHECKPOINT
        self.threads.use(heavy=start.network.network in networks.IMAGES)

        def make(path: Path, key: str) -> Artifact:
            trained = self._together(start, checkpoint)
            if start.training.objective == "rae":
                trained.vae.prior = _of_codes(trained.vae, start)
            config = {
                "vae": vae.describe(trained.vae),
                "training": settings,
                "epoch": trained.epoch,
                "history": trained.history,
                "stopped": trained.stopped,
                **described(trained.vae, self.prior),
            }
            manifest = Manifest("model", config, key, self.seed, {"data": source.hash}, {"seconds": trained.seconds})
            return artifact.write(path, manifest, tensors=tensors(trained.vae))

        model = reuse_or_make(self.folder.path, "model", key, make, kind="model")
        atomic.remove(checkpoint)
        return vae.load(model.path)

    def _together(self, start: "Start", checkpoint: Path) -> Trained:
        """Train, in all processes of a job at once."""
        if distributed.world() == 1:
            return _trained(start, checkpoint, self.progress)
        _begun[self.folder.path] = start, self.progress
        try:
            told = start.network, start.training, start.seed, start.prior
            trained = distributed.together(_share, self.folder.path, told, checkpoint)
        finally:
            del _begun[self.folder.path]
        assert trained is not None  # in the first process
        return trained


@final
@dataclass(frozen=True)
class Start:
    """What a training starts from."""

    dataset: Dataset
    network: VAESettings
    training: TrainSettings
    seed: int
    prior: LatentDistribution | Learned | None = None

    @property
    def learned(self) -> Learned | None:
        """How the prior is learned; None of one that stays as it is."""
        return self.prior if isinstance(self.prior, LearnedPrior | GoingOn) else None

    def vae(self) -> VAE:
        """The network with its first weights."""
        fixed = None if isinstance(self.prior, LearnedPrior | GoingOn) else self.prior
        return VAE.build(self.dataset.shape, self.network, seed=self.seed, prior=fixed)

    def check(self) -> None:
        """Raise what training would raise before its first step."""
        model = self.vae()
        for split in ("train", "selection"):
            check_data(model, self.dataset.rows(split))

    @property
    def key(self) -> str:
        """Of its checkpoint."""
        train, selection = self.dataset.rows("train"), self.dataset.rows("selection")
        return checkpoint_key(self.vae(), train, selection, self.training, seed=self.seed, prior=self.learned)


def described(trained: VAE, prior: LatentDistribution | Learned | None) -> dict[str, Any]:
    """What a manifest says of the prior that a VAE has now, and of how it was learned, if it was."""
    assert isinstance(trained.prior, LatentDistribution)
    told = model_prior.described(trained.prior)
    return {**told, "learned": prior.described} if isinstance(prior, LearnedPrior | GoingOn) else told


def tensors(trained: VAE) -> dict[str, Tensor]:
    """All arrays of the artefact of a VAE: its weights and those of its prior."""
    assert isinstance(trained.prior, LatentDistribution)
    return {**trained.state_dict(), **model_prior.tensors(trained.prior)}


def _of_codes(model: VAE, start: Start) -> LatentDistribution:
    """The Gaussian with mean and covariance of the training codes: what gains of an autoencoder are measured over."""
    codes = {s: encode(model, start.dataset.rows(s), progress=silent) for s in ("train", "selection")}
    found = fitting.fit("gaussian", codes["train"], selection=codes["selection"], keep_duplicates=True, seed=start.seed)
    return found.distribution


def _key(prior: LatentDistribution | Learned | None) -> list[str]:
    return [prior.key] if isinstance(prior, LearnedPrior | GoingOn) else model_prior.key(prior)


def _kind(prior: LatentDistribution | Learned | None) -> str:
    if isinstance(prior, LearnedPrior | GoingOn):
        return words(prior.described)
    return STANDARD if prior is None or is_standard(prior) else prior.kind


_begun: dict[Path, tuple[Start, Progress]] = {}
"""Folder of a run -> what its training starts from, in the process that read it."""


def _share(folder: Path, told: tuple[Any, ...], checkpoint: Path) -> Trained | None:
    """Train, as one of several processes; the others read the rows again, and what they have is that of the first."""
    start, progress = _begun.get(folder) or (Start(RunFolder(folder).dataset, *told), silent)
    trained = _trained(start, checkpoint, progress)
    return None if distributed.rank() else trained


def _trained(start: Start, checkpoint: Path, progress: Progress) -> Trained:
    return train(
        start.vae(),
        start.dataset.rows("train"),
        start.dataset.rows("selection"),
        start.training,
        prior=start.learned,
        seed=start.seed,
        checkpoint=checkpoint,
        progress=progress,
    )

"""The stage of a run that reads and splits the data and trains a VAE: the artefacts `data` and `model`."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from zprime import artifact, likelihoods, vae
from zprime import data as datasets
from zprime.artifact import Artifact, Manifest
from zprime.data import DataSettings
from zprime.progress import Progress, silent
from zprime.run_folder import RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.training import TrainSettings, train
from zprime.vae import VAE, VAESettings


@final
@dataclass(frozen=True)
class TrainStage:
    """How to fill the folder of a run with data and model.

    Attributes:
        folder: of the run.
        seed: decides weights, row order and noise, and the splits where `split_seed` does not.
        threads: how many threads torch uses, by the work.
        progress: called once an epoch.
    """

    folder: RunFolder
    seed: int
    threads: Threads = Threads()
    progress: Progress = silent

    def run(self, data: DataSettings, network: VAESettings, training: TrainSettings) -> VAE:
        """Read the data and train, or use what is there already.

        Args:
            data: what to read and how to split it.
            network: the architecture.
            training: how to train.

        Raises:
            UsageError: settings that cannot be used, or nothing to read.
            ArrayError: rows that cannot be used.
            NumericalError: the loss is not finite.
        """
        self.threads.use(heavy=False)
        training.check()  # what can be refused now is not refused after the data were read
        likelihoods.build(network.likelihood, scale=network.scale or None)
        source = self._read(data)
        return self._train(source, network.resolve(self.folder.dataset.shape), training)

    def _read(self, settings: DataSettings) -> Artifact:
        dataset = datasets.load(replace(settings, data=_absolute(settings.data)), seed=self.seed)
        self.folder.keep(dataset)
        config = dataset.describe()

        def make(path: Path, key: str) -> Artifact:
            return artifact.write(path, Manifest("data", config, key, dataset.seed), tensors=dataset.tensors())

        return reuse_or_make(self.folder.path, "data", key_of(config, dataset.seed), make, kind="data")

    def _train(self, source: Artifact, network: VAESettings, training: TrainSettings) -> VAE:
        dataset, checkpoint = self.folder.dataset, self.folder.path / "checkpoint"
        # how often progress is saved does not change the result
        settings = {name: value for name, value in asdict(training).items() if name != "checkpoint"}
        self.threads.use(heavy=network.network == "conv")

        def make(path: Path, key: str) -> Artifact:
            trained = train(
                VAE.build(dataset.shape, network, seed=self.seed),
                dataset.rows("train"),
                dataset.rows("selection"),
                training,
                seed=self.seed,
                checkpoint=checkpoint,
                progress=self.progress,
            )
            config = {
                "vae": vae.describe(trained.vae),
                "training": settings,
                "epoch": trained.epoch,
                "history": trained.history,
                "stopped": trained.stopped,
            }
            manifest = Manifest("model", config, key, self.seed, {"data": source.hash})
            model = artifact.write(path, manifest, tensors=trained.vae.state_dict())
            shutil.rmtree(checkpoint, ignore_errors=True)
            return model

        key = key_of(asdict(network), settings, self.seed, source.hash)
        reuse_or_make(self.folder.path, "model", key, make, kind="model")
        return vae.load(self.folder.path / "model")


def _absolute(data: str) -> str:
    """The path that leads to the data from any working directory."""
    path = Path(data).expanduser()
    if data == "digits" or not path.exists():
        return data
    return os.path.abspath(path)  # noqa: PTH100  (resolve() follows links, and the data are called by the link's name)

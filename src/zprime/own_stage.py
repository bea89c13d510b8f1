"""The stage of a run that takes a model of the user's own, in place of training: the artefacts `data` and `model`."""

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import final

from zprime import artifact, own_model
from zprime.artifact import Artifact, Manifest
from zprime.data import DataSettings
from zprime.data_stage import DataStage, Wanted
from zprime.errors import UsageError
from zprime.own_model import in_environment
from zprime.run_folder import RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.train_settings import TrainSettings
from zprime.vae_settings import VAESettings

GIVEN = ("selection", "heldout")
"""Settings of the data that say nothing where the model was trained elsewhere."""


@final
@dataclass(frozen=True)
class OwnStage:
    """How to fill the folder of a run with data and a model of the user's own, `folder.own`.

    Attributes:
        folder: of the run.
        seed: decides the selection split, and the rows that the model is tried on.
        threads: how many threads torch uses, by the work.
        replace: take out of the run what was made with other settings.
    """

    folder: RunFolder
    seed: int
    threads: Threads = Threads()
    replace: bool = False

    def run(self, data: DataSettings) -> Artifact:
        """Read the data, build the model and try it on some training rows; or use what is there already.

        Raises:
            UsageError: settings or a model that cannot be used, no rows that the model has not seen, or a run with
                other settings is there.
            ArrayError: rows that cannot be used, or that do not fit the model.
            NumericalError: the model answers numbers that are not finite.
        """
        self.threads.use(heavy=True)
        data.check()
        _check_given(data)
        code = self.folder.own.code()
        stage = DataStage.load(self.folder, data, seed=self.seed, replaced=self.replace, brought=True)
        dataset = stage.dataset
        key = key_of(code.function, code.sha256, code.weights_sha256, self.seed, stage.wanted.key)
        told = {"model": code.named, "code": code.sha256[:12], "weights": code.weights_sha256[:12], "seed": self.seed}
        n = sum(len(ids) for ids in dataset.ids.values())
        taken = functools.cache(
            lambda: own_model.take(code, dataset.rows("train").x, n=n, seed=self.seed, layout=dataset.layout)
        )
        stage.make_room(Wanted(key, told), str, taken)
        source = stage.run()

        def make(path: Path, key: str) -> Artifact:
            found = taken()
            manifest = Manifest(own_model.KIND, found.config, key, self.seed, {"data": source.hash})
            return artifact.write(path, manifest, tensors=found.tensors)

        made = reuse_or_make(self.folder.path, "model", key, make, kind=own_model.KIND)
        if taken.cache_info().currsize:
            self.folder.keep_vae(taken().model)
        return made


def check_own(network: VAESettings, training: TrainSettings, prior: object = None, seeds: int = 1) -> None:
    """Refuse what is said of a training, where there is none.

    Raises:
        UsageError: architecture, training, a prior or several seeds are asked for.
    """
    pairs = ((network, VAESettings()), (training, TrainSettings()))
    changed = [
        f.name for told, usual in pairs for f in fields(usual) if getattr(told, f.name) != getattr(usual, f.name)
    ]
    changed += ["prior"] * (prior is not None) + ["seeds"] * (seeds != 1)
    if changed:
        hint = "; the function that builds it says its prior" * ("prior" in changed)
        raise UsageError(
            f"{changed[0]}: a model of your own is taken as it is, and not trained{hint}; leave this out"
            f"{in_environment(changed[0])}"
        )


def _check_given(data: DataSettings) -> None:
    """Raise `UsageError` for proportions of splits: rows that the model has not seen are given, and halved."""
    usual = {f.name: f.default for f in fields(data) if f.name in GIVEN}
    changed = [name for name, value in usual.items() if getattr(data, name) != value]
    if changed:
        raise UsageError(
            f"{changed[0]}: with a model of your own the rows that it has not seen are given (--heldout-data, or a "
            f"test part of --data), and half of them are the selection split, at most 5,000; leave --{changed[0]} out"
            f"{in_environment(changed[0])}"
        )

"""The stage of a run that reads and splits the data and trains a VAE: the artefacts `data` and `model`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from zprime import artifact, atomic, chain, likelihoods, model_prior, vae
from zprime import data as datasets
from zprime.artifact import Artifact, Manifest
from zprime.data import Dataset, DataSettings
from zprime.distribution import LatentDistribution, is_standard
from zprime.errors import UsageError
from zprime.progress import Progress, silent
from zprime.results.names import STANDARD
from zprime.run_folder import CHECKPOINT, RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads
from zprime.training import TrainSettings, check_data, checkpoint_key, train
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
        replace: take out of the run what was made with other settings.
        prior: p(z); None is N(0, I).
    """

    folder: RunFolder
    seed: int
    threads: Threads = Threads()
    progress: Progress = silent
    replace: bool = False
    prior: LatentDistribution | None = None

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
        likelihoods.build(network.likelihood, scale=network.scale or None)
        if self.prior is not None:
            model_prior.checked(self.prior, network.latents)
            model_prior.tensors(self.prior)  # can it be kept?
        lies = _absolute(data.data)
        dataset = datasets.load(replace(data, data=lies), seed=self.seed)
        network = network.resolve(dataset.shape)
        # how often progress is saved does not change the result
        settings = {name: value for name, value in asdict(training).items() if name != "checkpoint"}
        described = dataset.describe()
        # nor does it matter where the data lie, or what their file is called: `content` says what they are
        key = key_of({**described, "settings": {**described["settings"], "data": ""}, "name": ""}, dataset.seed)
        of_model = {**asdict(network), **settings, "prior": _kind(self.prior), "seed": self.seed}
        wanted = {
            "data": Wanted(key, {**described["settings"], "seed": dataset.seed, "content": described["content"][:12]}),
            "model": Wanted(key_of(asdict(network), settings, self.seed, key, *model_prior.key(self.prior)), of_model),
        }
        start = Start(dataset, network, training, self.seed, self.prior)
        self._make_room(wanted, start)
        self.folder.keep(dataset)
        source = self._read(dataset, wanted["data"].key, lies)
        return self._train(source, start, settings, wanted["model"].key)

    def _make_room(self, wanted: Mapping[str, "Wanted"], start: "Start") -> None:
        """Take out of the run what was made with other settings, if that was asked for.

        Raises:
            UsageError: there is such, and it was not asked for.
        """
        run, checkpoint = self.folder.path, self.folder.path / CHECKPOINT
        there = {name: artifact.read(run / name) for name in wanted if self.folder.has(name)}
        other = [name for name, found in there.items() if found.key != wanted[name].key]
        begun = artifact.is_artifact(checkpoint) and "model" not in there
        if begun and not other and artifact.read(checkpoint).key != start.key:
            other = ["model"]
        if not other:
            return
        start.check()
        if "model" in there or begun:
            found = [d for name in other if name in there for d in wanted[name].differences(there[name])]
            leaving = [*other, *chain.below(run, other[0])]
            self._refuse(found, leaving, begun=begun)
        chain.drop(run, [other[0], *chain.below(run, other[0])])
        for place in (checkpoint, run / chain.STAGED):
            atomic.remove(place)

    def _refuse(self, differences: Sequence[str], leaving: Sequence[str], *, begun: bool) -> None:
        if self.replace:
            return
        names = [n for n in dict.fromkeys(leaving) if self.folder.has(n)]
        names += [*chain.outputs(self.folder.path, names), *["an unfinished training"] * begun]
        why = "; ".join(dict.fromkeys(differences)) or "of training, or by another version of zprime"
        raise UsageError(
            f"{self.folder.path}: this run was made with other settings ({why}). Going on would replace "
            f"{', '.join(names)}. Say --replace to do that (in Python: replace=True), or choose another folder (--out)"
        )

    def _read(self, dataset: Dataset, key: str, lies: str) -> Artifact:
        place = {artifact.SOURCE: lies}

        def make(path: Path, key: str) -> Artifact:
            manifest = Manifest("data", dataset.describe(), key, dataset.seed, measured=place)
            return artifact.write(path, manifest, tensors=dataset.tensors())

        source = reuse_or_make(self.folder.path, "data", key, make, kind="data")
        if source.source != lies:  # the same data, at another place or on another machine
            artifact.note(source.path, place)
        return source

    def _train(self, source: Artifact, start: "Start", settings: Mapping[str, object], key: str) -> VAE:
        checkpoint = self.folder.path / CHECKPOINT
        self.threads.use(heavy=start.network.network == "conv")

        def make(path: Path, key: str) -> Artifact:
            trained = train(
                start.vae(),
                start.dataset.rows("train"),
                start.dataset.rows("selection"),
                start.training,
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
                **model_prior.described(self.prior),
            }
            manifest = Manifest("model", config, key, self.seed, {"data": source.hash})
            weights = {**trained.vae.state_dict(), **model_prior.tensors(self.prior)}
            return artifact.write(path, manifest, tensors=weights)

        model = reuse_or_make(self.folder.path, "model", key, make, kind="model")
        atomic.remove(checkpoint)
        return vae.load(model.path)


@final
@dataclass(frozen=True)
class Wanted:
    """What a stage is to be made with.

    Attributes:
        key: of the artefact.
        settings: name -> value, for what is told of differences.
    """

    key: str
    settings: Mapping[str, object]

    def differences(self, there: Artifact) -> list[str]:
        """In words, what an artefact was made with that is now different."""
        if there.kind == "data":
            content = {"content": str(there.config.get("content", ""))[:12]}
            was = {**there.config.get("settings", {}), **content, "seed": there.seed}
        else:
            network = there.config.get("vae", {}).get("settings", {})
            prior = (there.config.get("prior") or {"kind": STANDARD})["kind"]
            was = {**network, **there.config.get("training", {}), "prior": prior, "seed": there.seed}
        return [
            f"{name} {_word(was.get(name))}, now {_word(value)}"
            for name, value in self.settings.items()
            if _word(was.get(name)) != _word(value)
        ]


@final
@dataclass(frozen=True)
class Start:
    """What a training starts from."""

    dataset: Dataset
    network: VAESettings
    training: TrainSettings
    seed: int
    prior: LatentDistribution | None = None

    def vae(self) -> VAE:
        """The network with its first weights."""
        return VAE.build(self.dataset.shape, self.network, seed=self.seed, prior=self.prior)

    def check(self) -> None:
        """Raise what training would raise before its first step."""
        model = self.vae()
        for split in ("train", "selection"):
            check_data(model, self.dataset.rows(split))

    @property
    def key(self) -> str:
        """Of its checkpoint."""
        return checkpoint_key(
            self.vae(), self.dataset.rows("train"), self.dataset.rows("selection"), self.training, seed=self.seed
        )


def _kind(prior: LatentDistribution | None) -> str:
    return STANDARD if prior is None or is_standard(prior) else prior.kind


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _absolute(data: str) -> str:
    """The path that leads to the data from any working directory."""
    path = Path(data).expanduser()
    if data == "digits" or not path.exists():
        return data
    return os.path.abspath(path)  # noqa: PTH100  (resolve() follows links, and the data are called by the link's name)

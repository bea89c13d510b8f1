"""What the first stage of a run does beside its model: the artefact `data`, and room for both among what is there."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from zprime import artifact, atomic, chain, own_model
from zprime import data as datasets
from zprime.artifact import Artifact, Manifest
from zprime.data import Dataset, DataSettings
from zprime.errors import UsageError
from zprime.learned import words
from zprime.results.names import STANDARD
from zprime.run_folder import CHECKPOINT, RunFolder
from zprime.schema.kinds import check_settings
from zprime.serialise import later
from zprime.stages import key_of, reuse_or_make
from zprime.train_settings import TrainSettings
from zprime.vae_settings import VAESettings

UNSAID = {"heldout_data": "", "conditions": "", **later(DataSettings)}
"""Settings of data that are written where they say something."""


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
            was = {**UNSAID, **there.config.get("settings", {}), **content, "seed": there.seed}
        else:
            own = there.kind == own_model.KIND
            check_settings(there.path, there.kind if own else "", there.config)
            if own != ("model" in self.settings):
                was_made, now = "trained by zprime", str(self.settings.get("model"))
                if own:
                    was_made, now = there.config["code"]["named"], was_made
                return [f"model {was_made}, now {now}"]
            was = own_model.told(there.config) if own else _trained(there)
            was["seed"] = there.seed
        return [
            f"{name} {_word(was.get(name))}, now {_word(value)}"
            for name, value in self.settings.items()
            if _word(was.get(name)) != _word(value)
        ]


@final
@dataclass(frozen=True)
class DataStage:
    """How to fill the folder of a run with data.

    Attributes:
        folder: of the run.
        dataset: its rows.
        lies: the paths that lead to them, and to held-out rows of a file of their own, from any working directory.
        replace: take out of the run what was made with other settings.
    """

    folder: RunFolder
    dataset: Dataset
    lies: Mapping[str, str]
    replace: bool = False

    @classmethod
    def load(
        cls, folder: RunFolder, data: DataSettings, *, seed: int, replaced: bool, brought: bool = False
    ) -> "DataStage":
        """Read the data set; `brought` for a model that was trained elsewhere.

        Raises:
            UsageError: settings that cannot be used, or nothing to read.
            ArrayError: rows that cannot be used.
        """
        lies = {artifact.SOURCE: _absolute(data.data)}
        if data.heldout_data:
            lies[artifact.HELDOUT_SOURCE] = _absolute(data.heldout_data)
        there = replace(data, data=lies[artifact.SOURCE], heldout_data=lies.get(artifact.HELDOUT_SOURCE, ""))
        return cls(folder, datasets.load(there, seed=seed, brought=brought), lies, replaced)

    @property
    def wanted(self) -> Wanted:
        """What the artefact is to be made with."""
        described = self.dataset.describe()
        settings = described["settings"]
        # it does not matter where the data lie, or what their file is called: `content` says what they are
        unnamed = {name: "" if name in ("data", "heldout_data") else value for name, value in settings.items()}
        key = key_of({**described, "settings": unnamed, "name": ""}, self.dataset.seed)
        return Wanted(key, {**UNSAID, **settings, "seed": self.dataset.seed, "content": described["content"][:12]})

    def make_room(self, model: Wanted, unfinished: Callable[[], str], check: Callable[[], object]) -> None:
        """Take data and model out of the run that were made with other settings, if that was asked for.

        Args:
            model: what the model is to be made with.
            unfinished: gives the key of the checkpoint that a training as wanted leaves.
            check: raises what would be raised before the first step; called before anything is taken out.

        Raises:
            UsageError: there is such, and it was not asked for.
        """
        run, checkpoint = self.folder.path, self.folder.path / CHECKPOINT
        wanted = {"data": self.wanted, "model": model}
        there = {name: artifact.read(run / name) for name in wanted if self.folder.has(name)}
        other = [name for name, found in there.items() if found.key != wanted[name].key]
        begun = artifact.is_artifact(checkpoint) and "model" not in there
        if begun and not other and artifact.read(checkpoint).key != unfinished():
            other = ["model"]
        if not other:
            return
        check()
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

    def run(self) -> Artifact:
        """Write the artefact, or use what is there already."""
        self.folder.keep(self.dataset)

        def make(path: Path, key: str) -> Artifact:
            manifest = Manifest("data", self.dataset.describe(), key, self.dataset.seed, measured=self.lies)
            return artifact.write(path, manifest, tensors=self.dataset.tensors())

        source = reuse_or_make(self.folder.path, "data", self.wanted.key, make, kind="data")
        lay = {artifact.SOURCE: source.source, artifact.HELDOUT_SOURCE: source.heldout_source}
        if any(lay[name] != place for name, place in self.lies.items()):  # the same data, at another place
            artifact.note(source.path, self.lies)
        return source


def _trained(there: Artifact) -> dict[str, Any]:
    """What a VAE was trained with."""
    network = there.config.get("vae", {}).get("settings", {})
    learned = there.config.get("learned")
    prior = words(learned) if learned else (there.config.get("prior") or {"kind": STANDARD})["kind"]
    if there.config.get("training", {}).get("objective") == "rae":
        prior = STANDARD  # the Gaussian of the codes was fitted afterwards; nobody asked for it
    usual = {**later(VAESettings), **later(TrainSettings)}
    found = {**usual, **network, **there.config.get("training", {}), "prior": prior}
    refined = there.config.get("refined")
    return found if refined is None else {**found, "refined from": came_from(refined)}


def came_from(refined: Mapping[str, Any]) -> str:
    """What a model was refined from, in words."""
    return f"model {refined['model'][:12]} with {refined['name']} ({refined['fit'][:12]})"


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _absolute(data: str) -> str:
    """The path that leads to the data from any working directory."""
    path = Path(data).expanduser()
    if data == "digits" or not path.exists():
        return data
    return os.path.abspath(path)  # noqa: PTH100  (resolve() follows links, and the data are called by the link's name)

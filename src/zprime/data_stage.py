"""What the first stage of a run does beside its model: the artefact `data`, and room for both among what is there."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from zprime import artifact, atomic, chain
from zprime import data as datasets
from zprime.artifact import Artifact, Manifest
from zprime.data import Dataset, DataSettings
from zprime.errors import UsageError
from zprime.results.names import STANDARD
from zprime.run_folder import CHECKPOINT, RunFolder
from zprime.stages import key_of, reuse_or_make


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
class DataStage:
    """How to fill the folder of a run with data.

    Attributes:
        folder: of the run.
        dataset: its rows.
        lies: the path that leads to them from any working directory.
        replace: take out of the run what was made with other settings.
    """

    folder: RunFolder
    dataset: Dataset
    lies: str
    replace: bool = False

    @classmethod
    def load(cls, folder: RunFolder, data: DataSettings, *, seed: int, replaced: bool) -> "DataStage":
        """Read the data set.

        Raises:
            UsageError: settings that cannot be used, or nothing to read.
            ArrayError: rows that cannot be used.
        """
        lies = _absolute(data.data)
        return cls(folder, datasets.load(replace(data, data=lies), seed=seed), lies, replaced)

    @property
    def wanted(self) -> Wanted:
        """What the artefact is to be made with."""
        described = self.dataset.describe()
        # it does not matter where the data lie, or what their file is called: `content` says what they are
        key = key_of({**described, "settings": {**described["settings"], "data": ""}, "name": ""}, self.dataset.seed)
        return Wanted(key, {**described["settings"], "seed": self.dataset.seed, "content": described["content"][:12]})

    def make_room(self, model: Wanted, unfinished: Callable[[], str], check: Callable[[], None]) -> None:
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
        place = {artifact.SOURCE: self.lies}
        self.folder.keep(self.dataset)

        def make(path: Path, key: str) -> Artifact:
            manifest = Manifest("data", self.dataset.describe(), key, self.dataset.seed, measured=place)
            return artifact.write(path, manifest, tensors=self.dataset.tensors())

        source = reuse_or_make(self.folder.path, "data", self.wanted.key, make, kind="data")
        if source.source != self.lies:  # the same data, at another place or on another machine
            artifact.note(source.path, place)
        return source


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _absolute(data: str) -> str:
    """The path that leads to the data from any working directory."""
    path = Path(data).expanduser()
    if data == "digits" or not path.exists():
        return data
    return os.path.abspath(path)  # noqa: PTH100  (resolve() follows links, and the data are called by the link's name)

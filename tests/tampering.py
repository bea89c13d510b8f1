"""Artefacts whose values somebody altered and then sealed again: every hash fits, only the values are wrong."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zprime import artifact
from zprime.artifact import TENSORS, Manifest
from zprime.errors import ArtifactError

WRONG: tuple[Any, ...] = (None, "x", "nan", "../../x", -1, 0, 0.5, 1e308, float("nan"), True, [], {}, 10**9, 10**400)
"""In the place of any setting."""

Config = dict[str, Any]
Tensors = dict[str, Tensor]


@dataclass
class Count:
    """What became of loads: refused by an `ArtifactError`, or loaded to something that can be used."""

    refused: int = 0
    harmless: int = 0
    bad: list[str] = field(default_factory=list)

    @property
    def loads(self) -> int:
        return self.refused + self.harmless + len(self.bad)

    def of(self, what: str, load: Callable[[], object]) -> None:
        """Load once. Any other error than ours is a fault, and so is what `load` itself asserts."""
        try:
            load()
        except ArtifactError:
            self.refused += 1
        except Exception as error:  # noqa: BLE001
            self.bad.append(f"{what}: {type(error).__name__}: {error!s:.200}")
        else:
            self.harmless += 1


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside JSON; of a list the first and the last."""
    if isinstance(value, Mapping):
        inner: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list) and value:
        inner = list({0: value[0], len(value) - 1: value[-1]}.items())
    else:
        inner = []
    for key, item in inner:
        yield (*at, key)
        yield from places(item, (*at, key))


def configs(config: Config, wrong: tuple[Any, ...] = WRONG) -> Iterator[tuple[str, Config]]:
    """One value dropped, or another in its place."""
    config = json.loads(json.dumps(config))
    for path in places(config):
        name = ".".join(map(str, path))
        for value in ("drop", *wrong):
            changed = copy.deepcopy(config)
            inside = changed
            for key in path[:-1]:
                inside = inside[key]
            if value == "drop":
                del inside[path[-1]]
            else:
                inside[path[-1]] = value
            yield f"{name} = {value!r:.20}", changed


def altered(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor in other dtypes and shapes, and with other numbers."""
    for dtype in (torch.float16, torch.float32, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64):
        if dtype != t.dtype:
            yield str(dtype), t.to(dtype)
    yield "one dimension more", t[None]
    yield "one dimension more at the end", t[..., None]
    yield "no numbers", t.flatten()[:0]
    if t.ndim:
        yield "one dimension less", t[0]
        yield "one row more", torch.cat([t, t[-1:]])
        yield "no rows", t[:0]
        yield "one row less", t[:-1]
    if t.ndim > 1:
        yield "one column more", torch.cat([t, t[..., -1:]], -1)
    numbers: tuple[float, ...] = (-1, 0) if not t.is_floating_point() else (-1, 0, 1e-45, 1e38, torch.nan, torch.inf)
    for number in numbers:
        for at in {0, t.numel() - 1} if t.numel() else ():
            other = t.clone()
            other.view(-1)[at] = number
            yield f"{number} at {at}", other


def tensor_sets(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """One tensor dropped, altered or added."""
    for name, t in tensors.items():
        yield f"without {name}", {k: v for k, v in tensors.items() if k != name}
        for what, other in altered(t.contiguous()):
            yield f"{name}: {what}", {**tensors, name: other}
    yield "one more", {**tensors, "planted": torch.ones(2)}


def rewrite(
    path: Path, *, config: Config | None = None, tensors: Tensors | None = None, file: str = TENSORS, **extra: bytes
) -> None:
    """Write an artefact again in its place with other settings, tensors, or contents of files; it is sealed again."""
    found = artifact.read(path)
    contents = {name: (path / name).read_bytes() for name in found.files}
    if tensors is not None:
        contents[file] = artifact.pack(tensors)
    contents |= {name.replace("__", "."): content for name, content in extra.items()}
    manifest = Manifest(
        found.kind, found.config if config is None else config, found.key, found.seed, found.inputs, found.measured
    )
    artifact.write(path, manifest, extra=contents)

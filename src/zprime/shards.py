"""The folder of posteriors on disk: an index of all rows, and means and scales in shards, which are read one by one."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from zprime import artifact, distributed
from zprime.aggregate import Aggregate, Form, Shard
from zprime.arrays import blocks
from zprime.errors import ArrayError, ArtifactError
from zprime.peers import Opened
from zprime.schema import Refused, guarded
from zprime.schema.kinds import POSTERIORS, SHARDS

T = TypeVar("T")
KIND = "posteriors"
INDEX = "index.safetensors"
"""What is known of every row: ids, and labels, weights and log q where there are any."""
ROWS = 16_384
"""Rows of a shard at most."""
BYTES = 1 << 28
"""Bytes of its means and scales at most, but for a single row that has more."""


def file_of(k: int) -> str:
    """Name of the file of shard `k`."""
    return f"shard-{k:05d}.safetensors"


def write(path: Path, rows: Aggregate, *, key: str, seed: int | None, inputs: Mapping[str, str]) -> artifact.Artifact:
    """Write posteriors of any form, a shard at a time; an older artefact at `path` is replaced when all is written.

    Args:
        path: the folder to make.
        rows: what to write; each of its shards becomes as many files as it needs.
        key: for the manifest, as seed and inputs.
        seed: of what made them.
        inputs: name -> hash of what they were made from.

    Raises:
        ArrayError: numbers that no artefact has, such as means in float16.
        UsageError: `path` cannot be written, or holds files that are not an artefact.
    """
    known = {"row_ids": rows.row_ids, "labels": rows.labels, "weights": rows.weights, "log_q": rows.log_q}
    index = {name: t if t.is_floating_point() else t.long() for name, t in known.items() if t is not None}
    files: dict[str, str] = {}
    sizes = []
    with artifact.staging(path) as folder:
        for part in _cut(rows):
            numbers = {"mean": part.mean} if rows.form == "points" else {"mean": part.mean, "scale": part.scale}
            sizes.append(len(part.mean))
            with _storable(f"rows {part.start} to {part.start + sizes[-1] - 1}"):
                SHARDS[rows.form].check({"rows": sizes[-1], "d": rows.d}, numbers)
            name = file_of(len(files))
            files[name] = _put(folder / name, numbers)
        config = {"n": rows.n, "d": rows.d, "form": rows.form, "shards": list(files), "sizes": sizes}
        config |= {"data": len(torch.unique(rows.row_ids)), "log_q": rows.log_q is not None}
        with _storable("posteriors"):
            POSTERIORS.check(config, index)
        files[INDEX] = _put(folder / INDEX, index)
        artifact.seal(folder, artifact.Manifest(KIND, config, key, seed, inputs), files=files)
    return artifact.read(path, KIND)


def _cut(rows: Aggregate) -> Iterator[Shard]:
    """All rows in order, in pieces that are not too large for a file."""
    for s in rows.shards():
        each = s.mean.element_size() * (s.mean[0].numel() + s.scale[0].numel())
        for b in blocks(len(s.mean), min(ROWS, max(1, BYTES // each))):
            yield Shard(s.start + b.start, s.mean[b], s.scale[b])


@contextlib.contextmanager
def _storable(what: str) -> Iterator[None]:
    """Refuse what could not be read again."""
    try:
        yield
    except Refused as error:
        raise ArrayError(f"{what}: {error}; posteriors that are stored have no others") from error


def _put(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors; the SHA-256 of the file."""
    content = artifact.pack(tensors)
    artifact.write_file(file, content)
    return hashlib.sha256(content).hexdigest()


class Stored(Aggregate, Opened):
    """What lies in shards on disk: it is read a shard at a time, and the processes of a job share the shards.

    The other processes of a job open it too: all must find the folder at the same path.

    Attributes:
        artifact: the folder, the settings of which were checked.
        read: what is known of every row, by attribute, as it was read from there.
    """

    artifact: artifact.Artifact
    read: Mapping[str, Tensor | None]

    def shards(self) -> Iterator[Shard]:
        """Each shard file, verified as it is read; the scale of points is 0.

        Raises:
            ArtifactError: one is missing, altered, or holds something else than the settings say.
        """
        return map(self.shard, range(len(self._starts)))

    def shard(self, k: int) -> Shard:
        """One of them; raises as `shards`."""
        found, form = self.artifact, form_of(self.artifact)
        name, rows = found.config["shards"][k], found.config["sizes"][k]
        tensors = found.tensors(name)
        with guarded(found.path / name):
            SHARDS[form].check({"rows": rows, "d": found.config["d"]}, tensors)
        mean = tensors["mean"]
        return Shard(self._starts[k], mean, torch.zeros_like(mean) if form == "points" else tensors["scale"])

    @cached_property
    def _starts(self) -> list[int]:
        """Position of the first row of each shard."""
        return list(accumulate(self.artifact.config["sizes"], initial=0))[:-1]

    def each(self, work: Callable[..., T], *args: Any) -> list[T]:
        """`work(self, shard, *args)` of every shard, in order; the processes of a job share the shards."""
        return distributed.each(_of_shard, (self, work, args), range(len(self._starts)))

    def total(self, work: Callable[..., Sequence[Tensor]], *args: Any) -> list[Tensor]:
        """The sums over shards of the tensors that `work(self, shard, *args)` gives; see `distributed.total`."""
        return distributed.total(_of_shard, (self, work, args), range(len(self._starts)))

    def opening(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """How another process of a job opens it; None where an attribute is no longer what was read."""
        if any(getattr(self, name) is not t for name, t in self.read.items()):
            return None
        return _opened, (type(self), self.artifact.path, self.artifact.sha256)


def _of_shard(rows: Stored, work: Callable[..., T], args: tuple[Any, ...], k: int) -> T:
    return work(rows, rows.shard(k), *args)


@lru_cache(maxsize=4)
def _opened(kind: Callable[[Path], Stored], path: Path, sha256: str) -> Stored:
    """The posteriors in a folder, opened once in this process; `sha256` is of their manifest.

    Raises:
        ArtifactError: there are none, or others.
    """
    found = kind(path)
    if found.artifact.sha256 != sha256:
        raise ArtifactError(
            f"{path}: expected the posteriors that process 0 has open, got others (manifest {sha256[:12]}, "
            f"{found.artifact.sha256[:12]}); let all processes see the same folder, and replace none while they work"
        )
    return found


def form_of(found: artifact.Artifact) -> Form:
    """What the rows of an artefact of posteriors are."""
    form: Form = found.config.get("form") or "diagonal"
    return form

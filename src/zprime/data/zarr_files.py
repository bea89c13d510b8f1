"""Zarr arrays (versions 2 and 3 of the format): folders of chunks, read some rows at a time."""

import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zprime import memory
from zprime.arrays import blocks
from zprime.data.blocks import collected, is_large, rows_at_once
from zprime.data.numpy_files import oriented
from zprime.data.source import Array, Reader, Source
from zprime.errors import ArrayError, ZprimeError
from zprime.extras import imported

SIGNS = (".zarray", ".zgroup", "zarr.json")
"""A file that says what a folder holds: in version 2, and in version 3."""
X, Y = "x", "y"

log = logging.getLogger("zprime")
library = partial(imported, user="data in Zarr", packages="zarr", extra="zarr")
"""A module of the `zarr` extra."""


def read_zarr(path: Path) -> Source:
    """One array, a row a datum; or a group with an array `x`, and labels `y` if there are any.

    Any other array of a group with one number a row, or one row of numbers, is a column. Only some rows are in memory
    at a time, if the rows are large.

    Args:
        path: the folder of the array, or of the group.

    Raises:
        UsageError: zarr is not installed (`zprime[zarr]`), no room on disk, or chunks that do not fit in memory.
        ArrayError: it cannot be read, or holds other arrays.
    """
    zarr = library("zarr")
    with _readable(path):
        node = zarr.open(str(path), mode="r")
        group = dict(node.arrays()) if isinstance(node, zarr.Group) else {X: node}
    found = _rows_among(path, group)
    where = path if not isinstance(node, zarr.Group) else path / found.name.rpartition("/")[2]
    if not found.ndim or found.dtype.kind not in "fiub":
        raise ArrayError(f"{where}: expected numbers of shape [n, ...], got {found.dtype} of shape {list(found.shape)}")
    x, top = oriented(where, collected(_parts(where, found), found.shape, found.dtype))
    beside = {name: _whole(path / name, a) for name, a in group.items() if a is not found and _is_column(a, len(x))}
    if Y in group and (Y not in beside or beside[Y].ndim != 1):
        raise ArrayError(f"{path / Y}: expected {len(x)} labels, one a row, got shape {list(group[Y].shape)}")
    return Source(path.stem, x, beside.pop(Y, None), top=top, columns=beside)


def _rows_among(path: Path, group: dict[str, Any]) -> Any:
    """The array of the rows."""
    if X in group or len(group) == 1:
        return group.get(X, next(iter(group.values())))
    if not group:
        raise ArrayError(f"{path}: expected an array, got a group with none; give the folder of the array itself")
    shown = ", ".join(sorted(group)[:10]) + (", ..." if len(group) > 10 else "")
    raise ArrayError(
        f"{path}: expected one array, or one named {X} among others, got {shown}; give the folder of one of them"
    )


def _is_column(array: Any, n: int) -> bool:
    """Whether it holds one entry a row, and not rows of its own that are large."""
    return array.ndim in (1, 2) and array.shape[0] == n and not is_large(n, array.shape[1:])


def _parts(where: Path, array: Any) -> Iterator[Array]:
    """The rows, as many at a time as whole chunks hold."""
    shape, chunk = array.shape[1:], max(1, int(array.chunks[0]))
    step = max(1, rows_at_once(shape) // chunk) * chunk
    _check_memory(where, array, min(chunk, array.shape[0]))
    with _readable(where):
        stored, missing = _files_of(where, array)
    if missing:
        what = "chunks" if array.shards is None else "shards"
        log.warning("%s: %d of %d %s are not there, and stand for %s", where, missing, stored, what, array.fill_value)
    for part in blocks(array.shape[0], step):
        with _readable(where, f", rows {part.start} to {part.stop - 1}"):
            yield np.asarray(array[part.start : part.stop])


def _check_memory(where: Path, array: Any, rows: int) -> None:
    """Refuse to read so many rows at once where they do not fit in memory beside one chunk of them.

    A chunk is unpacked whole, also what of it goes beyond the array.

    Raises:
        UsageError: they do not.
    """
    memory.need(
        (rows * math.prod(array.shape[1:]) + math.prod(array.chunks)) * array.dtype.itemsize,
        f"{where}, chunks of shape {list(array.chunks)}",
        "write the array with smaller chunks",
    )


def _files_of(where: Path, array: Any) -> tuple[int, int]:
    """How many files an array has that hold its chunks, or whole shards of them; and how many of these are not there.

    zarr's own number is wrong where the last shard goes beyond the array, and takes the square of the time.
    """
    files = [math.ceil(s / max(1, size)) for s, size in zip(array.shape, array.shards or array.chunks, strict=True)]
    keys = map(array.metadata.encode_chunk_key, itertools.product(*map(range, files)))
    return math.prod(files), sum(not (where / key).is_file() for key in keys)


def _whole(where: Path, array: Any) -> Array:
    """A column; text as numpy's own."""
    _check_memory(where, array, array.shape[0])
    with _readable(where):
        values = np.asarray(array[:])
        return values if values.dtype.kind in "fiubUSmM" else np.array([str(v) for v in values.tolist()])


@contextmanager
def _readable(where: Path, which: str = "") -> Iterator[None]:
    """What zarr and its codecs raise as an `ArrayError` that names the array."""
    try:
        yield
    except (ZprimeError, MemoryError):
        raise
    except Exception as error:  # every codec raises its own, and so do json and the store
        if memory.ran_out(error) is not None:
            raise MemoryError(str(error)) from error
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArrayError(f"{where}{which}: not a readable Zarr array ({said}); write it again") from error


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / sign).is_file() for sign in SIGNS)


ZARR = Reader("a folder of Zarr", f"an array, or a group with {X} and, if there are labels, {Y}", _is_zarr, read_zarr)

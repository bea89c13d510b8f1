"""Arrays of rows that are made block by block: in memory, or, where they are large, in a file that is mapped to memory.

The file has no name: the system gives its room back when its last user ends, in whatever way. Pages that nobody looks
at leave the memory.
"""

import itertools
import math
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from zprime import arrays
from zprime.data.source import Array
from zprime.errors import UsageError
from zprime.memory import size

LARGE = 1 << 26
"""Numbers that an array has at most that is made here in memory, and not in a file: 268 MB in float32. Fashion-MNIST's
training rows have 47 million."""
BLOCK = 1 << 20
"""Numbers that are worked on at once."""
AT_ONCE = 1 << 24
"""Numbers of which means and the like are computed at once, as they always were: blocks round otherwise."""
DISK = "/var/tmp"
"""Where large temporary files belong on Linux and macOS: it lies on disk, and /tmp often lies in memory."""


def is_large(n: int, shape: Iterable[int]) -> bool:
    """Whether n rows of this shape are made block by block."""
    return n * math.prod(shape) > LARGE


def blocks(n: int, shape: Iterable[int]) -> Iterator[slice]:
    """Row numbers of one block after another."""
    return arrays.blocks(n, rows_at_once(shape))


def rows_at_once(shape: Iterable[int]) -> int:
    """How many rows of this shape a block has."""
    return max(1, BLOCK // max(1, math.prod(shape)))


def stacked(rows: Iterable[Array], shape: tuple[int, ...]) -> Iterator[Array]:
    """Rows that come one by one, a block of them at a time."""
    rows = iter(rows)
    while block := list(itertools.islice(rows, rows_at_once(shape))):
        yield np.stack(block)


def collected(
    parts: Iterable[Array], shape: tuple[int, ...], dtype: npt.DTypeLike, *, among: int | None = None
) -> Array:
    """One array of parts that follow each other, of which only one at a time is in memory if they are large together.

    Args:
        parts: shape [m, *datum], each converted to `dtype`.
        shape: [n, *datum] of all together.
        dtype: of the array.
        among: rows of which these are some: where all of them are large, these are kept in a file too.

    Raises:
        UsageError: no room on disk.
        ValueError: the parts have more or fewer rows than `shape` says.
    """
    dtype = np.dtype(dtype)
    if not is_large(max(shape[0], among or 0), shape[1:]):
        whole = np.empty(shape, dtype)
        start = 0
        for part in parts:
            whole[start : start + len(part)] = part
            start += len(part)
        if start != shape[0]:
            raise ValueError(f"expected {shape[0]} rows, got {start}")
        return whole
    return _on_disk(parts, shape, dtype)


def gathered(parts: Iterable[Array]) -> Array | None:
    """As `collected`, where nobody knows beforehand how many rows there are; None of no parts.

    Args:
        parts: shape [m, *datum], of one type.

    Raises:
        UsageError: no room on disk.
    """
    parts, kept, n = iter(parts), deque[Array](), 0
    for part in parts:
        kept.append(part)
        n += len(part)
        shape, dtype = part.shape[1:], part.dtype
        del part  # the last name of what is written below
        if is_large(n, shape):
            return _on_disk(itertools.chain(_let_go(kept), parts), (None, *shape), dtype)
    return np.concatenate(kept) if kept else None


def _let_go(kept: deque[Array]) -> Iterator[Array]:
    """One part after another, each of which is kept no longer."""
    while kept:
        yield kept.popleft()


def made(n: int, shape: tuple[int, ...], make: Callable[[slice], Tensor], *, among: int | None = None) -> Tensor:
    """Float32 rows from a function that gives those of a slice; in memory, or in a file if they are large.

    Args:
        n: rows.
        shape: of a row.
        make: gives some of them.
        among: see `collected`.

    Raises:
        UsageError: no room on disk.
    """
    if n * math.prod(shape) <= BLOCK:
        return make(slice(0, n))
    return as_tensor(collected((make(b).numpy() for b in blocks(n, shape)), (n, *shape), np.float32, among=among))


def converted(x: Array, dtype: npt.DTypeLike, axes: tuple[int, ...] | None = None) -> Array:
    """An array in another type and another order of axes, contiguous.

    Args:
        x: shape [n, *datum].
        dtype: to convert to.
        axes: as `np.transpose` takes them; the first is 0. None keeps their order.

    Raises:
        UsageError: no room on disk.
    """
    turned = x if axes is None else x.transpose(axes)
    return collected((turned[b] for b in blocks(len(x), x.shape[1:])), turned.shape, dtype)


def taken(x: Shaped[Tensor, "n *datum"], ids: Int[Tensor, " m"]) -> Shaped[Tensor, "m *datum"]:
    """Some rows of a tensor, by position; in a file if they are large.

    Raises:
        UsageError: no room on disk.
    """
    shape = tuple(x.shape[1:])
    if not is_large(len(ids), shape) or x.device.type != "cpu" or x.dtype == torch.bfloat16:
        return x[ids]
    parts = (x[ids[b]].numpy() for b in blocks(len(ids), shape))
    return as_tensor(collected(parts, (len(ids), *shape), x[:0].numpy().dtype))


def as_matrix(
    x: Shaped[Tensor, "n *datum"], change: Callable[[Float[Tensor, "k f"]], Float[Tensor, "k f"]] | None = None
) -> Float[Tensor, "n f"]:
    """Rows as a float32 matrix: no copy where they are one, and in a file if they are large.

    Args:
        x: the rows.
        change: what else is done to each row.

    Raises:
        UsageError: no room on disk.
    """

    def of(part: Tensor) -> Tensor:
        flat = part.flatten(1).float()
        return flat if change is None else change(flat)

    copies = change is not None or x.dtype != torch.float32 or not x.is_contiguous()
    if not copies or not is_large(len(x), x.shape[1:]) or x.device.type != "cpu":
        return of(x)
    return made(len(x), (math.prod(x.shape[1:]),), lambda b: of(x[b]))


def as_tensor(x: Array) -> Tensor:
    """An array as a tensor that shares its memory, or its file. It is not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)


@final
@dataclass(frozen=True)
class Chosen:
    """Some rows of a tensor, which are looked at block by block.

    Attributes:
        x: shape [n, *datum].
        ids: rows of it.
    """

    x: Shaped[Tensor, "n *datum"]
    ids: Int[Tensor, " m"]

    @classmethod
    def all_of(cls, x: Shaped[Tensor, "n *datum"]) -> "Chosen":
        """All rows of a tensor."""
        return cls(x, torch.arange(len(x)))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return tuple(self.x.shape[1:])

    @property
    def large(self) -> bool:
        """Whether they are looked at in several parts."""
        return len(self) * math.prod(self.shape) > AT_ONCE

    def blocks(self) -> Iterator[Shaped[Tensor, "k *datum"]]:
        """The rows, in one part or more."""
        for block in blocks(len(self), self.shape) if self.large else (slice(None),):
            yield self.x[self.ids[block]]

    def all_same(self) -> bool:
        """Whether all rows equal the first one."""
        first = self.x[self.ids[:1]]
        return all(bool((part == first).all()) for part in self.blocks())


def _on_disk(parts: Iterable[Array], shape: tuple[int | None, ...], dtype: np.dtype[np.generic]) -> Array:
    """The parts in a file without a name; where the first entry of the shape is None, however many rows they have."""
    n, *datum = shape
    row, place = math.prod(s or 0 for s in datum) * dtype.itemsize, _place()
    wanted = row * (n or 0)
    try:
        free = shutil.disk_usage(place).free
        if wanted > free:
            raise UsageError(
                f"{place}: expected {size(wanted)} of room for a temporary file of rows, got {size(free)}; free some, "
                "or let TMPDIR name a folder with more"
            )
        with tempfile.TemporaryFile(prefix="zprime-", dir=place) as file:
            for part in parts:
                if part.size:  # an empty one has no bytes to be seen as
                    file.write(np.ascontiguousarray(part, dtype).data.cast("B"))
            file.flush()
            if n is not None and file.tell() != wanted:
                raise ValueError(f"expected {wanted} bytes, got {file.tell()}")
            return np.memmap(file, dtype, "r+", shape=(file.tell() // row, *(s or 0 for s in datum)))
    except OSError as error:
        how_large = "" if n is None else f" of {size(wanted)}"
        raise UsageError(
            f"{place}: cannot write the rows to a temporary file{how_large} ({error.strerror}); free some room, "
            "or let TMPDIR name another folder"
        ) from error


def _place() -> Path:
    """The folder that TMPDIR names; without one a folder on disk."""
    return Path(tempfile.gettempdir() if "TMPDIR" in os.environ or not os.access(DISK, os.W_OK) else DISK)

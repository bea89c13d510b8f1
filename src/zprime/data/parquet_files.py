"""Tables in Parquet: a file, or a folder of files (shards) with the same columns; read in batches by pyarrow."""

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from zprime import memory
from zprime.data.arrow import TEXT, array_of, is_list, is_number, word
from zprime.data.blocks import BLOCK, collected
from zprime.data.csv_file import LABEL
from zprime.data.numpy_files import oriented
from zprime.data.shards import folder_of, shards_of
from zprime.data.source import Array, Reader, Source, file_named, in_one_line
from zprime.data.stores import Place, last_name, places_at
from zprime.errors import ArrayError
from zprime.extras import imported

X = "x"
"""The column that holds whole rows, where it is one of lists of numbers."""
SUFFIX = ".parquet"
MOST = 1 << 16
"""Rows of a batch."""
PAGES: Mapping[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
"""So pages are read one after another; else a file is held until its last row was read."""
FAR: Mapping[str, Any] = {"buffer_size": 1 << 23}
"""Of a file in an object store more is read at once: each request takes long, whatever it asks for."""

library = partial(imported, user="data in Parquet", packages="pyarrow", extra="parquet")
"""A module of the `parquet` extra."""


def read_parquet(path: Path, aside: Collection[str] = ()) -> Source:
    """Columns of numbers, a row a datum; or a column `x` of lists of numbers (or tensors) of one shape.

    A column named `label` holds the labels, numbers or text. Beside a column `x` further columns are no part of the
    rows. Only a batch of rows is in memory at a time, if the rows are large.

    Args:
        path: a file, or a folder of files, which follow each other in the order of their names.
        aside: columns, numbers or text, that are no part of the rows but columns of the source, where there are any of
            these names.

    Raises:
        UsageError: pyarrow is not installed (`zprime[parquet]`), or no room on disk.
        ArrayError: files that cannot be read, other columns than in the first file, cells that are missing or no finite
            numbers, lists of different lengths.
    """
    library("pyarrow.parquet")
    return _read([Place.local(file) for file in shards_of(path, SUFFIX)], path, aside)


def read_parquet_at(address: str, aside: Collection[str] = ()) -> Source:
    """The same of a file, or of a folder of files, in an object store: `s3://bucket/folder`.

    Raises:
        UsageError: no such file, no way to the store, or pyarrow is not installed (`zprime[parquet]`).
        ArrayError: as `read_parquet`.
    """
    return _read(places_at(library("pyarrow.fs"), address, SUFFIX), Path(last_name(address)), aside)


def _read(places: Sequence[Place], path: Path, aside: Collection[str]) -> Source:
    """The rows of some files, which follow each other; `path` says what they are called together."""
    parquet = library("pyarrow.parquet")
    files = [_opened(parquet, place) for place in places]
    columns = _Columns.of(files[0], {in_one_line(name) for name in aside})
    for other in files[1:]:
        columns.check(other, files[0])
    files = [f for f in files if f.n]
    if not files:
        raise ArrayError(f"{path}: expected rows, got none")
    first = next(_Rows(columns).parts(files[0], 1))
    rows, most = _Rows(columns, first.shape[1:]), max(1, min(MOST, BLOCK // max(1, first.size)))
    shape = (sum(f.n for f in files), *first.shape[1:])
    x = collected((part for f in files for part in rows.parts(f, most)), shape, first.dtype)
    top = None
    if not columns.names:
        x, top = oriented(path, x)
    beside = {name: np.concatenate(parts) for name, parts in rows.beside.items()}
    kept = {name: values for name, values in beside.items() if name in map(in_one_line, aside)}
    return Source(path.stem, x, beside.get(LABEL), top=top, columns=kept, names=columns.names)


@final
@dataclass(frozen=True)
class _File:
    """A file whose footer was read.

    Attributes:
        file: what it is, and how it is opened.
        n: rows, as the footer says.
        types: of its columns, by their names.
        parquet: the library.
    """

    file: Place
    n: int
    types: Mapping[str, Any]
    parquet: Any

    def batches(self, names: Collection[str], most: int) -> Iterator[Any]:
        """Batches of at most so many rows, with these columns.

        Raises:
            ArrayError: it cannot be read, or has not as many rows as its footer says.
        """
        n = 0
        options = {**PAGES, **({} if self.file.filesystem is None else FAR)}
        with _readable(self.file), self.file.opened(self.parquet, **options) as opened:
            wanted = [name for name in opened.schema_arrow.names if in_one_line(name) in names]
            for batch in opened.iter_batches(most, columns=wanted, use_threads=False):
                n += batch.num_rows
                if n <= self.n:
                    yield batch.rename_columns([in_one_line(name) for name in batch.schema.names])
        library("pyarrow").default_memory_pool().release_unused()
        if n != self.n:
            raise ArrayError(f"{self.file}: expected {self.n} rows, as it says itself, got {n}; write the file again")


def _opened(parquet: Any, file: Place) -> _File:
    with _readable(file), file.opened(parquet) as opened:
        schema, n = opened.schema_arrow, int(opened.metadata.num_rows)
    names = [in_one_line(name) for name in schema.names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArrayError(f"{file}: expected a different name for each column, got {twice!r} twice; rename one")
    return _File(file, n, dict(zip(names, schema.types, strict=True)), parquet)


@contextlib.contextmanager
def _readable(file: Place) -> Iterator[None]:
    """What pyarrow raises as an `ArrayError` that names the file."""
    try:
        yield
    except (library("pyarrow").ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or memory.ran_out(RuntimeError(str(error))) is not None:
            raise MemoryError(str(error)) from error
        raise ArrayError(f"{file}: not a readable .parquet file ({error}); write the file again") from error


@final
@dataclass(frozen=True)
class _Columns:
    """Which columns are read.

    Attributes:
        names: those that are entries of the rows; none where `x` holds whole rows.
        beside: those that are no part of the rows.
        types: of all of them.
    """

    names: tuple[str, ...]
    beside: tuple[str, ...]
    types: Mapping[str, Any]

    @classmethod
    def of(cls, first: _File, aside: Collection[str]) -> "_Columns":
        """Those of the first file.

        Raises:
            ArrayError: one is of a type that is not read, or none is left for the rows.
        """
        types = first.types
        beside = tuple(name for name in types if name == LABEL or name in aside)
        whole = X in types and X not in beside and is_list(types[X])
        names = () if whole else tuple(name for name in types if name not in beside)
        if not whole and not names:
            raise ArrayError(f"{first.file}: expected columns of numbers, got {', '.join(types) or 'none'}")
        for name in names:
            if not is_number(types[name]):
                raise ArrayError(
                    f"{first.file}: expected numbers in column {name}, got {word(types[name])}; leave the column out, "
                    f"set it aside (--aside {name}), name it {LABEL} if it holds labels, or name it {X} if its lists "
                    "are whole rows"
                )
        for name in beside:
            if not (is_number(types[name]) or word(types[name]) in TEXT):
                raise ArrayError(
                    f"{first.file}: expected numbers or text in column {name}, got {word(types[name])}; write it as "
                    "one of them"
                )
        return cls(names, beside, {name: types[name] for name in (*(names or (X,)), *beside)})

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of the rows, where columns are their entries."""
        return np.result_type(*(self.types[name].to_pandas_dtype() for name in self.names))

    def check(self, other: _File, first: _File) -> None:
        """Raise `ArrayError` where another file has other columns than the first."""
        missing = [name for name in self.types if name not in other.types]
        more = [name for name in other.types if name not in first.types] if self.names else []
        for names, what in ((missing, "has no column"), (more, "also has a column")):
            if names:
                raise ArrayError(
                    f"{other.file}: expected the columns of {first.file.name}, but it {what} {names[0]}; write all "
                    "files with the same columns"
                )
        for name, kind in self.types.items():
            if word(other.types[name]) != word(kind):
                raise ArrayError(
                    f"{other.file}: expected {word(kind)} in column {name}, as {first.file.name} has, got "
                    f"{word(other.types[name])}; write all files with the same types"
                )


@final
@dataclass(frozen=True)
class _Rows:
    """The rows of files, a batch at a time; what stands beside them is kept.

    Attributes:
        columns: which are read.
        shape: of a row; None before it is known.
        beside: by name, an array a batch.
    """

    columns: _Columns
    shape: tuple[int, ...] | None = None
    beside: dict[str, list[Array]] = field(default_factory=dict)

    def parts(self, of: _File, most: int) -> Iterator[Array]:
        """Rows of one file, shape [k, *datum].

        Raises:
            ArrayError: they cannot be used; says in which row and column.
        """
        start = 0
        for batch in of.batches(self.columns.types, most):
            if not batch.num_rows:
                continue
            found = {
                name: array_of(batch.column(name), f"{of.file}, column {name}", start) for name in self.columns.types
            }
            for name in self.columns.beside:
                self.beside.setdefault(name, []).append(found[name])
            names = self.columns.names
            x = np.stack([found[n] for n in names], 1).astype(self.columns.dtype) if names else found[X]
            if self.shape is not None and x.shape[1:] != self.shape:
                raise ArrayError(
                    f"{of.file}, column {X}: expected {_entries(self.shape)} in each row, as the first row has, got "
                    f"{_entries(x.shape[1:])} in row {start}"
                )
            yield x
            start += len(x)


def _entries(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} numbers" if len(shape) == 1 else f"{math.prod(shape)} numbers of shape {list(shape)}"


PARQUET = Reader(
    "a .parquet file",
    f"columns of numbers, or lists of numbers in a column {X}; a column named {LABEL} holds labels",
    file_named(SUFFIX),
    read_parquet,
    read_parquet,
)
PARQUET_FOLDER = Reader(
    "a folder of .parquet files",
    "with the same columns; a file or a folder may be at an address, such as s3://bucket/folder",
    folder_of(SUFFIX),
    read_parquet,
    read_parquet,
)

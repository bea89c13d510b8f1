"""WebDataset: tar files in which the files of one row follow each other, and share their name up to the first dot."""

import logging
import math
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import BinaryIO, cast, final

import numpy as np

from zprime import memory
from zprime.data.blocks import collected, stacked
from zprime.data.csv_file import numbered
from zprime.data.images import UNSEEN
from zprime.data.numpy_files import check_declared, oriented
from zprime.data.pixels import SUFFIXES, Form, form_of, pixels
from zprime.data.shards import folder_of, shards_of
from zprime.data.source import Array, Reader, Source, file_named
from zprime.errors import ArrayError

SUFFIX = ".tar"
ARRAY, LABEL = ".npy", ".cls"
LONGEST = 1000
"""Bytes of a label, at most."""
PIECE = 1 << 20
"""Bytes that are read at once behind the last file."""

log = logging.getLogger("zprime")


def read_tar(path: Path) -> Source:
    """Images (PNG or JPEG) or arrays (.npy) of one size, a row each; beside each its label in a file .cls, or none.

    All headers are read first, then the rows in their order, a block of them at a time. Files with other endings are
    left out.

    Args:
        path: a file, or a folder of files, which follow each other in the order of their names.

    Raises:
        UsageError: no room on disk, or rows that do not fit in memory.
        ArrayError: no tar file, no rows in it, rows of different sizes, labels of some rows only, or a file in it that
            cannot be read.
    """
    files = shards_of(path, SUFFIX)
    seen = _Seen()
    for file in files:
        for member in _members(file):
            seen.take(member)
        seen.end()
    if seen.form is None:
        raise ArrayError(f"{path}: expected images (PNG or JPEG) or arrays (.npy), got none")
    if seen.others:
        found = ", ".join(f"{n} {ending}" for ending, n in sorted(seen.others.items())[:5])
        log.warning("%s: left out files that are no images, arrays or labels (%s)", path, found)
    form, dtype = seen.form, seen.dtype
    shape = form.shape if isinstance(form, Form) else form
    rows = (_row(m, form) for file in files for m in _members(file) if m.ending in (*SUFFIXES, ARRAY))
    x, top = oriented(path, collected(stacked(rows, shape), (seen.n, *shape), dtype))
    return Source(path.stem, x, numbered(seen.labels) if seen.labels else None, top=top)


@final
@dataclass(frozen=True)
class _Member:
    """A file in a tar file.

    Attributes:
        where: what it is called in errors.
        key: what the files of one row share.
        ending: of its name, from the first dot.
        file: its content.
        size: bytes of that.
    """

    where: str
    key: str
    ending: str
    file: BufferedIOBase
    size: int


def _members(file: Path) -> Iterator[_Member]:
    """The files of a tar file in their order, without folders and hidden ones.

    Raises:
        ArrayError: it cannot be read, is cut or damaged, or holds links, devices or sparse files.
    """
    with _readable(file), tarfile.open(file, "r:") as tar:
        while (found := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else all that were read are kept
            parts = found.name.split("/")
            if found.isdir() or parts[-1].startswith(".") or UNSEEN in parts:
                continue
            where = f"{file}, {found.name}"
            content = tar.extractfile(found) if found.isreg() else None
            if content is None:
                raise ArrayError(f"{where}: expected a regular file, got a link or a device; write the file itself")
            if found.issparse():  # it may declare any number of bytes that are not there
                raise ArrayError(f"{where}: expected a whole file, got a sparse one; write it without --sparse")
            name, dot, ending = parts[-1].partition(".")
            yield _Member(
                where, "/".join([*parts[:-1], name]), (dot + ending).lower(), cast(BufferedIOBase, content), found.size
            )
        _check_end(tar)


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse what follows the last file, if it is not the end that tar writes: zeros. tarfile stops there in silence.

    Raises:
        tarfile.ReadError: the file is cut, or a header in it is damaged.
    """
    file = cast(BinaryIO, tar.fileobj)
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"expected the next file or the end at byte {tar.offset}, got a part or damaged data")
    while rest := file.read(PIECE):
        if any(rest):
            raise tarfile.ReadError(f"expected nothing behind its end at byte {tar.offset}, got more data")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ArrayError(f"{file}: not a readable .tar file ({error}); write it again, without compression") from error


@final
@dataclass
class _Seen:
    """What the headers of all files say.

    Attributes:
        n: rows.
        form: of the images, or the shape of the arrays; None before the first.
        dtype: of the rows.
        labels: of the rows, where they have any.
        others: how many files there are with other endings.
    """

    n: int = 0
    form: Form | tuple[int, ...] | None = None
    dtype: "np.dtype[np.generic]" = field(default_factory=lambda: np.dtype(np.uint8))
    labels: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    _key: str | None = None
    _found: dict[str, str] = field(default_factory=dict)
    _first: str = ""
    _spelled: dict[str, str] = field(default_factory=dict)

    def take(self, member: _Member) -> None:
        """The next file.

        Raises:
            UsageError: it does not fit in memory.
            ArrayError: it does not go with the others, or cannot be read.
        """
        if member.key != self._key:
            self.end()
            self._key = member.key
        if member.ending == LABEL:
            self._once("label", member.where)
            with _usable(member, "label"):
                written = member.file.read(LONGEST + 1)
            label = _label(member.where, written)
            self.labels.append(self._spelled.setdefault(label, label))
        elif member.ending in (*SUFFIXES, ARRAY):
            self._once("row", member.where)
            self.n += 1
            self._first = self._first or member.where.rpartition(", ")[2]
            self._check(member)
        else:
            self.others[member.ending or "without an ending"] += 1

    def end(self) -> None:
        """The row is complete.

        Raises:
            ArrayError: a label without a row, or labels of some rows only.
        """
        if "label" in self._found and "row" not in self._found:
            raise ArrayError(f"{self._found['label']}: expected an image or an array of this name beside it, got none")
        if "row" in self._found and self.labels and len(self.labels) != self.n:
            raise ArrayError(
                f"{self._found['row']}: expected a label ({LABEL}) for every row or for none, got {len(self.labels)} "
                f"for the first {self.n} rows"
            )
        self._key = None
        self._found = {}

    def _once(self, what: str, where: str) -> None:
        if what in self._found:
            raise ArrayError(
                f"{where}: expected one {what} of this name, got {self._found[what].rpartition(', ')[2]} too; give "
                "each row a name of its own"
            )
        self._found[what] = where

    def _check(self, member: _Member) -> None:
        """Compare the row's header with that of the first."""
        if member.ending == ARRAY:
            shape, dtype = _header(member)
            if self.form is None:
                memory.need(2 * member.size, f"{member.where}, a row", "write smaller rows")
                self.form, self.dtype = shape, dtype
            if (shape, dtype) != (self.form, self.dtype):
                first = "an image" if isinstance(self.form, Form) else f"{self.dtype} of shape {list(self.form)}"
                raise ArrayError(
                    f"{member.where}: expected {first}, as {self._first}, got {dtype} of shape {list(shape)}; write "
                    "all rows in one form"
                )
            return
        found = form_of(member.file, member.where, self._first)
        if self.form is not None and not isinstance(self.form, Form):
            raise ArrayError(f"{member.where}: expected an array, as {self._first}, got an image")
        self.form = found if self.form is None else self.form.joined(member.where, found)


def _label(where: str, written: bytes) -> str:
    """A label as text. What is no UTF-8 is refused: replaced, different labels could become one.

    Raises:
        ArrayError: it is no text, empty, or too long.
    """
    if len(written) > LONGEST:
        raise ArrayError(f"{where}: expected a label of at most {LONGEST:,} bytes, got more; write a shorter one")
    try:
        label = written.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ArrayError(f"{where}: expected a label in UTF-8, got {written[:40]!r}; write it in UTF-8") from error
    if not label:
        raise ArrayError(f"{where}: expected a label, got {label!r}; write one, or leave all out")
    return label


def _header(member: _Member) -> tuple[tuple[int, ...], "np.dtype[np.generic]"]:
    """Shape and type of an array.

    Raises:
        ArrayError: it cannot be read, holds nothing or no numbers, or less than it declares.
    """
    with _usable(member, ".npy file of numbers"):
        shape, dtype = check_declared(member.where, member.file, member.size)
    if not shape or not math.prod(shape) or dtype.kind not in "fiub":
        raise ArrayError(f"{member.where}: expected numbers of shape [...], got {dtype} of shape {list(shape)}")
    return shape, dtype


def _row(member: _Member, form: Form | tuple[int, ...]) -> Array:
    """Pixels or numbers of one row."""
    if isinstance(form, Form):
        return pixels(member.file, member.where, form)
    with _usable(member, ".npy file of numbers"):
        found: Array = np.lib.format.read_array(BytesIO(member.file.read()), allow_pickle=False)
    return found


@contextmanager
def _usable(member: _Member, what: str) -> Iterator[None]:
    try:
        yield
    except ArrayError:
        raise
    except (ValueError, EOFError, OSError, tarfile.TarError) as error:
        raise ArrayError(f"{member.where}: not a readable {what} ({error})") from error


TAR = Reader(
    "a .tar file",
    f"WebDataset: images or .npy arrays of one size, a row each, and {LABEL} files with their labels",
    file_named(SUFFIX),
    read_tar,
)
TAR_FOLDER = Reader("a folder of .tar files", "one after another", folder_of(SUFFIX), read_tar)

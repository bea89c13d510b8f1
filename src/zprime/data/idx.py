"""MNIST's IDX files."""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from zprime.data.limits import check_unpacked
from zprime.data.source import Array, Reader, Source
from zprime.errors import ArrayError, UsageError

MORE = 1 << 16
"""Bytes that are looked for after those that a header declares."""


def read_idx_folder(path: Path) -> Source:
    """MNIST's IDX files, gzipped or not: train-images, train-labels, and the test part t10k-* if it is there."""

    def find(part: str, what: str) -> Path | None:
        hits = [p for p in sorted(path.iterdir()) if p.name.startswith(part) and f"{what}-idx" in p.name]
        return hits[0] if hits else None

    train = find("train", "images")
    if train is None:
        raise UsageError(f"{path}: expected a file named train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    x = read_idx_file(train)
    if x.ndim != 3:
        raise ArrayError(f"{train}: expected images of shape [n, height, width], got {list(x.shape)}")
    labels, test = find("train", "labels"), find("t10k", "images")
    y = read_idx_file(labels) if labels else None
    n_test = 0
    if test is not None:
        x_test = read_idx_file(test)
        if x_test.shape[1:] != x.shape[1:]:
            raise ArrayError(f"{test}: expected images of {list(x.shape[1:])}, got {list(x_test.shape[1:])}")
        n_test = len(x_test)
        x = np.concatenate([x, x_test])
        test_labels = find("t10k", "labels")
        y = np.concatenate([y.ravel(), read_idx_file(test_labels).ravel()]) if y is not None and test_labels else None
    if y is not None and y.shape != (len(x),):
        got = len(y) if y.ndim == 1 else f"shape {list(y.shape)}"
        raise ArrayError(f"{path}: expected {len(x)} labels, got {got}")
    return Source(path.name, x[:, None], None if y is None else y.astype(np.int64), n_test, 255.0)


def read_idx_file(file: Path) -> Array:
    """One IDX file of unsigned bytes.

    Raises:
        ArrayError: not IDX, of another shape than labels or images have, truncated, or longer than its header says.
    """
    if not file.is_file():
        raise ArrayError(f"{file}: expected a regular file, got none (a folder, a pipe, or a link to nothing)")
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            return _read(opened, file)
    except (OSError, EOFError, zlib.error) as error:
        raise ArrayError(f"{file}: truncated or not gzip ({error}); fetch the file again") from error


def _read(opened: BufferedIOBase, file: Path) -> Array:
    """The array of an open file; what it declares is compared with the file's size before it is read."""
    start = opened.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != 8:
        raise ArrayError(f"{file}: expected an IDX file of unsigned bytes (magic 0x0000_08xx), got {start.hex()}")
    ndim = start[3]
    sizes = opened.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ArrayError(f"{file}: truncated in its header; fetch the file again")
    shape = struct.unpack(f">{ndim}I", sizes)
    # numpy cannot reshape to more than 64 sizes, nor to 0 rows of sizes whose product is beyond 64 bits
    if ndim not in (1, 3) or 0 in shape:
        shown = ", ".join(map(str, shape[:5])) + (", ..." if ndim > 5 else "")
        raise ArrayError(
            f"{file}: expected labels of shape [n] or images of shape [n, height, width], none of these 0, got "
            f"[{shown}] ({ndim} sizes); fetch the file again"
        )
    declared, packed = math.prod(shape), file.stat().st_size
    if file.suffix == ".gz":
        check_unpacked(f"{file}", declared, packed)
    elif declared != packed - 4 - 4 * ndim:
        raise _other_size(file, declared, shape, f"{packed - 4 - 4 * ndim}")
    check_unpacked(f"{file}", declared)
    content = opened.read(declared)
    more = opened.read(MORE)
    if len(content) != declared or more:
        got = f"{len(content) + len(more)}"
        raise _other_size(file, declared, shape, f"at least {got}" if len(more) == MORE else got)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _other_size(file: Path, declared: int, shape: tuple[int, ...], got: str) -> ArrayError:
    return ArrayError(f"{file}: expected {declared} bytes for shape {list(shape)}, got {got}; fetch the file again")


IDX = Reader(
    "a folder of IDX files",
    "as MNIST's, gzipped or not",
    lambda path: path.is_dir() and any("idx3-ubyte" in p.name for p in path.iterdir()),
    read_idx_folder,
)

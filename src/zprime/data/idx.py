"""MNIST's IDX files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from zprime.data.source import Array, Reader, Source
from zprime.errors import ArrayError, UsageError


def read_idx_folder(path: Path) -> Source:
    """MNIST's IDX files, gzipped or not: train-images, train-labels, and the test part t10k-* if it is there."""

    def find(part: str, what: str) -> Path | None:
        hits = [p for p in sorted(path.iterdir()) if p.name.startswith(part) and f"{what}-idx" in p.name]
        return hits[0] if hits else None

    train = find("train", "images")
    if train is None:
        raise UsageError(f"{path}: expected a file named train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    x = read_idx_file(train)
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
        y = np.concatenate([y, read_idx_file(test_labels)]) if y is not None and test_labels else None
    if y is not None and len(y) != len(x):
        raise ArrayError(f"{path}: expected {len(x)} labels, got {len(y)}")
    return Source(path.name, x[:, None], None if y is None else y.astype(np.int64), n_test, 255.0)


def read_idx_file(file: Path) -> Array:
    """One IDX file of unsigned bytes.

    Raises:
        ArrayError: not IDX, truncated, or longer than its header says.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ArrayError(f"{file}: truncated or not gzip ({error}); fetch the file again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8:
        raise ArrayError(f"{file}: expected an IDX file of unsigned bytes (magic 0x0000_08xx), got {content[:4].hex()}")
    ndim = content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ArrayError(f"{file}: truncated in its header; fetch the file again")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    size = int(np.prod(shape))
    if len(content) - start != size:
        raise ArrayError(
            f"{file}: expected {size} bytes for shape {list(shape)}, got {len(content) - start}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


IDX = Reader(
    "a folder of IDX files",
    "as MNIST's, gzipped or not",
    lambda path: path.is_dir() and any("idx3-ubyte" in p.name for p in path.iterdir()),
    read_idx_folder,
)

"""Arrays in .npy and .npz files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zprime.data.source import Array, Reader, Source, file_named
from zprime.errors import ArrayError


def read_npy(path: Path) -> Source:
    """One array in a .npy file, a row a datum."""
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ArrayError(f"{path}: not a readable .npy file of numbers ({error})") from error
    x, top = _oriented(path, x)
    return Source(path.stem, x, top=top)


def read_npz(path: Path) -> Source:
    """Arrays `x` or `x_train`, with `y`/`y_train` and a test part `x_test`, `y_test` where they exist.

    Any other array of one number a row (`w`, or `w_train` and `w_test`) is a column.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except Exception as error:  # zip, zlib, pickle and numpy each raise their own
        raise ArrayError(f"{path}: not a readable .npz file of numbers ({error})") from error
    x = arrays.get("x_train", arrays.get("x"))
    if x is None and len(arrays) == 1:
        x = next(iter(arrays.values()))
    if x is None:
        raise ArrayError(f"{path}: expected an array named x or x_train, got {', '.join(arrays) or 'none'}")
    y = arrays.get("y_train", arrays.get("y"))
    x, top = _oriented(path, x)
    test = 0
    if "x_test" in arrays:
        x_test = _oriented(path, arrays["x_test"])[0]
        if x_test.shape[1:] != x.shape[1:]:
            raise ArrayError(f"{path}: expected x_test rows of shape {list(x.shape[1:])}, got {list(x_test.shape[1:])}")
        test = len(x_test)
        x = np.concatenate([x, x_test])
        if y is not None:
            y = np.concatenate([y.ravel(), arrays["y_test"].ravel()]) if "y_test" in arrays else None
    if y is not None and y.shape != (len(x),):
        raise ArrayError(f"{path}: expected {len(x)} labels, one a row, got shape {list(y.shape)}")
    return Source(path.stem, x, y, test, top, _columns(arrays, len(x)))


def _columns(arrays: Mapping[str, Array], n: int) -> dict[str, Array]:
    """Arrays beside the rows and labels that hold one entry a row."""
    columns = {}
    for name, values in arrays.items():
        base = name.removesuffix("_train")
        if base in ("x", "y") or name.endswith("_test") or values.ndim != 1:
            continue
        parts = [values, arrays[f"{base}_test"].ravel()] if f"{base}_test" in arrays else [values]
        if sum(map(len, parts)) == n:
            columns[base] = np.concatenate(parts)
    return columns


def _oriented(path: Path, x: Array) -> tuple[Array, float | None]:
    """Check an array, and turn [n, h, w] and [n, h, w, c] images to [n, c, h, w]; with the value of full intensity."""
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise ArrayError(f"{path}: expected numbers of shape [n, ...], got {x.dtype} of shape {list(x.shape)}")
    if not x.dtype.isnative or x.dtype == np.longdouble:
        x = x.astype(np.float64 if x.dtype.kind == "f" else np.int64)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x, 255.0 if x.dtype == np.uint8 and x.ndim == 4 else None


NPY = Reader("a .npy file", "one array, a row a datum", file_named(".npy"), read_npy)
NPZ = Reader(
    "a .npz file", "x and, if there are labels, y; or x_train, y_train, x_test, y_test", file_named(".npz"), read_npz
)

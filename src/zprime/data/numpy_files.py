"""Arrays in .npy and .npz files. What they declare is compared with their size before anything is allocated."""

import math
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from zprime.data.blocks import blocks, collected, converted, is_large
from zprime.data.limits import check_unpacked
from zprime.data.shards import folder_of, shards_of
from zprime.data.source import Array, Reader, Source, file_named
from zprime.errors import ArrayError


def read_npy(path: Path) -> Source:
    """One array in a .npy file, a row a datum; a large one is mapped to memory, and not read."""
    x, top = oriented(path, _array(path))
    return Source(path.stem, x, top=top)


def read_npy_folder(path: Path) -> Source:
    """Arrays in the .npy files of a folder, one after another in the order of their names; of one shape and type."""
    files = shards_of(path, ".npy")
    first, n = _array(files[0]), 0
    for file in files:
        x = _array(file)
        if (x.shape[1:], x.dtype) != (first.shape[1:], first.dtype) or not x.ndim:
            raise ArrayError(
                f"{file}: expected {first.dtype} of shape [n, {', '.join(map(str, first.shape[1:]))}], as "
                f"{files[0].name} has, got {x.dtype} of shape {list(x.shape)}"
            )
        n += len(x)
    parts = (x[b] for x in map(_array, files) for b in blocks(len(x), x.shape[1:]))
    x, top = oriented(path, collected(parts, (n, *first.shape[1:]), first.dtype))
    return Source(path.name, x, top=top)


def _array(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            held = os.fstat(file.fileno()).st_size
            shape, _ = check_declared(f"{path}", file, held)
            if is_large(1, shape):
                return np.lib.format.open_memmap(path, mode="r")
            check_unpacked(f"{path}", held)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except ArrayError:
        raise
    except Exception as error:  # a header is text that numpy parses; what it raises depends on what is wrong with it
        raise ArrayError(f"{path}: not a readable .npy file of numbers ({error})") from error


def check_declared(where: str, file: BufferedIOBase, held: int) -> "tuple[tuple[int, ...], np.dtype[np.generic]]":
    """Refuse an array whose header declares more or less than the file holds; else shape and type of the array.

    Args:
        where: the file, for the error.
        file: at the start of the header.
        held: bytes of header and array.

    Raises:
        ArrayError: it does.
        ValueError: no header of an array, or one of Python objects.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    declared, there = math.prod(shape) * dtype.itemsize, held - file.tell()
    if declared != there:
        raise ArrayError(
            f"{where}: its header declares {declared} bytes ({dtype} of shape {list(shape)}), and {there} follow; the "
            "file is damaged or incomplete, write it again"
        )
    return tuple(shape), dtype


def _arrays(path: Path) -> dict[str, Array]:
    """All arrays of a .npz file.

    Raises:
        ArrayError: one that declares what it does not hold, or that would not fit in memory with the others.
    """
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        twice = [name for name, times in Counter(map(_name, members)).items() if times > 1]
        if twice:
            raise ArrayError(
                f"{path}: expected arrays of different names, got two named {twice[0]}; write the file again"
            )
        check_unpacked(f"{path}", sum(m.file_size for m in members), sum(m.compress_size for m in members))
        arrays = {}  # they fit in memory together: none holds more than its part of what was checked
        for member in members:
            where = f"{path}, {member.filename}"
            with archive.open(member) as file:
                assert isinstance(file, BufferedIOBase)
                check_declared(where, file, member.file_size)
            with archive.open(member) as file:
                arrays[_name(member)] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def _name(member: zipfile.ZipInfo) -> str:
    """What numpy calls an array of a .npz file."""
    return member.filename.removesuffix(".npy")


def read_npz(path: Path) -> Source:
    """Arrays `x` or `x_train`, with `y`/`y_train` and a test part `x_test`, `y_test` where they exist.

    Any other array with one number a row, or one row of numbers (`w`, or `w_train` and `w_test`), is a column.
    """
    try:
        arrays = _arrays(path)
    except ArrayError:
        raise
    except Exception as error:  # zip, zlib, pickle and numpy each raise their own
        raise ArrayError(f"{path}: not a readable .npz file of numbers ({error})") from error
    x = arrays.get("x_train", arrays.get("x"))
    if x is None and len(arrays) == 1:
        x = next(iter(arrays.values()))
    if x is None:
        shown = ", ".join(list(arrays)[:10]) + (", ..." if len(arrays) > 10 else "")
        raise ArrayError(f"{path}: expected an array named x or x_train, got {shown or 'none'}")
    y = arrays.get("y_train", arrays.get("y"))
    x, top = oriented(path, x)
    test = 0
    if "x_test" in arrays:
        x_test = oriented(path, arrays["x_test"])[0]
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
        if base in ("x", "y") or name.endswith("_test") or values.ndim not in (1, 2):
            continue
        parts = [values]
        if f"{base}_test" in arrays:
            test = arrays[f"{base}_test"]
            parts.append(test.ravel() if values.ndim == 1 else test)
        if len({part.shape[1:] for part in parts}) == 1 and sum(map(len, parts)) == n:
            columns[base] = np.concatenate(parts)
    return columns


def oriented(path: Path, x: Array) -> tuple[Array, float | None]:
    """Check an array, and turn [n, h, w] and [n, h, w, c] images to [n, c, h, w]; with the value of full intensity."""
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise ArrayError(f"{path}: expected numbers of shape [n, ...], got {x.dtype} of shape {list(x.shape)}")
    # torch takes neither another order of bytes nor longdouble; which values it can hold is for `stored` to say
    if x.dtype.type is np.longdouble:
        x = converted(x, np.float64)
    elif not x.dtype.isnative:
        x = converted(x, x.dtype.newbyteorder("="))
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = converted(x, x.dtype, (0, 3, 1, 2))
    return x, 255.0 if x.dtype == np.uint8 and x.ndim == 4 else None


NPY = Reader("a .npy file", "one array, a row a datum", file_named(".npy"), read_npy)
NPY_FOLDER = Reader(
    "a folder of .npy files", "arrays of one shape but for their rows", folder_of(".npy"), read_npy_folder
)
NPZ = Reader(
    "a .npz file", "x and, if there are labels, y; or x_train, y_train, x_test, y_test", file_named(".npz"), read_npz
)

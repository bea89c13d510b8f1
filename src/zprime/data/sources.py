"""Where rows come from: one function a format, each giving arrays as they are stored."""

import csv
import gzip
import struct
import zlib
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from zprime.errors import ArrayError, UsageError

Array = npt.NDArray[np.generic]
IMAGES = (".png", ".jpg", ".jpeg")
LABEL = "label"
"""The column of a .csv file that holds labels."""


@dataclass(frozen=True)
class Source:
    """Rows as stored, before splitting and scaling.

    Attributes:
        name: what the rows are called in tables.
        x: shape [n, *datum]; images are [n, channels, height, width].
        y: labels, shape [n], or None.
        test: number of rows at the end that are the set's own test part, 0 if it has none.
        top: value that stands for full intensity (255 for bytes), or None where the columns have units of their own.
        columns: further arrays of shape [n], by name.
        names: of the columns of `x`, where they have names.
    """

    name: str
    x: Array
    y: Array | None = None
    test: int = 0
    top: float | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def read_source(data: str) -> Source:
    """Read `digits`, a `.npy`, `.npz` or `.csv` file, a folder of IDX files, or a folder of PNG or JPEG images.

    Raises:
        UsageError: nothing there, or nothing that is understood.
        ArrayError: arrays of the wrong shape or type, cells that are no numbers, images of different sizes, truncated
            files.
    """
    if data == "digits":
        return digits()
    path = Path(data).expanduser()
    if not path.exists():
        raise UsageError(f"data: expected digits, or a file or folder that exists, got {data!r}")
    if path.is_dir():
        if any("idx3-ubyte" in p.name for p in path.iterdir()):
            return idx_folder(path)
        return image_folder(path)
    readers: dict[str, Callable[[Path], Source]] = {".npy": npy, ".npz": npz, ".csv": comma_separated}
    suffix = path.suffix.lower()
    if suffix not in readers:
        hint = "; save it with commas between the columns, as .csv" if suffix in (".tsv", ".txt") else ""
        raise UsageError(
            "data: expected a .npy file, a .npz file (x, and y for labels), a .csv file of numbers or a folder of "
            f"images, got {path.name}{hint}"
        )
    return readers[suffix](path)


def digits() -> Source:
    """The 1,797 handwritten digits, 8 x 8, that scikit-learn ships."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("data digits: needs scikit-learn; pip install 'zprime[digits]'") from error
    found = load_digits()
    return Source("digits", found.images[:, None].astype(np.float32), found.target.astype(np.int64), top=16.0)


def npy(path: Path) -> Source:
    """One array in a .npy file, a row a datum."""
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ArrayError(f"{path}: not a readable .npy file of numbers ({error})") from error
    return Source(path.stem, *_oriented(path, x))


def npz(path: Path) -> Source:
    """Arrays `x` or `x_train`, with `y`/`y_train` and a test part `x_test`, `y_test` where they exist.

    Any other array of one number a row (`w`, or `w_train` and `w_test`) is a column.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {k: found[k] for k in found.files}
    except Exception as error:  # zip, zlib, pickle and numpy each raise their own
        raise ArrayError(f"{path}: not a readable .npz file of numbers ({error})") from error
    x = arrays.get("x_train", arrays.get("x"))
    if x is None and len(arrays) == 1:
        x = next(iter(arrays.values()))
    if x is None:
        raise ArrayError(f"{path}: expected an array named x or x_train, got {', '.join(arrays) or 'none'}")
    y = arrays.get("y_train", arrays.get("y"))
    x, top = _oriented(path, x)[0], _oriented(path, x)[3]
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
    out = {}
    for name, found in arrays.items():
        base = name.removesuffix("_train")
        if base in ("x", "y") or name.endswith("_test") or found.ndim != 1:
            continue
        parts = [found, arrays[f"{base}_test"].ravel()] if f"{base}_test" in arrays else [found]
        if sum(map(len, parts)) == n:
            out[base] = np.concatenate(parts)
    return out


def comma_separated(path: Path) -> Source:
    """Numbers with commas between them, a line a datum; a column named `label` holds the labels, numbers or text.

    A first line with a cell that is no number names the columns, and so does 0, 1, 2, ..., as pandas writes columns
    without names. Blank lines are left out.

    Raises:
        ArrayError: no rows, lines of different lengths, cells that are no finite numbers, columns without a name.
    """
    values, lines, labels, found = array("d"), array("q"), list[str](), -1  # of the labels' column
    width, names = 0, list[str]()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in filter(None, reader):
                if not width:
                    width = len(cells)
                    if not all(map(_is_number, cells)):
                        names = [name.strip() for name in cells]
                        found = _labels_among(names, f"{path}, line {reader.line_num}")
                        continue
                    if width > 2 and cells == [str(i) for i in range(width)]:
                        continue
                if len(cells) != width:
                    raise ArrayError(
                        f"{path}, line {reader.line_num}: expected {width} cells, as in the first line, got "
                        f"{len(cells)}"
                    )
                if found >= 0:
                    labels.append(cells[found].strip())
                    cells[found] = "0"
                try:
                    values.extend(map(float, cells))
                except ValueError:
                    raise _no_number(path, reader.line_num, cells) from None
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ArrayError(f"{path}: not a readable .csv file in UTF-8 ({error})") from error
    if not lines:
        raise ArrayError(f"{path}: expected rows of numbers, got {'only a header' if width else 'an empty file'}")
    x = np.frombuffer(values, np.float64).reshape(len(lines), width)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0]
        raise ArrayError(
            f"{path}, line {lines[row]}, column {column + 1}: expected a finite number, got {x[row, column]:g}; fill "
            "it in, or leave the line out"
        )
    if found < 0:
        return Source(path.stem, x, names=tuple(names))
    empty = next((i for i, label in enumerate(labels) if label.lower() in ("", "nan")), None)
    if empty is not None:
        raise ArrayError(
            f"{path}, line {lines[empty]}, column {found + 1}: expected a label, got {labels[empty]!r}; fill it in, or "
            "leave the line out"
        )
    names.pop(found)
    return Source(path.stem, np.delete(x, found, axis=1), _numbered(labels), names=tuple(names))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _labels_among(names: list[str], where: str) -> int:
    """Position of the labels among the named columns, -1 if there are none."""
    if "" in names:
        raise ArrayError(
            f"{where}, column {names.index('') + 1}: expected a name, or a number if the file has no header, got "
            "an empty cell; leave a column of row numbers out (pandas: to_csv(index=False))"
        )
    if names.count(LABEL) > 1 or names == [LABEL]:
        raise ArrayError(f"{where}: expected one column named {LABEL} beside others, got {', '.join(names)}")
    return names.index(LABEL) if LABEL in names else -1


def _no_number(path: Path, line: int, cells: list[str]) -> ArrayError:
    """What is wrong with the first cell of a line that is no number, and what to do."""
    column, cell = next((i, c) for i, c in enumerate(cells, 1) if not _is_number(c))
    if not cell.strip():
        what, advice = "an empty cell", "fill it in, or leave the line out"
    elif len(cells) == 1 and (";" in cell or "\t" in cell):
        what, advice = repr(cell[:40]), "put commas between the columns, and points before decimals"
    else:
        what, advice = repr(cell[:40]), f"leave the column out, name it {LABEL} if it holds labels, or encode it"
    return ArrayError(f"{path}, line {line}, column {column}: expected a number, got {what}; {advice}")


def _numbered(labels: list[str]) -> Array:
    """Labels as whole numbers where all of them are, else as text."""
    try:
        return np.array([int(label) for label in labels], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(labels)


def _oriented(path: Path, x: Array) -> tuple[Array, None, int, float | None]:
    """Check an array, and turn [n, h, w] and [n, h, w, c] images to [n, c, h, w]."""
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise ArrayError(f"{path}: expected numbers of shape [n, ...], got {x.dtype} of shape {list(x.shape)}")
    if not x.dtype.isnative or x.dtype == np.longdouble:
        x = x.astype(np.float64 if x.dtype.kind == "f" else np.int64)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x, None, 0, 255.0 if x.dtype == np.uint8 and x.ndim == 4 else None


def idx_folder(path: Path) -> Source:
    """MNIST's IDX files, gzipped or not: train-images, train-labels, and the test part t10k-* if it is there."""

    def find(part: str, what: str) -> Path | None:
        hits = [p for p in sorted(path.iterdir()) if p.name.startswith(part) and f"{what}-idx" in p.name]
        return hits[0] if hits else None

    train = find("train", "images")
    if train is None:
        raise UsageError(f"{path}: expected a file named train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    x = read_idx(train)
    labels, test = find("train", "labels"), find("t10k", "images")
    y = read_idx(labels) if labels else None
    n_test = 0
    if test is not None:
        x_test = read_idx(test)
        if x_test.shape[1:] != x.shape[1:]:
            raise ArrayError(f"{test}: expected images of {list(x.shape[1:])}, got {list(x_test.shape[1:])}")
        n_test = len(x_test)
        x = np.concatenate([x, x_test])
        test_labels = find("t10k", "labels")
        y = np.concatenate([y, read_idx(test_labels)]) if y is not None and test_labels else None
    if y is not None and len(y) != len(x):
        raise ArrayError(f"{path}: expected {len(x)} labels, got {len(y)}")
    return Source(path.name, x[:, None], None if y is None else y.astype(np.int64), n_test, 255.0)


def read_idx(file: Path) -> Array:
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


def image_folder(path: Path) -> Source:
    """PNG or JPEG files of one size; in subfolders, the subfolder is the label."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    if not files:
        raise UsageError(f"{path}: expected PNG or JPEG images or IDX files, found none")
    images: list[Array] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode == "I;16":  # PIL would clip these at 255
                    images.append((np.asarray(image) >> 8).astype(np.uint8))
                else:
                    images.append(np.asarray(image.convert("L" if image.mode in ("L", "1", "LA") else "RGB")))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ArrayError(f"{file}: not a readable image ({error})") from error
        if images[-1].shape[:2] != images[0].shape[:2]:
            raise ArrayError(
                f"{file}: expected images of one size, {images[0].shape[1]} x {images[0].shape[0]} as {files[0].name}, "
                f"got {images[-1].shape[1]} x {images[-1].shape[0]}; resize them first"
            )
    if any(i.ndim == 3 for i in images):
        images = [i if i.ndim == 3 else np.repeat(i[..., None], 3, axis=2) for i in images]
    x = np.stack(images)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x[:, None]
    folders = sorted({f.parent for f in files})
    y = np.array([folders.index(f.parent) for f in files], dtype=np.int64) if len(folders) > 1 else None
    return Source(path.name, x, y, 0, 255.0)

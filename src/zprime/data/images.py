"""Folders of images."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zprime.data.limits import check_unpacked
from zprime.data.source import Array, Reader, Source
from zprime.errors import ArrayError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg")
UNSEEN = "__MACOSX"
"""A folder that macOS puts into archives, with a file of its own for each image."""

log = logging.getLogger("zprime")


def read_image_folder(path: Path) -> Source:
    """PNG or JPEG files of one size; in subfolders, the subfolder is the label."""
    files = _visible(path)
    if not files:
        raise UsageError(f"{path}: expected PNG or JPEG images, IDX files, or .parquet or .npy files, found none")
    images: list[Array] = []
    first = (0, 0)
    for file in files:
        if not file.is_file():
            raise ArrayError(f"{file}: expected an image file, got none (a folder, a pipe, or a link to nothing)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as image:  # reads the header only
                    first = first if images else image.size
                    _check_size(file, image.size, files, first)
                    if image.mode == "I;16":  # PIL would clip these at 255
                        images.append((np.asarray(image) >> 8).astype(np.uint8))
                    else:
                        images.append(np.asarray(image.convert("L" if image.mode in ("L", "1", "LA") else "RGB")))
        except ArrayError:
            raise
        except Exception as error:  # every format of PIL raises its own, and so do zlib and struct
            raise ArrayError(f"{file}: not a readable image ({error})") from error
    if any(i.ndim == 3 for i in images):
        images = [i if i.ndim == 3 else np.repeat(i[..., None], 3, axis=2) for i in images]
    x = np.stack(images)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x[:, None]
    folders = sorted({f.parent for f in files})
    y = np.array([folders.index(f.parent) for f in files], dtype=np.int64) if len(folders) > 1 else None
    classes = () if y is None else tuple(str(f.relative_to(path)) for f in folders)
    return Source(path.name, x, y, 0, 255.0, classes=classes)


def _visible(path: Path) -> list[Path]:
    """The images of a folder, sorted, without hidden ones; a warning counts these."""
    found = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not (p.is_dir() and not p.is_symlink())
    )
    hidden = [p for p in found if any(n.startswith(".") or n == UNSEEN for n in p.relative_to(path).parts)]
    if hidden:
        folders = sorted({str(p.parent.relative_to(path)) for p in hidden} - {"."})
        log.warning(
            "%s: left out %d hidden image%s%s",
            path,
            len(hidden),
            "s" * (len(hidden) > 1),
            f", in {', '.join(folders[:5])}" if folders else "",
        )
    left = set(hidden)
    return [p for p in found if p not in left]


def _check_size(file: Path, shape: tuple[int, int], files: Sequence[Path], first: tuple[int, int]) -> None:
    """Refuse an image of another size than the first, or one of which so many fill the memory, before it is decoded."""
    if shape != first:
        raise ArrayError(
            f"{file}: expected images of one size, {first[0]} x {first[1]} as {files[0].name}, got {shape[0]} x "
            f"{shape[1]}; resize them first"
        )
    if file is files[0]:
        check_unpacked(
            f"{file.parent}: {len(files)} images of {shape[0]} x {shape[1]}", 3 * len(files) * shape[0] * shape[1]
        )


IMAGES = Reader("a folder of images", "PNG or JPEG of one size; subfolders are labels", Path.is_dir, read_image_folder)

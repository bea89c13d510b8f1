"""Folders of images."""

import logging
from pathlib import Path

import numpy as np

from zprime.data.blocks import blocks, collected, is_large
from zprime.data.limits import check_unpacked
from zprime.data.pixels import SUFFIXES, Form, form_of, pixels
from zprime.data.source import Reader, Source
from zprime.errors import ArrayError, UsageError

UNSEEN = "__MACOSX"
"""A folder that macOS puts into archives, with a file of its own for each image."""

log = logging.getLogger("zprime")


def read_image_folder(path: Path) -> Source:
    """PNG or JPEG files of one size; in subfolders, the subfolder is the label.

    All headers are read first, then the images, a block of them at a time.
    """
    files = _visible(path)
    if not files:
        raise UsageError(
            f"{path}: expected PNG or JPEG images, IDX files, a Zarr array, or .parquet, .npy or .tar files, found none"
        )
    form = _form(files)
    shape = (len(files), *form.shape)
    if not is_large(shape[0], shape[1:]):
        width, height = form.size
        check_unpacked(f"{path}: {len(files)} images of {width} x {height}", 3 * len(files) * width * height)
    parts = (np.stack([pixels(f, f"{f}", form) for f in files[b]]) for b in blocks(shape[0], shape[1:]))
    x = collected(parts, shape, np.uint8)
    folders = sorted({f.parent for f in files})
    number = {folder: i for i, folder in enumerate(folders)}
    y = np.array([number[f.parent] for f in files], dtype=np.int64) if len(folders) > 1 else None
    classes = () if y is None else tuple(str(f.relative_to(path)) for f in folders)
    return Source(path.name, x, y, 0, 255.0, classes=classes)


def _form(files: list[Path]) -> Form:
    """The form that all files have.

    Raises:
        ArrayError: one cannot be read, or has another size than the first.
    """
    form: Form | None = None
    for file in files:
        if not file.is_file():
            raise ArrayError(f"{file}: expected an image file, got none (a folder, a pipe, or a link to nothing)")
        found = form_of(file, f"{file}", file.name)
        form = found if form is None else form.joined(f"{file}", found)
    assert form is not None
    return form


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


IMAGES = Reader("a folder of images", "PNG or JPEG of one size; subfolders are labels", Path.is_dir, read_image_folder)

"""Folders of images."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from zprime.data.source import Array, Reader, Source
from zprime.errors import ArrayError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image_folder(path: Path) -> Source:
    """PNG or JPEG files of one size; in subfolders, the subfolder is the label."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
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


IMAGES = Reader("a folder of images", "PNG or JPEG of one size; subfolders are labels", Path.is_dir, read_image_folder)

"""Images in PNG or JPEG: what their headers say, and their pixels."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from zprime.data.limits import check_unpacked
from zprime.data.source import Array
from zprime.errors import ArrayError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
"""Of Pillow; others might start programs, as EPS does, whatever a file is called."""
GREY = ("L", "1", "LA", "I;16")
"""Modes of Pillow that have one channel, but for what is transparent."""


@final
@dataclass(frozen=True)
class Form:
    """What all images must share, and what they are made to share.

    Attributes:
        first: what the first image is called.
        size: width and height.
        channels: 1, or 3 if any image has colours.
    """

    first: str
    size: tuple[int, int]
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.size[1], self.size[0]

    def joined(self, where: str, other: "Form") -> "Form":
        """This form where another image has the same size; with its colours.

        Raises:
            ArrayError: it has another size.
        """
        if other.size != self.size:
            raise ArrayError(
                f"{where}: expected images of one size, {self.size[0]} x {self.size[1]} as {self.first}, got "
                f"{other.size[0]} x {other.size[1]}; resize them first"
            )
        return Form(self.first, self.size, max(self.channels, other.channels))


def form_of(file: Path | BufferedIOBase, where: str, first: str) -> Form:
    """Size and channels of an image, by its header alone.

    Args:
        file: the image.
        where: what it is called in errors.
        first: what it is called as the first one.

    Raises:
        ArrayError: it cannot be read, or would not fit in memory when it is unpacked.
    """
    with _opened(file, where) as image:
        width, height = image.size
        check_unpacked(f"{where}: {width} x {height}", 3 * width * height)
        return Form(first, (width, height), 1 if image.mode in GREY else 3)


def pixels(file: Path | BufferedIOBase, where: str, form: Form) -> Array:
    """The pixels of an image, bytes of shape [channels, height, width].

    Raises:
        ArrayError: it cannot be read.
    """
    with _opened(file, where) as image:
        if image.mode == "I;16":  # PIL would clip these at 255
            values = (np.asarray(image) >> 8).astype(np.uint8)
        else:
            values = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
    if values.ndim == 2:
        return np.broadcast_to(values, (form.channels, *values.shape))
    return values.transpose(2, 0, 1)


@contextmanager
def _opened(file: Any, where: str) -> Iterator[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:  # reads the header only
                yield image
    except (ArrayError, MemoryError):
        raise
    except Exception as error:  # every format of PIL raises its own, and so do zlib and struct
        raise ArrayError(f"{where}: not a readable image in PNG or JPEG ({error})") from error

"""Rows as they are stored, and what a reader of one format is."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Source:
    """Rows as stored, before splitting and scaling.

    Attributes:
        name: what the rows are called in tables.
        x: shape [n, *datum]; images are [n, channels, height, width].
        y: labels, shape [n], or None.
        test: number of rows at the end that are the set's own test part, 0 if it has none.
        top: value that stands for full intensity (255 for bytes), or None where the columns have units of their own.
        columns: further arrays by name, shape [n], or [n, k] of k numbers a row.
        names: of the columns of `x`, where they have names.
        lines: shape [n], the line of each row in its file; None where rows have no lines.
        classes: names that the labels 0, 1, ... stand for, where `y` has numbers in their place.
    """

    name: str
    x: Array
    y: Array | None = None
    test: int = 0
    top: float | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    lines: Array | None = None
    classes: tuple[str, ...] = ()

    def column(self, name: str) -> Array | None:
        """The further array of this name, or None; names of a table have single spaces, however one is asked for."""
        return self.columns.get(name, self.columns.get(in_one_line(name)))

    def where(self, row: int) -> str:
        """What a row is called in an error."""
        return f"row {row}" if self.lines is None else f"line {int(self.lines[row])}"


def in_one_line(name: str) -> str:
    """A name with single spaces in place of line breaks, tabs and several spaces, as columns of tables have it."""
    return " ".join(name.split())


@dataclass(frozen=True)
class Reader:
    """One format that data are read from.

    Attributes:
        what: what it reads, as it stands in help and errors: "a .npy file".
        help: what that holds, in a few words.
        recognises: whether a path is of this format; called for paths that exist, and for names of built-in sets.
        read: gives the rows. Raises UsageError where a part is missing, ArrayError where the content is unusable.
        set_aside: the same, with the columns of these names, if there are any, among `columns` and not in the rows;
            None where columns beside the rows are told apart without that.
    """

    what: str
    help: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    set_aside: Callable[[Path, Collection[str]], Source] | None = None


def file_named(suffix: str) -> Callable[[Path], bool]:
    """Whether a path is a file whose name ends in `suffix`, in small or capital letters."""
    return lambda path: path.is_file() and path.suffix.lower() == suffix

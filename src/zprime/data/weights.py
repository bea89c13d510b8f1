"""Weights of rows from a column of the source."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.data.source import Array, Source, in_one_line
from zprime.data.spelling import number
from zprime.errors import ArrayError, UsageError

NO_COMMA = "commas stand between the names of columns that are set aside"
"""Why no column with a comma in its name can be set aside."""


def weights_of(source: Source, column: str, ids: Int[Tensor, " n"], split: str) -> Float[Tensor, " n"]:
    """A column as weights of some rows, as they stand there, float64.

    Args:
        source: the rows as stored.
        column: name of the column.
        ids: row numbers.
        split: what these rows are called.

    Raises:
        UsageError: no such column beside the rows.
        ArrayError: it holds something else than numbers >= 0, or nothing above 0.
    """
    values = source.column(column)
    if values is None:
        raise no_column(source, column, "weights")
    need_one(source, column, values, "weights")
    if values.dtype.kind not in "fiub":
        values = np.array(
            list(numbers(values.tolist(), f"{source.name}: expected numbers in column {column}", source.where))
        )
    weights = torch.from_numpy(values.astype(np.float64))[ids]
    bad = (~(weights >= 0) | weights.isinf()).nonzero().flatten()
    if len(bad):
        raise ArrayError(
            f"{source.name}: expected weights >= 0 in column {column}, got {float(weights[bad[0]]):g} in "
            f"{source.where(int(ids[bad[0]]))}"
        )
    if not float(weights.sum()) > 0:
        raise ArrayError(f"{source.name}: expected a weight above 0 in column {column}, got {len(ids)} zeros ({split})")
    return weights


def need_one(source: Source, column: str, values: Array, setting: str) -> None:
    """Raise `ArrayError` for a column of several numbers a row, where one is wanted."""
    if values.ndim != 1:
        raise ArrayError(
            f"{setting}: expected one value a row in column {column} of {source.name}, got shape {list(values.shape)}"
        )


def no_column(source: Source, column: str, setting: str) -> UsageError:
    """What to say of a column that a setting names and that is not there, or that is one of the rows' own."""
    if in_one_line(column) in source.names:
        way = f"train with --aside {column} (aside={column!r}), so that it is none"
        if "," in column:
            way = f"{NO_COMMA}; rename it, and train with --aside and its new name"
        return UsageError(
            f"{setting}: {column} is one of the columns of {source.name} that the rows are made of; {way}"
        )
    names = [*sorted(source.columns), *source.names]
    known = ", ".join(names) or "none: an .npz file, or a .csv file with named columns, can have one"
    cut = any("," in name and column in name for name in names)
    hint = f"; {NO_COMMA}, so rename columns that have one in their name" if cut else ""
    return UsageError(f"{setting}: expected a column of {source.name} ({known}), got {column!r}{hint}")


def numbers(cells: Array | Iterable[object], what: str, where: Callable[[int], str]) -> Iterable[float]:
    """Text as numbers.

    Args:
        cells: the text.
        what: was expected, for the error.
        where: says what a row is called.

    Raises:
        ArrayError: text that is no number.
    """
    for row, cell in enumerate(cells):
        try:
            yield number(str(cell))
        except ValueError:
            raise ArrayError(f"{what}, got {cell!r} in {where(row)}") from None

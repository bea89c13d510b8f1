"""Weights of rows from a column of the source."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.data.source import Array, Source
from zprime.errors import ArrayError, UsageError


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
    if column not in source.columns:
        raise no_column(source, column)

    def where(row: int) -> str:
        return f"row {row}" if source.lines is None else f"line {int(source.lines[row])}"

    values = source.columns[column]
    if values.dtype.kind not in "fiub":
        values = np.array(list(_numbers(values.tolist(), f"{source.name}: expected numbers in column {column}", where)))
    weights = torch.from_numpy(values.astype(np.float64))[ids]
    bad = (~(weights >= 0) | weights.isinf()).nonzero().flatten()
    if len(bad):
        raise ArrayError(
            f"{source.name}: expected weights >= 0 in column {column}, got {float(weights[bad[0]]):g} in "
            f"{where(int(ids[bad[0]]))}"
        )
    if not float(weights.sum()) > 0:
        raise ArrayError(f"{source.name}: expected a weight above 0 in column {column}, got {len(ids)} zeros ({split})")
    return weights


def no_column(source: Source, column: str) -> UsageError:
    """What to say of a column of weights that is not there, or that is one of the rows' own."""
    if column in source.names:
        return UsageError(
            f"weights: {column} is one of the columns of {source.name} that the rows are made of; train with --aside "
            f"{column} (aside={column!r}), so that it is none"
        )
    known = ", ".join([*sorted(source.columns), *source.names])
    known = known or "none: an .npz file, or a .csv file with named columns, can have one"
    return UsageError(f"weights: expected a column of {source.name} ({known}), got {column!r}")


def _numbers(cells: Array | Iterable[object], what: str, where: Callable[[int], str]) -> Iterable[float]:
    """Text as numbers."""
    for row, cell in enumerate(cells):
        try:
            yield float(str(cell))
        except ValueError:
            raise ArrayError(f"{what}, got {cell!r} in {where(row)}") from None

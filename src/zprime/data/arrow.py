"""Columns of pyarrow as arrays: numbers, text, and lists of numbers. What is missing or not finite is refused.

Nothing here imports pyarrow: types are told apart by their names.
"""

from typing import Any

import numpy as np

from zprime.data.source import Array
from zprime.errors import ArrayError

TEXT = ("string", "large_string", "string_view")
LISTS = ("list", "large_list", "fixed_size_list")
TENSOR = "arrow.fixed_shape_tensor"


def word(kind: Any) -> str:
    """A type in words; of a column of repeated values the type of these."""
    return str(getattr(kind, "value_type", kind)) if str(kind).startswith("dictionary") else str(kind)


def is_number(kind: Any) -> bool:
    """Whether a type is one of numbers that numpy has: whole, floating-point or boolean."""
    name = word(kind)
    return name in ("bool", "halffloat", "float", "double") or name.lstrip("u") in ("int8", "int16", "int32", "int64")


def is_list(kind: Any) -> bool:
    """Whether a type is one of lists of numbers, or of lists of those, or of tensors."""
    if _is_tensor(kind):
        return is_number(kind.value_type)
    return str(kind).split("<")[0] in LISTS and (is_number(kind.value_type) or is_list(kind.value_type))


def array_of(column: Any, where: str, start: int, per: int = 1) -> Array:
    """A column of a batch as an array, shape [n], or [n, ...] of lists.

    Args:
        column: a pyarrow array.
        where: file and column, for errors.
        start: number of the first row in the file.
        per: entries of the column in each row.

    Raises:
        ArrayError: a value is missing or not finite, or lists have different lengths; says in which row.
    """
    if _is_tensor(column.type):
        order = column.type.permutation
        if order is not None and list(order) != sorted(order):
            raise ArrayError(f"{where}: expected tensors in the order of their axes, got permutation {list(order)}")
        values = array_of(column.storage, where, start, per)
        return values.reshape(len(values), *column.type.shape)
    if column.null_count:
        row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))) // per
        raise ArrayError(f"{where}: expected a value in every row, got none in row {row}; fill it in, or leave it out")
    if is_list(column.type):
        size = _length(column, where, start, per)
        inside = array_of(column.flatten(), where, start, per * size)
        return inside.reshape(len(column), size, *inside.shape[1:])
    if str(column.type).startswith("dictionary"):
        column = column.dictionary_decode()
    if not is_number(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    numbers: Array = column.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        at = int(np.argmin(np.isfinite(numbers)))
        raise ArrayError(
            f"{where}: expected a finite number in every row, got {numbers[at]:g} in row {start + at // per}; fill it "
            "in, or leave the row out"
        )
    return numbers


def _length(column: Any, where: str, start: int, per: int) -> int:
    """Of every list of a column, at least 1."""
    if str(column.type).startswith("fixed_size_list"):
        size = int(column.type.list_size)
    else:
        lengths = np.diff(column.offsets.to_numpy())
        size = int(lengths[0])
        other = np.flatnonzero(lengths != size)
        if len(other):
            raise ArrayError(
                f"{where}: expected lists of one length, {size} as in row {start}, got {int(lengths[other[0]])} in row "
                f"{start + int(other[0]) // per}"
            )
    if not size:
        raise ArrayError(f"{where}: expected numbers in every list, got an empty one in row {start}")
    return size


def _is_tensor(kind: Any) -> bool:
    return getattr(kind, "extension_name", "") == TENSOR

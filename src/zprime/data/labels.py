"""Labels of rows as integers."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zprime.data.source import Array, Source
from zprime.data.spelling import MISSING, check_spelled_once
from zprime.errors import ArrayError

EXACT = 2.0**53  # up to here every whole number is a float64


def labels_of(y: Array, source: Source) -> Int[Tensor, " n"]:
    """Any labels as integers: whole numbers as they are, others as 0, 1, ... in the order of their sorted values.

    Raises:
        ArrayError: a label is missing: NaN, infinite, no date (NaT), an empty text, or a word for nothing such as `NA`;
            or one whole number is spelled in two ways: `01` and `1`.
    """
    missing = _missing(y)
    if len(missing):
        at = int(missing[0])
        which = f"row {at}" if source.lines is None else f"line {int(source.lines[at])}"
        got = "NaT" if y.dtype.kind in "mM" else repr(y[at].item())
        name = "; write it in another way if it is a name" if y.dtype.kind in "US" else ""
        raise ArrayError(
            f"{source.name}: expected a label in every row, got {got} in {which} ({len(missing)} of "
            f"{len(y)} rows); fill it in, leave these rows out, or leave the labels out{name}"
        )
    if y.dtype.kind == "U":
        check_spelled_once(source.name, "label", y.tolist())
    if y.dtype.kind == "f":
        numbers = y.astype(np.float64)
        if bool(np.all((numbers == np.round(numbers)) & (np.abs(numbers) <= EXACT))):
            y = y.astype(np.int64)
    if y.dtype.kind in "ib" or (y.dtype.kind == "u" and y.dtype.itemsize < 8):
        return torch.from_numpy(y.astype(np.int64))
    return torch.from_numpy(np.unique(y, return_inverse=True)[1].reshape(-1).astype(np.int64))


def _missing(y: Array) -> Array:
    """Positions of the labels that are none."""
    if y.dtype.kind in "fc":
        return np.flatnonzero(~np.isfinite(y))
    if y.dtype.kind in "mM":
        return np.flatnonzero(np.isnat(y))
    if y.dtype.kind in "US":
        words = MISSING if y.dtype.kind == "U" else [word.encode() for word in MISSING]
        return np.flatnonzero([word.strip().lower() in words for word in y.tolist()])
    return np.empty(0, dtype=np.int64)

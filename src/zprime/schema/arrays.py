"""What a tensor of an artefact may be: dtype, shape, values."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zprime.schema.fields import LARGEST, Sizes
from zprime.schema.refusal import Found, Refused


@dataclass(frozen=True)
class Values:
    """What the numbers of a tensor are.

    Attributes:
        expected: in words.
        holds: whether a tensor that is not empty is like that; NaN is not.
    """

    expected: str
    holds: Callable[[Tensor], bool]


def _within(low: int | float, high: int | float) -> Callable[[Tensor], bool]:
    def holds(t: Tensor) -> bool:
        least, most = t.aminmax()  # one pass; NaN if there is any
        return bool(least >= low) and bool(most <= high)

    return holds


def _factor(t: Tensor) -> bool:
    """Lower triangular, the diagonal above 0."""
    return FINITE.holds(t) and POSITIVE.holds(t.diagonal(dim1=-2, dim2=-1)) and torch.equal(t.tril(), t)


def _sums_to_1(t: Tensor) -> bool:
    # float32 log-weights are rounded by 5e-7 of the weight, all the same way where they are equal
    return abs(float(t.double().sum()) - 1) <= (1e-6 if t.dtype == torch.float64 else 1e-5)


def _log_weights(t: Tensor) -> bool:
    within = _within(-math.inf, 1e-5)(t)
    return within and abs(float(t.double().exp().sum()) - 1) <= (1e-6 if t.dtype == torch.float64 else 1e-5)


FINITE = Values(f"finite numbers, none beyond {LARGEST:g}", _within(-LARGEST, LARGEST))
POSITIVE = Values(f"numbers above 0, from {1 / LARGEST:g} to {LARGEST:g}", _within(1 / LARGEST, LARGEST))
UNITS = Values("finite numbers above 0", lambda t: bool((torch.isfinite(t) & (t > 0)).all()))
ORIGINS = Values("finite numbers", lambda t: bool(torch.isfinite(t).all()))
COUNTS = Values("numbers from 0", _within(0, LARGEST))
LOG_SCALES = Values("log-scales from -60 to 60", _within(-60, 60))
FACTOR = Values("a lower triangular matrix with a diagonal above 0", _factor)
WEIGHTS = Values("numbers >= 0 that sum to 1", lambda t: COUNTS.holds(t) and _sums_to_1(t))
LOG_WEIGHTS = Values("logarithms of weights that sum to 1", _log_weights)
ROW_IDS = Values("row ids, from 0 and each once", lambda t: bool(t.min() >= 0) and len(torch.unique(t)) == len(t))
DATUM_IDS = Values("row ids, from 0", lambda t: bool(t.min() >= 0))
ANY = Values("any numbers", lambda t: True)

Dtype = Literal["shared", "real", "int64", "any"]
"""`shared`: float32 or float64, the same for all that say so; `real`: either of the two."""
REALS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Array:
    """What a tensor may be.

    Attributes:
        shapes: names of sizes with blanks between them -> what the values of such a tensor are. `*` among them stands
            for any size, and alone for any shape.
        dtype: see `Dtype`.
        optional: whether it may be missing.
    """

    shapes: Mapping[str, Values]
    dtype: Dtype = "shared"
    optional: bool = False

    def check(self, name: str, tensor: Tensor, sizes: Sizes, dtypes: dict[str, torch.dtype]) -> None:
        """Raise `Refused` for another tensor; note sizes and dtype that it gives a name to."""
        self._dtype(name, tensor.dtype, dtypes)
        for shape, values in self.shapes.items():
            wanted = shape.split()
            if shape != "*" and len(wanted) != tensor.ndim:
                continue
            for axis, length in zip(wanted, tensor.shape, strict=False):
                if shape != "*" and (length < 1 or (axis != "*" and sizes.setdefault(axis, length) != length)):
                    known = ", ".join(f"{a} = {sizes[a]}" for a in dict.fromkeys(wanted) if a in sizes)
                    raise Refused(name, f"shape [{', '.join(wanted)}] with {known}", list(tensor.shape))
            if tensor.numel() and tensor.is_floating_point() | (self.dtype == "int64") and not values.holds(tensor):
                raise Refused(name, values.expected, Found(_summary(tensor)))
            return
        forms = " or ".join(f"[{', '.join(s.split())}]" for s in self.shapes)
        raise Refused(name, f"shape {forms}", list(tensor.shape))

    def _dtype(self, name: str, found: torch.dtype, dtypes: dict[str, torch.dtype]) -> None:
        if self.dtype == "any":
            return
        if self.dtype == "int64":
            allowed: tuple[torch.dtype, ...] = (torch.int64,)
        elif self.dtype == "shared" and "shared" in dtypes:
            allowed = (dtypes["shared"],)
        else:
            allowed = REALS
        if found not in allowed:
            raise Refused(name, " or ".join(str(t).removeprefix("torch.") for t in allowed), Found(str(found)[6:]))
        dtypes.setdefault(self.dtype, found)


def _summary(tensor: Tensor) -> str:
    flat = tensor.flatten().double()
    odd = (~flat.isfinite()).nonzero()
    if len(odd):
        return f"{float(flat[odd[0]]):g} at position {int(odd[0])}"
    return f"numbers from {float(flat.min()):g} to {float(flat.max()):g}, sum {float(flat.sum()):g}"

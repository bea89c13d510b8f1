"""From the units of the data to those of a model: pixels to [0, 1], other columns standardised.

What float32 cannot hold is scaled in float64 and rounded once, after the column's mean was taken off: a column of UNIX
times, or one of 1e9 +- 1, has few different values in float32, but its standardised form keeps all of them.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from zprime.data.blocks import Chosen, as_tensor, converted, made
from zprime.data.moments import Ranges, moments
from zprime.data.source import Array
from zprime.errors import ArrayError

WIDE = (torch.float64, torch.int32, torch.int64)
"""Types with numbers that float32 cannot hold. Rows of other types are scaled in float32."""
SMALL = 2**16  # whole numbers up to here are scaled in float32, which holds them and, nearly enough, their mean
LOST = 1e-3  # of a column's standard deviation: what float32 may round off a column that is left as it is


def stored(x: Array) -> Tensor:
    """Rows as a tensor in the type that they are stored in; unsigned ones that torch cannot subtract get a wider one.

    Raises:
        ArrayError: whole numbers beyond 2^63.
    """
    if x.dtype == np.uint64 and len(x) and int(x.max(initial=0)) > np.iinfo(np.int64).max:
        raise ArrayError(f"data: expected whole numbers below 2^63, got {int(x.max())}; give them as float64")
    if x.dtype in (np.uint32, np.uint64):
        x = converted(x, np.int64)
    return as_tensor(x) if isinstance(x, np.memmap) else torch.from_numpy(np.array(x))


def scaling(train: Chosen, top: float | None) -> tuple[Float[Tensor, "*datum"], Float[Tensor, "*datum"]]:
    """Shift and scale of each entry of a datum, from the training rows: `stored = scaled * scale + shift`.

    Images go to [0, 1]. Values in [0, 1] stay, unless float32 would round off much of how far a column varies. Other
    columns are standardised; a constant one is only shifted.

    Args:
        train: training rows as they are stored.
        top: value of full intensity, where there is one.

    Returns:
        Float64 for rows of a type of `WIDE` (whole numbers: beyond `SMALL`), and for float32 rows whose squares float32
        cannot hold; else float32. What is made block by block (`Chosen.large`) may differ in the last digit.
    """
    if top is not None:
        return pixels(train, top)
    return _streamed(train) if train.large else _at_once(next(train.blocks()))


def _at_once(train: Shaped[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
    if train.dtype in WIDE and not _small(train):
        return _wide(train.double())
    zero, one = torch.zeros(train.shape[1:]), torch.ones(train.shape[1:])
    values = train.float()
    if in_unit(values):
        return zero, one
    if values.ndim != 4:
        return standard(values)
    low, high = values.min(), values.max()
    return (zero + low, one * (high - low)) if bool(torch.isfinite(high - low)) else _wide(values.double())


def _streamed(train: Chosen) -> tuple[Tensor, Tensor]:
    """The same from rows that are looked at block by block: once for their ranges, and once more to standardise."""
    dtype, ranges = train.x.dtype, Ranges.of(train)
    low, high = ranges.low.min(), ranges.high.max()
    small = not dtype.is_floating_point and bool(low >= -SMALL) and bool(high <= SMALL)
    wide = torch.float64 if dtype in WIDE and not small else torch.float32
    zero, one = torch.zeros(train.shape, dtype=wide), torch.ones(train.shape, dtype=wide)
    unit = bool(low >= 0) and bool(high <= 1)
    if unit and (wide is torch.float32 or len(train.shape) > 1):
        return zero, one
    if len(train.shape) == 3:
        _check_spans(low[None], high[None])
        span = (high - low).to(wide)
        return (zero + low.to(wide), one * span) if bool(span.isfinite()) else (zero + low, one * (high - low))
    _check_spans(ranges.low, ranges.high)
    mean, deviation = moments(train, ranges)
    if unit and not bool((ranges.off > LOST * deviation).any()):
        return zero, one
    narrow = mean.float(), deviation.float()
    held = wide is torch.float32 and bool(narrow[0].isfinite().all() and (narrow[1].isfinite() & (narrow[1] > 0)).all())
    return narrow if held else (mean, deviation)


def pixels(train: Chosen, top: float | None) -> tuple[Float[Tensor, "*datum"], Float[Tensor, "*datum"]]:
    """Shift and scale of rows that stay as they are, but for pixels of 8 bits: these go to [0, 1]."""
    zero, one = torch.zeros(train.shape), torch.ones(train.shape)
    return zero, one * (1.0 if top is None else top)


def standard(values: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "*datum"], Float[Tensor, "*datum"]]:
    """Mean and standard deviation over rows, of constant columns the constant and 1.

    Float32 for float32 rows whose squares float32 can hold, else float64.

    Raises:
        ArrayError: a column whose largest and least entry lie further apart than float64 holds.
    """
    if values.dtype == torch.float32:
        mean, deviation = values.mean(0), values.std(0, correction=0)
        varies = (values != values[:1]).any(0)
        lost = varies & (deviation == 0)  # the square is below the least number of float32
        if bool(torch.isfinite(mean).all() and torch.isfinite(deviation).all()) and not bool(lost.any()):
            # the mean of equal numbers need not be that number
            return torch.where(varies, mean, values[0]), torch.where(varies, deviation, 1.0)
    # differences from the first row, in units of the largest: nothing cancels, and no square over- or underflows
    values = values.double()
    _check_spans(values.amin(0), values.amax(0))
    first = values[0]
    gap = values - first
    unit = gap.abs().amax(0)
    inside = gap / torch.where(unit > 0, unit, 1.0)
    centre = inside.mean(0)
    scale = unit * (inside - centre).square().mean(0).sqrt()
    return first + unit * centre, torch.where(scale > 0, scale, 1.0)


def scaled(
    x: Shaped[Tensor, "n *datum"],
    shift: Float[Tensor, "*datum"],
    scale: Float[Tensor, "*datum"],
    *,
    start: int = 0,
) -> Float[Tensor, "n *datum"]:
    """Rows in the units of a model, float32; computed in the type of `shift` and rounded once.

    Args:
        x: as stored.
        shift: see `scaling`.
        scale: see `scaling`.
        start: number of the first row, for the error.

    Raises:
        ArrayError: rows so far from the training rows that float32 cannot hold them, in units of their deviation.
    """
    inside = ((x.to(shift.dtype) - shift) / scale).float()
    far = (~inside.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if far:
        shown = ", ".join(str(start + row) for row in far[:5]) + (", ..." if len(far) > 5 else "")
        raise ArrayError(
            "data: expected rows near enough to the training rows that float32 holds them in standard deviations of "
            f"the training rows, got {len(far)} of {len(x)} rows that lie farther away (row {shown}); see whether "
            "their units are those of the training rows, and leave out what is wrong"
        )
    return inside


def scaled_rows(
    x: Shaped[Tensor, "n *datum"],
    ids: Int[Tensor, " m"],
    shift: Float[Tensor, "*datum"],
    scale: Float[Tensor, "*datum"],
) -> Float[Tensor, "m *datum"]:
    """Some rows, as `scaled` gives them; block by block where they are large.

    Raises:
        ArrayError: as `scaled`.
        UsageError: no room on disk.
    """
    shape = tuple(x.shape[1:])
    return made(len(ids), shape, lambda b: scaled(x[ids[b]], shift, scale, start=b.start), among=len(x))


def _check_spans(low: Float[Tensor, "*datum"], high: Float[Tensor, "*datum"]) -> None:
    """Refuse float64 columns in which differences of entries overflow, though all entries are finite."""
    wide = (~(high - low).isfinite()).nonzero().tolist()
    if wide:
        which = f"column {wide[0][0]} (counted from 0)" if low.ndim == 1 else f"entry {wide[0]} of the rows"
        raise ArrayError(f"data: {which} spans more than float64 holds (1.8e308); give it in another unit")


def _small(x: Tensor) -> bool:
    return not x.is_floating_point() and int(x.min()) >= -SMALL and int(x.max()) <= SMALL


def in_unit(x: Tensor) -> bool:
    """Whether all entries lie in [0, 1]."""
    return bool(x.min() >= 0) and bool(x.max() <= 1)


def _wide(values: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
    """Shift and scale in float64."""
    zero, one = torch.zeros_like(values[0]), torch.ones_like(values[0])
    shift, scale = standard(values)
    if in_unit(values):
        off = (values.float().double() - values).abs().amax(0)
        if values.ndim != 2 or not bool((off > LOST * scale).any()):
            return zero, one
    if values.ndim == 4:
        low, high = values.min(), values.max()
        if not bool(torch.isfinite(high - low)):
            raise ArrayError("data: the pixels span more than float64 holds (1.8e308); give them in another unit")
        return zero + low, one * (high - low)
    return shift, scale

"""Conditions c that a model is told beside x and z: read beside the rows; and how x and c stand in a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from zprime.arrays import check_finite
from zprime.data.blocks import made
from zprime.data.source import Source
from zprime.data.weights import no_column, numbers
from zprime.errors import ArrayError, UsageError

SHOWN = 64  # conditions that means of p(x|z, c) go through, and that an error names
LABELS = ("label", "y")
"""What stands for the labels of the data among the names of conditions."""
MATRIX = 2  # dimensions


@dataclass(frozen=True)
class Layout:
    """How x and c stand in a row.

    Attributes:
        shape: of x.
        width: columns of c.
        whole: whether c is whole numbers, e.g. of classes, which an embedding wants as such.
        flat: whether c was given as one number a row, not as a matrix.
        support: where rows lie, for torch.
    """

    shape: tuple[int, ...]
    width: int
    whole: bool = False
    flat: bool = False
    support: constraints.Constraint = constraints.real_vector

    def join(self, x: Tensor, c: Tensor) -> Tensor:
        """Rows of data and their conditions."""
        return torch.cat([x.flatten(1), c.reshape(c.shape[0], -1).to(x.dtype)], 1)

    def scaling(self, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale of a row from those of x: conditions are as they stand in the data."""
        zero = torch.zeros(self.width)
        return self.join(shift[None], zero[None])[0], self.join(scale[None], zero[None] + 1)[0]

    def parts(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Data and conditions of rows."""
        return row[:, : -self.width].reshape(-1, *self.shape), row[:, -self.width :]

    def told(self, c: Tensor) -> Tensor:
        """Conditions as the networks were given them in training."""
        c = c[:, 0] if self.flat else c
        return c.long() if self.whole else c

    @property
    def entries(self) -> int:
        """Numbers in a row."""
        return int(torch.Size(self.shape).numel()) + self.width

    def check(self, c: Float[Tensor, "n c"], pool: Float[Tensor, "m c"]) -> None:
        """Raise `UsageError` for conditions that a decoder was never told: classes that no training row has."""
        if not self.whole:
            return
        for column, known in zip(c.T, pool.T, strict=True):
            new = column[~torch.isin(column, known)]
            if len(new):
                there = known.unique().tolist()
                names = ", ".join(f"{k:g}" for k in there[:SHOWN]) + (", ..." if len(there) > SHOWN else "")
                raise UsageError(f"given: expected one of {names}, as training rows have, got {float(new[0]):g}")

    def config(self) -> dict[str, Any]:
        """For a manifest: JSON-able."""
        return {"shape": list(self.shape), "width": self.width, "whole": self.whole, "flat": self.flat}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Layout":
        """What `config` described."""
        return cls(tuple(config["shape"]), int(config["width"]), whole=bool(config["whole"]), flat=bool(config["flat"]))


@dataclass(frozen=True)
class Conditions:
    """The conditions of all rows of a source.

    Attributes:
        c: shape [n] of one number a row, else [n, k]; int64 where all are whole numbers, else float32.
        names: of its columns, in their order: one a number.
        classes: names that the labels 0, 1, ... stand for, where labels are among them and have names.
    """

    c: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """How they stand behind rows of this shape."""
        return Layout(shape, len(self.names), whole=not self.c.is_floating_point(), flat=self.c.ndim == 1)

    def describe(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """For a manifest: JSON-able."""
        return {**self.layout(shape).config(), "names": list(self.names), "classes": list(self.classes)}


def conditions_of(source: Source, labels: Tensor | None, asked: tuple[str, ...]) -> Conditions:
    """Labels and columns of the source as conditions.

    Args:
        source: the rows as stored.
        labels: of all rows, or None.
        asked: `label`, and names of columns, in the order in which the model is told them.

    Raises:
        UsageError: no labels, or no such column.
        ArrayError: what is no finite number, or not one row of numbers for each datum.
    """
    parts, names = [], list[str]()
    for name in asked:
        part = _labels(source, labels) if name in LABELS else _column(source, name)
        width = 1 if part.ndim == 1 else part.shape[1]
        names += [name] if part.ndim == 1 else [f"{name}{j}" for j in range(width)]
        parts.append(part)
    whole = not any(p.is_floating_point() for p in parts)
    c = parts[0] if len(parts) == 1 else torch.cat([p.reshape(len(p), -1) for p in parts], 1)
    classes = source.classes if any(name in LABELS for name in asked) else ()
    return Conditions(c.long() if whole else c.float(), tuple(names), classes)


def told_as(found: Conditions, described: Mapping[str, Any], data: str) -> Tensor:
    """Conditions of further rows, compared with those of a run.

    Args:
        found: of the rows.
        described: what `Conditions.describe` gave.
        data: where the rows lie, for the error.

    Raises:
        ArrayError: they are of another form, or labels are names in another order.
    """
    for what, here, there in (
        ("conditions", list(found.names), list(described["names"])),
        ("labels", list(found.classes), list(described["classes"])),
    ):
        if here != there:
            raise ArrayError(f"{data}: expected {what} {', '.join(there)}, as the run has, got {', '.join(here)}")
    return found.c


def _labels(source: Source, labels: Tensor | None) -> Tensor:
    if labels is None or source.y is None:
        raise UsageError(f"conditions: expected labels in {source.name}, found none; give them, or name other columns")
    if source.y.dtype.kind not in "fiub" or not bool(np.all(source.y == labels.numpy())):
        # others are numbered in the order of those that are there
        raise ArrayError(
            f"conditions: expected whole numbers as labels of {source.name}, got {source.y[0]!s}; number the names as "
            "the model was told them"
        )
    return labels


def _column(source: Source, name: str) -> Tensor:
    values = source.column(name)
    if values is None:
        raise no_column(source, name, "conditions")
    where = f"{source.name}: expected numbers in column {name}"
    if values.dtype.kind not in "fiub":
        values = np.array(list(numbers(values.tolist(), where, source.where)))
    c = torch.from_numpy(values.astype(np.float64 if values.dtype.kind == "f" else np.int64))
    check_finite(f"{source.name}, column {name}", c)
    return c


def joined(x: Tensor, c: Tensor | None, layout: Layout | None) -> Tensor:
    """Rows that hold x and c; x as it is without conditions."""
    if c is None or layout is None:
        return x
    return made(len(x), (layout.entries,), lambda b: layout.join(x[b], c[b]))

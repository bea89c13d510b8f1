"""Rows that belong together: their codes, and a split that keeps them together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zprime.data.source import Array, Source
from zprime.data.spelling import check_spelled_once, is_nothing
from zprime.data.weights import need_one
from zprime.errors import ArrayError, UsageError


def group_codes(values: Array, where: str) -> Int[Tensor, " n"]:
    """Any names of groups as integers 0, 1, ... in the order of the sorted names.

    Raises:
        ArrayError: a name is missing: NaN, an empty text, or a word for nothing such as `NA`; or one whole number is
            spelled in two ways: `01` and `1`.
    """
    row = next((i for i, name in enumerate(values.tolist()) if is_nothing(str(name))), None)
    if row is not None:
        raise ArrayError(f"{where}: expected the name of a group in every row, got none in row {row}; fill it in")
    if values.dtype.kind == "U":
        check_spelled_once(where, "group", values.tolist())
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64))


def groups_of(source: Source, column: str) -> Int[Tensor, " n"]:
    """The group of every row, from a column of the source.

    Raises:
        UsageError: no such column.
        ArrayError: a name is missing.
    """
    values = source.column(column)
    if values is None:
        known = ", ".join(sorted(source.columns)) or "none"
        hint = "a .csv file with named columns, or an .npz file, can have one"
        raise UsageError(f"group: expected a column of {source.name} beside the rows ({known}; {hint}), got {column!r}")
    need_one(source, column, values, "group")
    return group_codes(values, f"{source.name}, column {column}")


def codes_of_splits(given: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Int[Tensor, " n"]]:
    """Groups of the rows of each split as integers that mean the same in all of them.

    Args:
        given: split -> one name a row: numbers or text.
        sizes: split -> rows.

    Raises:
        ArrayError: not one a row, a name is missing, or a group lies in two splits.
    """
    arrays = {}
    for split, values in given.items():
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if split in sizes and array.shape != (sizes[split],):
            raise ArrayError(f"groups: expected {sizes[split]} for {split}, one a row, got shape {list(array.shape)}")
        arrays[split] = array
    whole = np.concatenate(list(arrays.values())) if arrays else np.zeros(0)
    parts = torch.split(group_codes(whole, "groups"), [len(a) for a in arrays.values()])
    codes = dict(zip(arrays, parts, strict=True))
    check_apart({s: c for s, c in codes.items() if s in sizes}, whole[np.unique(whole, return_index=True)[1]])
    return codes


def check_apart(codes: Mapping[str, Int[Tensor, " n"]], names: Sequence[Any] | Array) -> None:
    """Raise `ArrayError` where a group lies in two splits: held-out rows would be known from training."""
    splits = list(codes)
    for i, a in enumerate(splits):
        for b in splits[i + 1 :]:
            both = np.intersect1d(codes[a].numpy(), codes[b].numpy())
            if len(both):
                raise ArrayError(
                    f"groups: expected all rows of a group in one split, got {len(both)} groups in {a} and {b}, the "
                    f"first of them {names[int(both[0])]!s}; split by group, or leave these rows out of one split"
                )


def take_groups(
    groups: Int[Tensor, " n"], target: int, *, leave: int, rng: torch.Generator
) -> tuple[Int[Tensor, " m"], Int[Tensor, " k"]]:
    """Whole groups at random with about `target` rows together, and the rows of all others.

    In random order, a group is taken if it brings the number of rows nearer to the target; at least one is taken.

    Args:
        groups: of each row.
        target: how many rows to take.
        leave: groups that must be left.
        rng: decides the order.

    Returns:
        Positions of the rows that were taken, and of the others.
    """
    names, codes, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.randperm(len(names), generator=rng).tolist()
    taken: list[int] = []
    rows = 0
    for g in order:
        size = int(sizes[g])
        if len(names) - len(taken) > leave and abs(rows + size - target) < abs(rows - target):
            taken.append(g)
            rows += size
    if not taken:
        taken = [min(order, key=lambda g: int(sizes[g]))]
    inside = torch.isin(codes, torch.tensor(taken))
    return inside.nonzero().flatten(), (~inside).nonzero().flatten()

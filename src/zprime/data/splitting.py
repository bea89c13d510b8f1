"""Seeded, disjoint splits of the rows of a data set."""

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.data.groups import check_apart, take_groups
from zprime.data.settings import DataSettings
from zprime.errors import ArrayError, UsageError
from zprime.rng import stream

MOST = 5000
"""Rows of the selection split, where the set has a test part of its own."""


def split_rows(
    n: int, test: int, settings: DataSettings, seed: int, groups: Int[Tensor, " n"] | None = None
) -> dict[str, Int[Tensor, " m"]]:
    """Row ids of each split, each in ascending order; rows of one group are in one split.

    Args:
        n: number of rows.
        test: number of rows at the end that are the set's own test part.
        settings: proportions, and how many training rows to keep.
        seed: decides the splits.
        groups: of each row.

    Raises:
        UsageError: a limit above the number of training rows.
        ArrayError: no rows are left to train on, fewer than one group a split, or a group that the set's own test part
            shares with the others.
    """
    rest = n - test
    rng = stream(seed, "split")
    n_heldout = max(1, round(rest * settings.heldout))
    n_selection = max(1, round(rest * settings.selection))
    n_selection = min(n_selection, MOST) if test else n_selection
    if groups is None:
        order = torch.randperm(rest, generator=rng)
        heldout, order = (torch.arange(rest, n), order) if test else (order[:n_heldout], order[n_heldout:])
        selection, train = order[:n_selection], order[n_selection:]
    else:
        heldout, selection, train = _by_group(groups, test, (n_heldout, n_selection), rng)
        train = train[torch.randperm(len(train), generator=rng)]
    if settings.limit:
        if settings.limit > len(train):
            raise UsageError(f"limit: expected at most {len(train)} training rows, got {settings.limit}")
        train = train[: settings.limit]
    if len(train) == 0:
        raise ArrayError(
            f"data: {rest} rows leave none to train on; give more rows, or a smaller selection or held-out split"
        )
    return {"train": train.sort().values, "selection": selection.sort().values, "heldout": heldout.sort().values}


def _by_group(
    groups: Int[Tensor, " n"], test: int, sizes: tuple[int, int], rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out, selection and training rows; `sizes` are those wanted of the first two."""
    rest = len(groups) - test
    there = len(torch.unique(groups[:rest]))
    least = 2 if test else 3
    if there < least:
        raise ArrayError(f"group: expected at least {least} groups, one for each split, got {there}")
    left = torch.arange(rest)
    if test:
        heldout = torch.arange(rest, len(groups))
        check_apart({"the test part": groups[heldout], "the other rows": groups[left]}, torch.unique(groups).tolist())
    else:
        heldout, others = take_groups(groups[left], sizes[0], leave=2, rng=rng)
        left = left[others]
    selection, others = take_groups(groups[left], sizes[1], leave=1, rng=rng)
    return heldout, left[selection], left[others]

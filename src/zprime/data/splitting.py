"""Seeded, disjoint splits of the rows of a data set."""

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.data.groups import check_apart, take_groups
from zprime.data.settings import DataSettings
from zprime.errors import ArrayError, UsageError
from zprime.rng import stream

MOST = 5000
"""Rows of the selection split, where the set has a test part of its own, or the model was trained elsewhere."""


def split_rows(
    n: int,
    test: int,
    settings: DataSettings,
    seed: int,
    groups: Int[Tensor, " n"] | None = None,
    *,
    brought: bool = False,
) -> dict[str, Int[Tensor, " m"]]:
    """Row ids of each split, each in ascending order; rows of one group are in one split.

    A model that was trained elsewhere has seen all rows but the test part. Its selection split is a half of that, since
    rows that it was trained on would flatter it.

    Args:
        n: number of rows.
        test: number of rows at the end that are the set's own test part.
        settings: proportions, and how many training rows to keep.
        seed: decides the splits.
        groups: of each row.
        brought: whether the model was trained elsewhere.

    Raises:
        UsageError: a limit above the number of training rows, or no test part where the model was trained elsewhere.
        ArrayError: no rows are left to train on, fewer than one group a split, or a group that the set's own test part
            shares with the others.
    """
    rest = n - test
    rng = stream(seed, "split")
    if brought:
        heldout, selection = _unseen(rest, n, groups, rng)
        train = torch.randperm(rest, generator=rng)
        return _sorted(_limited(train, settings.limit), selection, heldout)
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
    train = _limited(train, settings.limit)
    if len(train) == 0:
        raise ArrayError(
            f"data: {rest} rows leave none to train on; give more rows, or a smaller selection or held-out split"
        )
    return _sorted(train, selection, heldout)


def _limited(train: Tensor, limit: int) -> Tensor:
    """The first `limit` rows, all for 0."""
    if limit > len(train):
        raise UsageError(f"limit: expected at most {len(train)} training rows, got {limit}")
    return train[:limit] if limit else train


def _sorted(train: Tensor, selection: Tensor, heldout: Tensor) -> dict[str, Tensor]:
    return {"train": train.sort().values, "selection": selection.sort().values, "heldout": heldout.sort().values}


def _unseen(rest: int, n: int, groups: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Held-out and selection rows of a test part that begins at `rest`."""
    cut = min((n - rest) // 2, MOST)
    if n == rest:
        raise UsageError(
            "heldout-data: expected rows that your model was not trained on, got none: which of the rows of --data it "
            "has seen is not known. Give others by --heldout-data FILE, or all in one .npz file as x_train and x_test"
        )
    if cut < 2:
        raise ArrayError(
            f"data: expected at least 4 rows that your model was not trained on, half of them to choose on, got "
            f"{n - rest}"
        )
    unseen = torch.arange(rest, n)
    if groups is None:
        order = torch.randperm(n - rest, generator=rng)
        return unseen[order[cut:]], unseen[order[:cut]]
    check_apart({"the test part": groups[rest:], "the other rows": groups[:rest]}, torch.unique(groups).tolist())
    if len(torch.unique(groups[rest:])) < 2:
        raise ArrayError("group: expected at least 2 groups of held-out rows, half of them to choose on, got 1")
    chosen, others = take_groups(groups[rest:], cut, leave=1, rng=rng)
    return unseen[others], unseen[chosen]


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

"""Rows or arrays of three splits, whatever they come as."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from zprime.arrays import check_finite
from zprime.bring.places import tensor
from zprime.calls import theirs
from zprime.data import SPLITS, Rows
from zprime.data.duplicates import duplicates_of, found, sentence_of_splits, shared, shared_sentence
from zprime.data.groups import codes_of_splits, take_groups
from zprime.errors import ArrayError, UsageError
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import stream

log = logging.getLogger("zprime")

SUM = 1e-4  # from 1: within it, entries add up to 1
MOST = 5000  # rows that are taken from the held-out ones to choose on


def split(
    data: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    groups: Mapping[str, Any] | None = None,
    *,
    seed: int,
    dtype: torch.dtype | None = None,
) -> dict[str, Rows]:
    """Train, selection and held-out rows as tensors; row ids are numbered from 0 over the arrays that were given.

    Args:
        data: `train` and `heldout`, and `selection` if there is one: without it half of the held-out rows, at most
            5,000, are set aside.
        labels: split -> integers; None for none.
        groups: split -> one name a row, numbers or text; rows of one group are set aside together.
        seed: decides which.
        dtype: what the network computes in; None keeps that of floating-point data.

    Raises:
        UsageError: a split is missing or unknown.
        ArrayError: not finite, empty, labels or groups that do not fit, or a group that lies in two splits.
    """
    need_mapping("data", data)
    need_mapping("labels", {} if labels is None else labels, "labels")
    need_mapping("groups", {} if groups is None else groups, "groups")
    unknown = sorted(set(data) - set(SPLITS))
    if unknown or "train" not in data or "heldout" not in data:
        raise UsageError(
            f"data: expected train and heldout (and selection, if you have one), got {', '.join(data) or 'nothing'}"
        )
    x = {s: _tensor(s, data[s], dtype) for s in SPLITS if s in data}
    y = {s: _labels(s, given, len(x[s])) for s, given in (labels or {}).items() if s in x}
    g = codes_of_splits({s: v for s, v in (groups or {}).items() if s in x}, {s: len(t) for s, t in x.items()})
    if groups and "heldout" not in g:
        raise UsageError(f"groups: expected those of the heldout rows, got {', '.join(groups)}")
    ids = {}
    start = 0
    for s in x:
        ids[s] = torch.arange(start, start + len(x[s]))
        start += len(x[s])
    if "selection" not in x:
        n = len(x["heldout"])
        order = torch.randperm(n, generator=stream(seed, "bring selection"))
        cut = min(n // 2, MOST)
        if cut < 2:
            raise ArrayError(f"data: expected at least 4 held-out rows, half of them to choose on, got {n}")
        parts = {"selection": order[:cut].sort().values, "heldout": order[cut:].sort().values}
        if g:
            if len(torch.unique(g["heldout"])) < 2:
                raise ArrayError(
                    "groups: expected at least 2 groups of held-out rows, half of them to choose on, got 1"
                )
            chosen = take_groups(g["heldout"], cut, leave=1, rng=stream(seed, "bring selection"))
            parts = dict(zip(parts, chosen, strict=True))
        for values in (x, y, ids, g):
            whole = values.pop("heldout", None)
            if whole is not None:
                values.update({s: whole[at] for s, at in parts.items()})
    shapes = {s: tuple(t.shape[1:]) for s, t in x.items()}
    if len(set(shapes.values())) > 1:
        raise ArrayError(f"data: expected rows of one shape in all splits, got {shapes}")
    return {s: Rows(s, x[s], ids[s], y.get(s), groups=g.get(s)) for s in SPLITS}


def seen(rows: Mapping[str, Rows]) -> tuple[str, ...]:
    """Sentences on rows that are in two splits; more than 1 % of a split that equal training rows is a warning too.

    Both splits are in one sentence, since most users give one array, half of which is set aside.
    """
    others = {s: r for s, r in rows.items() if s != "train"}
    equal = duplicates_of([rows["train"].x], {s: r.x for s, r in others.items()})
    told = found(equal, {s: r.ids for s, r in others.items()}, kept=True)
    many = {s: d for s, d in told.items() if d.count > THRESHOLDS.duplicates * d.rows}
    says = []
    if many:
        says.append(
            f"{sentence_of_splits(many)}; so many are refused by fit and audit: were the held-out rows used in "
            "training? If few different rows are possible, keep_duplicates=True keeps them"
        )
        log.warning("%s", says[-1])
    few = {s: d for s, d in told.items() if s not in many}
    if few:
        says.append(f"{sentence_of_splits(few)}; fit and audit leave them out")
    both = shared(rows["selection"].x, rows["heldout"].x, rows["selection"].ids)
    return tuple(says if both is None else [*says, shared_sentence(both)])


def closed(rows: Mapping[str, Rows]) -> tuple[str, ...]:
    """A sentence where all entries of every row are shares that add up to 1; one-hot rows and such are none.

    Entries that are independent given z do not add up to 1, so draws of p(x|z) are no such rows (Aitchison 1982).
    """
    x = rows["train"].x.double().flatten(1)
    split_up = ((x > 0) & (x < 1)).any(1).double()
    if (
        x.shape[1] < 3
        or float(x.min()) < 0
        or not float(split_up.mean()) > 0.5
        or float((x.sum(1) - 1).abs().max()) > SUM
    ):
        return ()
    return (
        f"all {len(x):,} training rows add up to 1, as shares do: {x.shape[1]} entries hold {x.shape[1] - 1} numbers. "
        "Draws of a p(x|z) with independent entries do not add up to 1, nor do its means unless the decoder sees to "
        "it; divide x' by its sum, or train on log-ratios of the entries",
    )


def need_mapping(what: str, given: object, each: str = "rows") -> None:
    """Raise `UsageError` for rows, or what belongs to them (`each`), that are not given by split."""
    if not isinstance(given, Mapping):
        way = (
            "held-out rows are rows that the VAE was not trained on"
            if each == "rows"
            else f"give those of each split, as you give the rows: {what}={{'train': a, 'heldout': b}}"
        )
        raise UsageError(
            f"{what}: expected a mapping of splits to {each}, {{'train': ..., 'heldout': ...}}, got "
            f"{type(given).__name__}; {way}"
        )


def _tensor(name: str, x: Any, dtype: torch.dtype | None) -> Tensor:

    def says(error: BaseException) -> str:
        got = f"{type(x).__name__} ({error})"
        return f"data: expected rows of numbers in {name}, got {got}; load and encode them first"

    with theirs(says):
        data = whole(x)
    if data.ndim < 2 or len(data) < 2:
        raise ArrayError(
            f"data: expected at least 2 rows of at least one entry in {name}, got shape {list(data.shape)}"
        )
    data = data if data.is_floating_point() else data.float()
    check_finite(name, data)
    return data if dtype is None else data.to(dtype)


def _labels(name: str, y: Any, n: int) -> Tensor:
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArrayError(
            f"labels: expected {n} integers for {name}, got {type(y).__name__} ({error}); number the names, the same "
            "in all splits: e.g. [names.index(y) for y in labels]"
        ) from error
    if labels.shape != (n,) or labels.is_floating_point():
        raise ArrayError(f"labels: expected {n} integers for {name}, got {labels.dtype} of shape {list(labels.shape)}")
    return labels.long()


def whole(x: Any) -> Tensor:
    """All rows as one tensor: of arrays, lists, a Dataset or a DataLoader (whose order does not matter)."""
    if isinstance(x, DataLoader):
        return torch.cat([_first(batch) for batch in DataLoader(x.dataset, x.batch_size or 1, collate_fn=x.collate_fn)])
    if isinstance(x, Dataset):
        each = x if isinstance(x, IterableDataset) else (x[i] for i in range(len(x)))  # type: ignore[arg-type]
        return torch.stack([_first(row) for row in each])
    return tensor(x).detach().cpu()


def _first(x: Any) -> Tensor:
    """A row or a batch: the first part, where labels stand beside it."""
    return tensor(x[0] if isinstance(x, tuple | list) else x).detach().cpu()

"""Rows that training has seen: selection and held-out rows that equal a training row, or lie next to one."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.data.blocks import as_matrix
from zprime.errors import ArrayError
from zprime.kernels import ExactIndex
from zprime.results.facts import Duplicates, NearDuplicates
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import stream
from zprime.statistics.order import proportion_below

AT_ONCE = 1 << 18
"""Numbers of rows that are compared at once."""
NAMED = 10
"""Row ids that are told of each split."""
EQUAL, POSTERIOR = "equal a training row", "have the posterior of a training row"
"""What makes a row a duplicate. An encoder that is a function of the row gives equal rows equal posteriors."""
POINTS = 2000
"""Training rows, and held-out rows, whose nearest training row is searched for."""
LEAST = 500
"""Of either at least, where there are as many: of fewer, the 1 % quantile has no lower end that could show anything."""
FEWEST = 100
"""Training rows from which on there is a 1 % quantile to speak of."""


def duplicates_of(train: Iterable[Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which rows of other splits equal a training row in every entry.

    Of every row a number of 64 bits is computed; only rows that share theirs with one of the other side are compared.
    So 8 bytes for each of `others` are in memory, whatever the rows are.

    Args:
        train: training rows, shape [n, *datum], in one part or more.
        others: split -> rows, shape [m, *datum], of the same type.

    Returns:
        Split -> bool, shape [m], for the splits that have such rows.
    """
    keys = {split: _keys(x) for split, x in others.items() if len(x)}
    wanted = torch.unique(torch.cat([torch.empty(0, dtype=torch.int64), *keys.values()]))
    seen, shared_keys = set[bytes](), torch.zeros(len(wanted), dtype=torch.bool)
    for part in train:
        at = _positions(_keys(part), wanted)
        hits = (at >= 0).nonzero().flatten()
        seen.update(_digests(part, hits))
        shared_keys[at[hits]] = True
    equal = {}
    for split, key in keys.items():
        which = shared_keys[torch.searchsorted(wanted, key)]
        hits = which.nonzero().flatten()
        which[hits] = torch.tensor([row in seen for row in _digests(others[split], hits)], dtype=torch.bool)
        equal[split] = which
    return {split: which for split, which in equal.items() if bool(which.any())}


def found(equal: Mapping[str, Tensor], ids: Mapping[str, Tensor], *, kept: bool) -> dict[str, Duplicates]:
    """What is told of the duplicates of every split: how many of how many rows, and the ids of the first of them."""
    return {s: Duplicates(int(w.sum()), len(w), ids[s][w][:NAMED].tolist(), kept) for s, w in equal.items()}


def shared(selection: Tensor, heldout: Tensor, ids: Tensor) -> Duplicates | None:
    """Selection rows that equal a held-out row; None without any.

    Args:
        selection: shape [n, *datum].
        heldout: shape [m, *datum].
        ids: row ids of the selection rows.
    """
    return found(duplicates_of([heldout], {"selection": selection}), {"selection": ids}, kept=True).get("selection")


def shared_sentence(d: Duplicates) -> str:
    """What a reader must know of selection rows that equal held-out rows."""
    return (
        f"{d.count} of {d.rows} selection rows equal a held-out row exactly; what is chosen on the selection split is "
        "then measured on rows that it was chosen on"
    )


def check_duplicates(splits: Mapping[str, Duplicates], same: str = EQUAL) -> None:
    """Raise `ArrayError` where more than 1 % of a split are duplicates that are not to be kept.

    Args:
        splits: split -> what was found.
        same: what makes them duplicates, `EQUAL` or `POSTERIOR`.
    """
    for split, d in splits.items():
        if d.count > THRESHOLDS.duplicates * d.rows and not d.kept:
            fine = "Where few different rows are possible (tables of a few categories, 0/1 pixels)"
            if same == POSTERIOR:
                fine += ", or the encoder answers different rows alike"
            raise ArrayError(
                f"data: {d.count} of {d.rows} {_words(split)} rows {same} ({d.named()}); more than "
                f"{THRESHOLDS.duplicates:.0%} are refused".replace("%", " %")
                + ", since figures on rows that "
                "training has seen flatter whatever remembers them. Remove the duplicates from the data, or give other "
                f"rows. {fine}, this is no mistake: then keep them by --keep-duplicates (in Python: "
                "keep_duplicates=True)"
            )


def sentence(split: str, d: Duplicates, same: str = EQUAL) -> str:
    """What a reader must know of the duplicates of a split."""
    what = f"{d.count} of {d.rows} {_words(split)} rows {same} exactly"
    return f"{what}; gains on them flatter whatever memorises" if d.kept else f"{what}; they were left out"


def sentence_of_splits(splits: Mapping[str, Duplicates]) -> str:
    """What a reader must know of the duplicates of all splits that were brought, and which rows they are."""
    what = " and ".join(f"{d.count} of {d.rows} {_words(split)} rows" for split, d in splits.items())
    ids = sorted(i for d in splits.values() for i in d.ids)[:NAMED]
    named = Duplicates(sum(d.count for d in splits.values()), sum(d.rows for d in splits.values()), ids).named()
    return (
        f"{what} equal a training row exactly ({named}, counted from 0 over all rows that were given, train first, "
        "heldout last); gains on them flatter whatever memorises"
    )


def near_duplicates(
    train: Float[Tensor, "n *datum"],
    x: Float[Tensor, "m *datum"],
    *,
    split: str = "heldout",
    seed: int = 0,
    most: int = POINTS,
    index: ExactIndex | None = None,
) -> NearDuplicates | None:
    """Proportion of rows that are nearer to a training row than nearly all training rows are to one another.

    The reference is the 1 % quantile of the distance of a training row to its nearest other training row. Rows of the
    same distribution are nearer in about 1 % of cases. None for fewer than 100 training rows.

    Args:
        train: training rows.
        x: rows that training has not seen; independent ones.
        split: their split.
        seed: of the choice of rows.
        most: rows of either that are looked at; 500 if it is less, 2,000 if it is more.
        index: of the training rows as a matrix, where there is one.
    """
    if len(train) < FEWEST or not len(x):
        return None
    points, queries = as_matrix(train), as_matrix(x)
    most = min(max(most, LEAST), POINTS)
    some = torch.randperm(len(points), generator=stream(seed, "near duplicates", "train"))[:most].sort().values
    few = torch.randperm(len(queries), generator=stream(seed, "near duplicates", split))[:most].sort().values
    index = ExactIndex(points) if index is None else index
    among = index.nearest(points[some], 1, exclude=some)[0][:, 0]
    among = among[among > 0]  # training rows that are there twice say nothing of how far apart rows are
    if len(among) < FEWEST:
        return None
    to = index.nearest(queries[few], 1)[0][:, 0]
    level = THRESHOLDS.isolation
    share = proportion_below(among, to, level, unit="proportion of rows", split=split, seed=seed)
    return NearDuplicates(share, float(among.sort().values[math.ceil(level * len(among)) - 1]))


def _words(split: str) -> str:
    return {"heldout": "held-out"}.get(split, split)


def _positions(key: Int[Tensor, " n"], wanted: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
    """Where each number stands among sorted ones; -1 where it does not."""
    if not len(wanted):
        return torch.full_like(key, -1)
    at = torch.searchsorted(wanted, key).clamp(max=len(wanted) - 1)
    return torch.where(wanted[at] == key, at, -1)


def _keys(x: Tensor) -> Int[Tensor, " n"]:
    """A number of 64 bits for each row, the same for equal rows, and hardly ever for others.

    It is the sum of the row's words, each times an odd number of its own.
    """
    keys = torch.empty(len(x), dtype=torch.int64)
    for block in blocks(len(x), max(1, AT_ONCE // max(1, x[:1].numel()))):
        rows = _plain(x[block])
        words = rows.view({1: torch.uint8, 2: torch.int16}.get(rows.element_size(), torch.int32))
        odd = torch.randint(-(1 << 62), 1 << 62, (words.shape[1],), generator=stream(0, "keys of rows")) * 2 + 1
        keys[block] = words.long().mul_(odd).sum(1)
    return keys


def _plain(x: Tensor) -> Tensor:
    """Rows as a matrix in which -0 is 0."""
    return (x.detach().cpu().reshape(len(x), -1) + 0).contiguous()


def _digests(x: Tensor, at: Int[Tensor, " m"]) -> Iterator[bytes]:
    """A hash of the bytes of each of these rows; -0 is 0."""
    for block in blocks(len(at), max(1, AT_ONCE // max(1, x[:1].numel()))):
        rows = _plain(x[at[block].to(x.device)])
        width = rows.shape[1] * rows.element_size()
        if not rows.numel():
            return
        data = rows.numpy().data.cast("B")
        for start in range(0, len(data), width):
            yield _digest(data[start : start + width])


def _digest(row: memoryview) -> bytes:
    return hashlib.blake2b(row, digest_size=16).digest()

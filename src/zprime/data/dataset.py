"""A data set in memory: rows as one tensor, scaled, in three disjoint splits recorded by row ids."""

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import check_finite
from zprime.data.blocks import Chosen, blocks, is_large, made, taken
from zprime.data.conditions import Layout, conditions_of, joined, told_as
from zprime.data.duplicates import check_duplicates, duplicates_of, found, sentence
from zprime.data.groups import groups_of
from zprime.data.heldout import source_of
from zprime.data.labels import labels_of
from zprime.data.readers import read_source, sets_aside
from zprime.data.scaling import in_unit, pixels, scaled_rows, scaling, stored
from zprime.data.seen import seen
from zprime.data.settings import DataSettings
from zprime.data.source import Source, in_one_line
from zprime.data.splitting import split_rows
from zprime.data.stores import last_name
from zprime.data.weights import NO_COMMA, no_column, weights_of
from zprime.errors import ArrayError, UsageError
from zprime.results.facts import DataInfo, Duplicates
from zprime.rng import stream
from zprime.schema.kinds import SPLITS
from zprime.serialise import recorded

log = logging.getLogger("zprime")


@dataclass(frozen=True)
class Rows:
    """One split, ready for a model.

    Attributes:
        name: which split.
        x: shape [n, *datum], float32, scaled (and binarised, if the settings say so).
        ids: shape [n], row numbers in the source.
        labels: shape [n], or None.
        grey: shape [n, *datum], the probabilities that `x` was drawn with, where training is to draw afresh.
        groups: shape [n], integers that mean the same in all splits: rows of one group are dependent; or None.
    """

    name: str
    x: Float[Tensor, "n *datum"]
    ids: Int[Tensor, " n"]
    labels: Int[Tensor, " n"] | None = None
    grey: Float[Tensor, "n *datum"] | None = None
    groups: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def compared(self) -> Float[Tensor, "n *datum"]:
        """What rows are told apart by, before binarising: of few pixels, drawn rows are equal by chance."""
        return self.x if self.grey is None else self.grey

    def head(self, n: int) -> "Rows":
        """The first `n` rows."""
        return self.take(torch.arange(min(n, len(self))))

    def take(self, at: Int[Tensor, " m"]) -> "Rows":
        """Some rows, by position."""
        return Rows(
            self.name,
            taken(self.x, at),
            self.ids[at],
            None if self.labels is None else self.labels[at],
            None if self.grey is None else taken(self.grey, at),
            None if self.groups is None else self.groups[at],
        )


class Dataset:
    """Rows, splits and scaling of one source.

    Attributes:
        name: what it is called in tables.
        shape: shape of a row: of a datum, images are (channels, height, width); or how many numbers x and c are.
        conditions: c of each row, where the settings name any: rows are then x, flat, with c behind it.
        layout: how x and c stand in a row; None without conditions.
        ids: split -> row ids.
        source: what stands beside the rows: columns, names, lines.
        names: of a table's columns, where they have names.
        raw: the rows in the type that they are stored in.
        shift, scale: `stored = scaled * scale + shift`, per datum entry; from the training split where not known.
            Float64 where float32 would not do (`zprime.data.scaling`).
        hash: SHA-256 of the stored rows and labels, in the type that they are stored in.
        groups: shape [n], integers, the group of each row; None where rows are independent.
        duplicates: split -> selection and held-out rows that equal a training row exactly, where there are any. They
            are not in `ids`, unless the settings keep them.
        brought: whether they are rows of a model that was trained elsewhere: they are not scaled but for pixels of 8
            bits, which go to [0, 1], and the selection split is taken from the rows that it has not seen.
    """

    def __init__(self, source: Source, settings: DataSettings, *, seed: int = 0, brought: bool = False) -> None:
        self.settings, self.seed, self.brought = settings, seed, brought
        self.source = replace(source, x=np.empty(0))  # the rows themselves are in `raw`, once
        self.name = source.name
        self.raw = stored(source.x)
        self.labels = None if source.y is None else labels_of(source.y, source)
        self.names = source.names
        missing = [column for column in settings.weighing if source.column(column) is None]
        if missing:
            raise no_column(source, missing[0], "aside")
        n = len(self.raw)
        if n < 3:
            raise ArrayError(f"data: expected at least 3 rows, one for each split, got {n}")
        shape = tuple(self.raw.shape[1:])
        if 0 in shape:
            raise ArrayError(f"data: expected at least one number in a row, got rows of shape {list(shape)}")
        check_finite("data", self.raw)
        self.conditions = conditions_of(source, self.labels, settings.told) if settings.told else None
        self.layout = None if self.conditions is None else self.conditions.layout(shape)
        self.shape = shape if self.layout is None else (self.layout.entries,)
        self.groups = groups_of(source, settings.group) if settings.group else None
        self.ids = split_rows(n, source.test, settings, seed, self.groups, brought=brought)
        train, self._large = Chosen(self.raw, self.ids["train"]), dict[str, Tensor]()
        if train.all_same():
            raise ArrayError(
                f"data: all {len(train)} training rows are the same; nothing can be learned from constant data"
            )
        top = None if settings.as_stored else source.top
        self._of_x = (pixels if brought or settings.as_stored else scaling)(train, top)
        self.shift, self.scale = self._of_x if self.layout is None else self.layout.scaling(*self._of_x)
        if settings.binarise and not all(in_unit(self._scaled(s)) for s in SPLITS):
            raise UsageError("binarise: expected grey values between black and white; these data are no images")
        told = None if self.conditions is None else self.conditions.c
        self.hash = _hash(self.raw, self.labels, told)
        self.duplicates = self._leave_out_duplicates()

    def rows(self, split: str) -> Rows:
        """One split as float32 rows, scaled; binarised once and for all where the settings say so.

        Raises:
            UsageError: no such split.
        """
        if split not in SPLITS:
            raise UsageError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        ids, x = self.ids[split], self._scaled(split)
        labels, groups = (None if t is None else t[ids] for t in (self.labels, self.groups))
        if not self.settings.binarise:
            return Rows(split, self._joined(x, ids), ids, labels, groups=groups)
        drawn = _drawn(x, stream(self.seed, "binarise", split))
        return Rows(split, self._joined(drawn, ids), ids, labels, grey=self._joined(x, ids), groups=groups)

    def weights(self, column: str, split: str) -> Float[Tensor, " n"]:
        """A column of the source as weights of the rows of one split, as they stand there, float64.

        Raises:
            UsageError: no such column.
            ArrayError: it holds something else than numbers >= 0, or nothing above 0.
        """
        return weights_of(self.source, column, self.ids[split], split)

    @property
    def bytes(self) -> int:
        """What the training rows take as they are stored: the other way to keep the aggregated posterior."""
        return len(self.ids["train"]) * math.prod(self.raw.shape[1:]) * self.raw.element_size()

    @property
    def log_scale(self) -> float:
        """Sum of log scale over the entries of a datum: what a log-density loses in the units of the data as stored."""
        return float(self.scale.double().log().sum())

    def describe(self) -> dict[str, Any]:
        """For a manifest: JSON-able."""
        settings = {**recorded(self.settings), "data": last_name(self.settings.data)}  # wherever they lie
        aside, conditions = settings.pop("heldout_data"), settings.pop("conditions")
        settings |= {"heldout_data": last_name(aside)} if aside else {}
        settings |= {"conditions": conditions} if conditions else {}
        told = None if self.conditions is None else self.conditions.describe(tuple(self.raw.shape[1:]))
        return {
            "settings": settings,
            "seed": self.seed,
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.raw.dtype).removeprefix("torch."),
            "sizes": {s: len(i) for s, i in self.ids.items()},
            "content": self.hash,
            "duplicates": {s: asdict(d) for s, d in self.duplicates.items()},
            "bytes": self.bytes,
            **({"columns": list(self.names)} if self.names else {}),
            **({"brought": True} if self.brought else {}),
            **({} if told is None else {"conditions": told}),
        }

    def info(self) -> DataInfo:
        """For an audit: what its page tells of the data."""
        return DataInfo(
            name=self.name,
            shape=list(self.shape),
            sizes={s: len(i) for s, i in self.ids.items()},
            content=self.hash,
            duplicates=self.duplicates,
            bytes=self.bytes,
            columns=[*self.names, *(self.conditions.names if self.names and self.conditions else ())],
            log_scale=self.log_scale,
            used=seen(self.hash, self.ids, self.settings, self.seed),
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a manifest: row ids of the splits, and the scaling."""
        return {**{f"ids.{s}": i for s, i in self.ids.items()}, "shift": self.shift, "scale": self.scale}

    def _scaled(self, split: str) -> Tensor:
        """Rows of x in the units of a model; those that are large are made once."""
        if split in self._large:
            return self._large[split]
        x = scaled_rows(self.raw, self.ids[split], *self._of_x)
        if is_large(len(self.raw), x.shape[1:]):
            self._large[split] = x
        return x

    def _joined(self, x: Tensor, ids: Int[Tensor, " n"]) -> Tensor:
        """Rows with their conditions behind them, where there are any."""
        return joined(x, None if self.conditions is None else self.conditions.c[ids], self.layout)

    def _leave_out_duplicates(self) -> dict[str, Duplicates]:
        """Take rows that training has seen out of the other splits, unless the settings keep them."""
        kept = self.settings.keep_duplicates
        # a model that was trained elsewhere has seen all rows but the test part, also those beyond `limit`
        seen = torch.arange(len(self.raw) - self.source.test) if self.brought else self.ids["train"]
        if self.raw.dtype == torch.uint8 and self.conditions is None and not is_large(len(self.raw), self.shape):
            train, others = self.raw[seen], {split: self.raw[self.ids[split]] for split in SPLITS[1:]}
        else:  # wider numbers may differ as stored, and be equal in float32
            x = scaled_rows(self.raw, seen, *self._of_x) if self.brought else self._scaled("train")
            train = self._joined(x, seen)
            others = {split: self._joined(self._scaled(split), self.ids[split]) for split in SPLITS[1:]}
        equal = duplicates_of([train], others)
        check_duplicates(told := found(equal, self.ids, kept=kept))
        if not kept:
            self.ids |= {split: self.ids[split][~equal[split]] for split in told}
            self._large = {split: x for split, x in self._large.items() if split not in told}
        for split, d in told.items():
            log.warning("%s (%s)", sentence(split, d), d.named())
        return told


def load(settings: DataSettings, *, seed: int = 0, brought: bool = False) -> Dataset:
    """Read a data set and split it; the seed, or `split_seed`, decides the splits and the binarised rows.

    Args:
        settings: what to read and how to split it.
        seed: of the splits.
        brought: whether the rows are those of a model that was trained elsewhere (see `Dataset`).

    Raises:
        UsageError: nothing to read there, or settings that cannot be used.
        ArrayError: rows that cannot be used: not finite, constant, too few, of different sizes.
    """
    settings.check()
    if settings.conditions and not brought:
        raise UsageError(
            "conditions: a VAE that zprime trains is told none; they go with a model of your own, --model FILE:FUNCTION"
        )
    return Dataset(source_of(settings), settings, seed=settings.seed_of_splits(seed), brought=brought)


def weighed_by(settings: DataSettings, column: str, *, seed: int = 0, brought: bool = False) -> DataSettings:
    """The same data with a column of weights that is no part of the rows.

    The column is read, so that weights that cannot be used are found before anything is trained. All else about the
    data is checked, and warned of, when they are loaded.

    Raises:
        UsageError: no such column, or one that cannot be set aside.
        ArrayError: it holds something else than numbers >= 0, or nothing above 0 in one of the splits.
    """
    settings.check()
    if sets_aside(settings.data) and in_one_line(column) not in map(in_one_line, settings.columns):
        if "," in column:
            raise UsageError(f"weights: expected a name without a comma, got {column!r}; {NO_COMMA}; rename the column")
        settings = replace(settings, aside=",".join(filter(None, (settings.aside, column))))
    source = source_of(settings)
    groups = groups_of(source, settings.group) if settings.group else None
    ids = split_rows(len(source.x), source.test, settings, settings.seed_of_splits(seed), groups, brought=brought)
    for split in SPLITS:
        weights_of(source, column, ids[split], split)
    return settings


def new_rows(
    data: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor], *, weights: str = "", seed: int = 0
) -> tuple[Rows, Float[Tensor, " n"] | None]:
    """Rows of another source, scaled (and binarised) as a data set that was described before; all of them.

    They are grouped where that data set was: how far they vary together must be known of both.

    Args:
        data: what to read.
        described: what `Dataset.describe` gave.
        tensors: what `Dataset.tensors` gave.
        weights: column to weigh them by; empty for equal weights.
        seed: decides binarised rows.

    Returns:
        The rows, and their weights, None where these are equal.

    Raises:
        UsageError: nothing to read there, or no column of the groups or of the weights.
        ArrayError: rows of another shape, or that are not finite; groups or weights that cannot be used.
    """
    settings = DataSettings(**described["settings"])
    source = read_source(data, {*settings.columns, *filter(None, [weights])})
    x, layout, shift, scale = stored(source.x), None, tensors["shift"], tensors["scale"]
    if settings.told:
        layout = Layout.of(described["conditions"])
        shift, scale = (layout.parts(t[None])[0][0] for t in (shift, scale))
    shape = list(described["shape"] if layout is None else layout.shape)
    if list(x.shape[1:]) != shape:
        raise ArrayError(f"{data}: expected rows of shape {shape}, as the run has, got {list(x.shape[1:])}")
    check_finite(data, x)
    ids = torch.arange(len(x))
    x = scaled_rows(x, ids, shift, scale)
    if settings.binarise:
        x = _drawn(x, stream(seed, "binarise", "new"))
    groups = groups_of(source, settings.group) if settings.group else None
    labels = None if source.y is None else labels_of(source.y, source)
    if layout is not None:
        x = joined(x, told_as(conditions_of(source, labels, settings.told), described["conditions"], data), layout)
    rows = Rows("new rows", x, ids, labels, groups=groups)
    return rows, weights_of(source, weights, ids, rows.name) if weights else None


def _drawn(x: Tensor, rng: torch.Generator) -> Tensor:
    """0/1 pixels with the grey values as probabilities."""
    if not is_large(len(x), x.shape[1:]):
        return torch.bernoulli(x.clamp(0, 1), generator=rng)
    return made(len(x), tuple(x.shape[1:]), lambda b: torch.bernoulli(x[b].clamp(0, 1), generator=rng))


def _hash(x: Tensor, *others: Tensor | None) -> str:
    digest = hashlib.sha256(f"{x.dtype} {list(x.shape)}".encode())
    for block in blocks(len(x), x.shape[1:]):
        digest.update(np.ascontiguousarray(x[block].numpy()).data)
    for beside in others:
        if beside is not None:
            digest.update(np.ascontiguousarray(beside.numpy()).data)
    return digest.hexdigest()

"""Rows whose held-out part lies in a file of its own."""

import logging

import numpy as np

from zprime.data.blocks import blocks, collected
from zprime.data.readers import read_source
from zprime.data.settings import DataSettings
from zprime.data.source import Array, Source
from zprime.errors import ArrayError, UsageError

log = logging.getLogger("zprime")


def source_of(settings: DataSettings) -> Source:
    """What the settings name: the rows, with those of `heldout_data` behind them as their test part.

    Raises:
        UsageError: nothing to read there, or the rows have a test part already.
        ArrayError: rows that cannot be used, or that are not of the same form in both.
    """
    source = read_source(settings.data, settings.columns)
    if not settings.heldout_data:
        return source
    other = read_source(settings.heldout_data, settings.columns)
    if source.test:
        raise UsageError(
            f"heldout-data: {settings.data} has a test part of its own ({source.test} rows), which is the held-out "
            "split; leave --heldout-data out"
        )
    if other.test:
        raise UsageError(
            f"heldout-data: expected held-out rows alone, got {settings.heldout_data}, which has rows and a test part; "
            "give a file with one of them"
        )
    _check_alike(source, other, settings)
    return Source(
        source.name,
        _one_after_the_other(source.x, other.x),
        None if source.y is None or other.y is None else np.concatenate([source.y, other.y]),
        len(other.x),
        source.top,
        {name: np.concatenate([c, other.columns[name]]) for name, c in _both(source, other).items()},
        source.names,
        classes=source.classes,
    )


def _one_after_the_other(a: Array, b: Array) -> Array:
    n, shape = len(a) + len(b), a.shape[1:]
    parts = (x[c] for x in (a, b) for c in blocks(len(x), shape))
    return collected(parts, (n, *shape), np.result_type(a, b))


def _both(source: Source, other: Source) -> dict[str, Array]:
    """Columns of the first that the other has in the same form."""
    found = ((name, c, other.columns.get(name)) for name, c in source.columns.items())
    return {name: c for name, c, theirs in found if theirs is not None and theirs.shape[1:] == c.shape[1:]}


def _check_alike(source: Source, other: Source, settings: DataSettings) -> None:
    """Raise `ArrayError` where rows are of another form than the held-out ones."""
    for what, a, b in (
        ("rows of shape", list(source.x.shape[1:]), list(other.x.shape[1:])),
        ("columns", list(source.names), list(other.names)),
        ("full intensity", source.top, other.top),
        *([("labels", list(source.classes), list(other.classes))] if source.classes and other.classes else []),
    ):
        if a != b:
            raise ArrayError(
                f"{settings.heldout_data}: expected {what} {_word(a)}, as {settings.data} has, got {_word(b)}; give "
                "both in the same form and units"
            )
    for name in settings.columns:
        here, there = source.column(name), other.column(name)
        if here is not None and (there is None or there.shape[1:] != here.shape[1:]):
            got = "none" if there is None else f"one of shape {list(there.shape)}"
            raise ArrayError(
                f"{settings.heldout_data}: expected a column {name}, as {settings.data} has, got {got}; give it in both"
            )
    if (source.y is None) != (other.y is None):
        has, has_none = settings.data, settings.heldout_data
        if source.y is None:
            has, has_none = has_none, has
        log.warning(
            "labels: %s has them and %s has none, so they are left out: kinds and pictures by label need them in both",
            has,
            has_none,
        )


def _word(value: object) -> str:
    return "none" if value is None or value == [] else str(value)

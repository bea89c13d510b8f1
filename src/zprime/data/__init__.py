"""Rows of a data set and their three splits, from arrays, tables, image folders, IDX files or a built-in set."""

from zprime.data.dataset import Dataset, Rows, load, new_rows, weighed_by
from zprime.data.readers import READERS, read_source
from zprime.data.settings import DataSettings
from zprime.data.source import Reader, Source
from zprime.schema.kinds import SPLITS

__all__ = [
    "READERS",
    "SPLITS",
    "DataSettings",
    "Dataset",
    "Reader",
    "Rows",
    "Source",
    "load",
    "new_rows",
    "read_source",
    "weighed_by",
]

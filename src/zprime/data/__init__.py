"""Rows of a data set and their three splits, from arrays, image folders, IDX files or a built-in set."""

from zprime.data.dataset import SPLITS, Dataset, DataSettings, Rows, load, new_rows
from zprime.data.sources import Source, read_source

__all__ = ["SPLITS", "DataSettings", "Dataset", "Rows", "Source", "load", "new_rows", "read_source"]

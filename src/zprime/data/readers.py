"""The formats that data are read from: one line each."""

from collections.abc import Collection
from pathlib import Path

from zprime.data.csv_file import CSV
from zprime.data.digits import DIGITS
from zprime.data.idx import IDX
from zprime.data.images import IMAGES
from zprime.data.numpy_files import NPY, NPY_FOLDER, NPZ
from zprime.data.parquet_files import PARQUET, PARQUET_FOLDER, read_parquet_at
from zprime.data.source import Reader, Source
from zprime.data.stores import is_address
from zprime.data.tar_files import TAR, TAR_FOLDER
from zprime.data.zarr_files import ZARR
from zprime.errors import UsageError

READERS: tuple[Reader, ...] = (
    DIGITS,
    NPY,
    NPZ,
    CSV,
    PARQUET,
    TAR,
    ZARR,
    IDX,
    PARQUET_FOLDER,
    NPY_FOLDER,
    TAR_FOLDER,
    IMAGES,  # any other folder
)
"""The first one that recognises a path reads it."""


def formats(*, details: bool = False) -> str:
    """The formats in words, for help and errors; with what each holds if `details`."""
    parts = [f"{r.what} ({r.help})" if details else r.what for r in READERS]
    return f"{', '.join(parts[:-1])} or {parts[-1]}"


def read_source(data: str, columns: Collection[str] = ()) -> Source:
    """Read the name of a built-in set, a file or a folder, in one of `READERS`; or Parquet in an object store.

    Args:
        data: what to read.
        columns: names of those that are no part of the rows, where there are any of these names.

    Raises:
        UsageError: nothing there, or nothing that is understood.
        ArrayError: arrays of the wrong shape or type, cells that are no numbers, images of different sizes, truncated
            files.
    """
    if is_address(data):
        return read_parquet_at(data, columns)
    path = Path(data).expanduser()
    for reader in READERS:
        if reader.recognises(path):
            return reader.set_aside(path, columns) if columns and reader.set_aside else reader.read(path)
    if not path.exists():
        raise UsageError(f"data: expected {formats()}, got {data!r}, which does not exist")
    if not (path.is_file() or path.is_dir()):
        raise UsageError(
            f"data: expected a file or a folder, got {data!r}, which is not a regular file but a pipe or a device; "
            "write what it gives to a file, and give that file"
        )
    hint = "; save it with commas between the columns, as .csv" if path.suffix.lower() in (".tsv", ".txt") else ""
    raise UsageError(f"data: expected {formats()}, got {path.name}{hint}")


def sets_aside(data: str) -> bool:
    """Whether columns of this source are rows unless they are named: a table, and not arrays with names."""
    if is_address(data):
        return True
    path = Path(data).expanduser()
    reader = next((r for r in READERS if r.recognises(path)), None)
    return reader is not None and reader.set_aside is not None

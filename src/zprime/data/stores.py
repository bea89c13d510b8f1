"""Files in object stores, by the file systems of pyarrow: `s3://bucket/folder`. Credentials are those that it finds."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from zprime.errors import UsageError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
SECRET = re.compile(r"//[^/?#]*:[^/?#]*@")
WHERE = "see whether the address, the region and the credentials (for s3:// those of AWS) are right"


@final
@dataclass(frozen=True)
class Place:
    """A file on disk or in a store.

    Attributes:
        path: as the file system takes it.
        shown: what it is called in errors.
        filesystem: of pyarrow; None on disk.
    """

    path: str
    shown: str
    filesystem: Any = None

    @classmethod
    def local(cls, file: Path) -> "Place":
        """A file on disk."""
        return cls(str(file), str(file))

    @property
    def name(self) -> str:
        """Without its folder."""
        return PurePosixPath(self.path).name

    def __str__(self) -> str:
        """What it is called."""
        return self.shown

    def opened(self, parquet: Any, **options: Any) -> Any:
        """The file, for pyarrow's reader."""
        return parquet.ParquetFile(self.path, filesystem=self.filesystem, **options)


def is_address(data: str) -> bool:
    """Whether data lie at an address, such as `s3://bucket/folder`, and not at a path."""
    return ADDRESS.match(data) is not None


def is_missing(data: str) -> bool:
    """Whether data are said to lie at a path, and do not; what lies in a store is asked for when it is read."""
    return data not in ("", "digits") and not is_address(data) and not Path(data).exists()


def last_name(data: str) -> str:
    """The last name of an address without its options, or of a path."""
    return Path(data.split("?")[0]).name if is_address(data) else Path(data).name


def places_at(fs: Any, address: str, suffix: str) -> list[Place]:
    """The file at an address, or the files of a folder there in the order of their names, without hidden ones.

    Args:
        fs: the module `pyarrow.fs`.
        address: as pyarrow takes it, e.g. `s3://bucket/folder?region=eu-west-1`.
        suffix: of the files.

    Raises:
        UsageError: nothing of this sort is there, or there is no way to it.
    """
    if SECRET.search(address):
        raise UsageError(
            "data: expected an address without a password, which a run would write down; give it as the store's "
            "own tools take it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    scheme = address.split("://")[0]
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
        there = filesystem.get_file_info(path)
        inside = filesystem.get_file_info(fs.FileSelector(path)) if there.type == fs.FileType.Directory else [there]
    except (ValueError, OSError, NotImplementedError) as error:  # pyarrow's own errors are of these
        raise UsageError(f"data: {address} cannot be reached ({_short(error)}); {WHERE}") from error
    if there.type == fs.FileType.NotFound:
        raise UsageError(f"data: {address} does not exist; {WHERE}")
    files = [info for info in inside if info.type == fs.FileType.File and info.path.lower().endswith(suffix)]
    found = [Place(info.path, f"{scheme}://{info.path}", filesystem) for info in files]
    found = sorted((p for p in found if not p.name.startswith(".")), key=lambda place: place.path)
    if not found:
        raise UsageError(
            f"data: expected a {suffix} file or a folder of them at {address}, got none; other formats are read from "
            "disk: copy them there first"
        )
    return found


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] + (" ..." if len(text) > 200 else "")

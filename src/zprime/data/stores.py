"""Files in object stores, by the file systems of pyarrow: `s3://bucket/folder`. Credentials are those that it finds."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from zprime.errors import UsageError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
PASSWORD = re.compile(r"//.*(:|%3a).*@", re.IGNORECASE | re.DOTALL)
"""A name and a password before the place. A password may hold any sign, so it ends at the last @."""
OPTIONS = (
    "region",
    "scheme",
    "endpoint_override",
    "tls_ca_file_path",
    "tls_verify_certificates",
    "allow_delayed_open",
    "project_id",
    "retry_limit_seconds",
    "enable_tls",
    "blob_storage_authority",
    "dfs_storage_authority",
)
"""Options of pyarrow's addresses that hold no secret."""
SAID = re.compile(r"AWS Error \w+ during \w+")
"""The part of pyarrow's errors that repeats nothing of an address."""
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


def check_address(data: str) -> None:
    """Refuse an address that may hold a secret, without showing it: a run writes down where its data lie.

    Args:
        data: an address; a path is taken as it is.

    Raises:
        UsageError: it has a password, a fragment, or options that are not in `OPTIONS`.
    """
    if not is_address(data):
        return
    if PASSWORD.search(data) or "#" in data:
        raise UsageError(
            "data: expected an address without a password, which a run would write down; give it as the store's "
            "own tools take it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), and write @ and # in "
            "names as %40 and %23"
        )
    options = filter(None, data.partition("?")[2].split("&"))
    if not all(option.partition("=")[0] in OPTIONS for option in options):
        raise UsageError(
            f"data: expected an address with no other options than {', '.join(OPTIONS)}: others may hold a secret, "
            "which a run would write down; leave them out, and give credentials as the store's own tools take them"
        )


def shown(data: str) -> str:
    """An address without its options, and without what stands before an @; a path as it is."""
    if not is_address(data):
        return data
    scheme, _, place = data.partition("://")
    return f"{scheme}://{re.split('[?#]', place.rpartition('@')[2])[0]}"


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
        UsageError: nothing of this sort is there, there is no way to it, or the address may hold a secret.
    """
    check_address(address)
    called = shown(address)
    scheme = address.split("://")[0]
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
        there = filesystem.get_file_info(path)
        inside = filesystem.get_file_info(fs.FileSelector(path)) if there.type == fs.FileType.Directory else [there]
    except (ValueError, OSError, NotImplementedError) as error:  # pyarrow's own errors are of these
        said = SAID.search(str(error))  # the rest may repeat what is secret
        why = type(error).__name__ if said is None else said[0]
        raise UsageError(f"data: {called} cannot be reached ({why}); {WHERE}") from None
    if there.type == fs.FileType.NotFound:
        raise UsageError(f"data: {called} does not exist; {WHERE}")
    files = [info for info in inside if info.type == fs.FileType.File and info.path.lower().endswith(suffix)]
    found = [Place(info.path, f"{scheme}://{info.path}", filesystem) for info in files]
    found = sorted((p for p in found if not p.name.startswith(".")), key=lambda place: place.path)
    if not found:
        raise UsageError(
            f"data: expected a {suffix} file or a folder of them at {called}, got none; other formats are read from "
            "disk: copy them there first"
        )
    return found

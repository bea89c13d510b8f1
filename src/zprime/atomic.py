"""Files and folders that are written whole or not at all, whenever the process is killed.

A folder is written beside its final place, flushed to disk, and renamed. A folder counts as an artefact once its
manifest lies in it: the manifest is the last file that is written.
"""

import contextlib
import ctypes
import errno
import glob
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from zprime.errors import ArtifactError, UsageError

MANIFEST = "manifest.json"
LARGEST = 1 << 28
"""Bytes of a manifest, or of a file beside it, at most."""
LOCK = ".lock"
LEFT = re.compile(r"\.lock|\..+\.new-[0-9a-f]{8}")
"""What a process leaves in a new folder that is killed before its first artefact is there."""
YOUNG = 60.0  # seconds
OURS = re.compile(r"\.(?P<name>.+)\.(?P<rest>(new|old)-[0-9a-f]{8})")
"""Names of what is written beside, as `_beside` and `write_file` make them."""
NONE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENXIO,
    errno.EFBIG,
)
"""Errors that say that there is no such file, or something else than a file that we wrote."""


def write_file(file: Path, content: bytes) -> None:
    """Write beside, fsync, rename.

    Raises:
        UsageError: it cannot be written here (no room, no right, no folder).
    """
    try:
        _write_file(file, content)
    except OSError as error:
        raise UsageError(f"{file}: cannot write ({error.strerror}); free some room or choose another folder") from error


def _write_file(file: Path, content: bytes) -> None:
    sweep(file.parent, file.name)
    beside = file.with_name(f".{file.name}.new-{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as opened:  # with the rights that the user's umask leaves
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; move it to `path` if the block succeeds, else remove it.

    A process that is killed leaves the folder behind; `sweep` removes it. While the block runs the folder is locked.
    """
    path = Path(path)
    check_no_link(path)
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        folder = _beside(path, "new")
    except OSError as error:
        why = "a file is in the way" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"{path}: cannot write here ({why}); choose another folder") from error
    with locked(folder):
        try:
            yield folder
            move_into_place(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which the system drops when the process ends in whatever way; False if another holds it.

    Also False where folders cannot be locked.
    """
    with _flock(folder, wait=False) as held:
        yield held


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock and hold it, where folders can be locked."""
    with _flock(folder, wait=True):
        yield


@contextlib.contextmanager
def _flock(folder: Path, *, wait: bool) -> Iterator[bool]:
    handle, held = None, False
    with contextlib.suppress(OSError, ImportError):
        import fcntl  # not on Windows

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    try:
        yield held
    finally:
        if handle is not None:
            os.close(handle)


def inside(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where there is none, also where another process removes it meanwhile."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` while they wrote an artefact or a file there, or one of this name.

    Files beside others and staging folders go that are older than a minute (one may just be made, and not locked yet)
    and that no process holds; an artefact that was on its way out while its place is empty goes back there.
    """
    found = list[Path]()
    with contextlib.suppress(FileNotFoundError):  # another process may remove the folder while it is looked through
        found += folder.glob(".*.*-*" if name is None else f".{glob.escape(name)}.*-*")
    for left in found:
        ours = OURS.fullmatch(left.name)
        if not ours:
            continue
        name, rest = ours["name"], ours["rest"]
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < YOUNG:
                continue
            if left.is_symlink() or not left.is_dir():  # one file, which nobody holds for a minute
                left.unlink()
                continue
            with locked(left) as mine:
                if not mine:
                    continue
                if rest.startswith("old-") and is_artifact(left / "artifact") and not (folder / name).exists():
                    os.rename(left / "artifact", folder / name)
                shutil.rmtree(left, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot write here ({error.strerror}); choose another folder") from error


def move_into_place(folder: Path, path: Path) -> None:
    """Rename `folder` to `path`; where an older artefact lies there, in one step where the system can swap folders.

    Raises:
        UsageError: it cannot be moved there; the older artefact is where it was, or the message says where it lies.
    """
    check_folder(path)  # what came there since the work began
    try:
        if not path.exists():
            os.rename(folder, path)
        elif _swap(folder, path):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            _replace(folder, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot move the artefact here ({error.strerror}); choose another folder") from error
    sync(path.parent)


def _beside(path: Path, what: str) -> Path:
    """A new folder beside `path`, with the rights that the user's umask leaves."""
    folder = path.with_name(f".{path.name}.{what}-{secrets.token_hex(4)}")
    folder.mkdir()
    return folder


def _replace(folder: Path, path: Path) -> None:
    """Move the older artefact aside, `folder` into its place, and the older one back if that fails.

    Raises:
        UsageError: the older artefact cannot be moved back; it is kept aside, and `sweep` tries again.
    """
    aside = _beside(path, "old")
    older = aside / "artifact"
    try:
        os.rename(path, older)
        os.rename(folder, path)
    except BaseException as error:
        try:
            if older.exists() and not path.exists():
                os.rename(older, path)
            aside.rmdir()
        except OSError as again:  # never with what is in it
            if isinstance(error, OSError):
                raise UsageError(
                    f"{path}: cannot move the artefact here ({error.strerror}), nor the older one back "
                    f"({again.strerror}); the older one is kept: move {older} to {path}"
                ) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _swap(a: Path, b: Path) -> bool:
    """Exchange two folders in one step, by Linux's renameat2; False where there is no such thing."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(call(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


def sync(folder: Path) -> None:
    """Flush a folder's entries, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_replaceable(path: Path) -> None:
    """Raise `UsageError` unless `path` is free, empty but for what a killed process left, or an artefact of ours."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError:  # not there, or not reachable: told by what makes it
        return
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{path}: expected a folder, got {kind_of(mode)}; choose another path")
    if not is_artifact(path) and not all(LEFT.fullmatch(p.name) for p in path.iterdir()):
        raise UsageError(f"{path}: this folder holds files that zprime did not write; choose an empty or a new folder")


def kind_of(mode: int) -> str:
    """In words, what has this mode (`st_mode`)."""
    words = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
    others = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return (words | others).get(stat.S_IFMT(mode), "a device")


def check_folder(path: Path) -> None:
    """Raise `UsageError` where something else than a folder lies at `path`, also where it is a link to one."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        return
    remedy = "put the folder itself there" if stat.S_ISLNK(mode) else "move it elsewhere"
    raise UsageError(f"{path}: expected a folder, got {kind_of(mode)}; {remedy}, then run the same command again")


def remove(folder: Path) -> None:
    """Delete a folder with all in it, as far as that goes; what is no folder, or a link to one, is left."""
    if folder.is_dir() and not folder.is_symlink():  # to open a pipe would be to wait for it
        shutil.rmtree(folder, ignore_errors=True)


def check_no_link(path: Path) -> None:
    """Raise `UsageError` where a symbolic link lies: not what it points to would be replaced, but the link."""
    if os.path.islink(path):  # noqa: PTH114
        raise UsageError(f"{path}: a symbolic link, which would be replaced itself; give the folder that it points to")


def has_manifest(path: Path) -> bool:
    """Whether something lies where the manifest of an artefact in `path` does, also what cannot be read as one.

    Raises:
        ArtifactError: the system cannot say so now: what must not be taken for none.
    """
    file = Path(path) / MANIFEST
    try:
        os.lstat(file)
    except OSError as error:
        if error.errno in NONE:
            return False
        raise ArtifactError(f"{file}: cannot be read ({error.strerror}); run the same command again") from error
    except ValueError:  # a name that no system takes
        return False
    return True


def is_artifact(path: Path) -> bool:
    """Whether a zprime manifest lies in `path`.

    Raises:
        ArtifactError: there is a manifest, and the system cannot read it now: what must not be taken for none.
    """
    file = Path(path) / MANIFEST
    try:
        return bool(json.loads(read_regular(file, LARGEST)).get("format") == "zprime")
    except OSError as error:
        if error.errno in NONE:
            return False
        raise ArtifactError(f"{file}: cannot be read ({error.strerror}); run the same command again") from error
    except (ValueError, AttributeError, RecursionError):
        return False


def read_regular(file: Path, size: int | None = None) -> bytes:
    """Content of a regular file; links and pipes are not followed or waited for.

    Args:
        file: to read.
        size: the most bytes that are read.

    Raises:
        OSError: it is missing, cannot be read, is no regular file, or is larger than `size`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(file, flags)
    with os.fdopen(handle, "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        if size is not None and found.st_size > size:
            raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, expected {size:,} at most", str(file))
        return opened.read()

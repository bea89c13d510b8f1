"""One writer at a time in the folder of a run: a lock that the system drops when its process ends, in whatever way."""

import contextlib
import json
import logging
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from zprime.atomic import LOCK, kind_of
from zprime.errors import UsageError

log = logging.getLogger("zprime")
_held: dict[str, int] = {}
_handles: dict[str, int] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes in `folder`; calls within calls of one process share the lock.

    The lock file says who holds it. Where a process died with it, its lock is taken over, and that is said. Where files
    cannot be locked (not on POSIX, some network file systems) nothing is locked; NFS is not tested.

    Raises:
        UsageError: another process holds it, or something else than a file lies in the lock's place.
    """
    name = os.path.realpath(folder)
    with _guard:
        inner = name in _held
        _held[name] = _held.get(name, 0) + 1
    handle = None
    try:
        handle = None if inner else _take(Path(name))
        if handle is not None:
            _handles[name] = handle
        yield
    finally:
        if handle is not None:
            # while it is locked: who waits for this file sees that it is gone, and takes a new one
            with contextlib.suppress(OSError):
                if _is_at(handle, Path(name) / LOCK):  # else it is another process's
                    (Path(name) / LOCK).unlink()
            del _handles[name]
            os.close(handle)
        with _guard:
            _held[name] -= 1
            if not _held[name]:
                del _held[name]


def lost(folder: Path) -> bool:
    """Whether this process locked `folder`, and the lock file was removed or replaced since, e.g. by hand."""
    name = os.path.realpath(folder)
    return name in _handles and not _is_at(_handles[name], Path(name) / LOCK)


def check_kept(folder: Path) -> None:
    """Raise `UsageError` where the lock of this process was removed: another one may be writing in `folder`."""
    if lost(folder):
        raise UsageError(
            f"{Path(folder) / LOCK}: this file was removed or replaced while this process was writing, so that another "
            "one may be writing too; nothing was put in place. Run the same command again once no other process "
            "writes here"
        )


def _is_at(handle: int, file: Path) -> bool:
    """Whether `file` still is the one that was opened, and no link to it."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(file))
    except OSError:
        return False


def _take(folder: Path) -> int | None:
    """A handle on the locked file; None where files cannot be locked."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    file = folder / LOCK
    while True:
        handle = _open(file)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = _said(os.read(handle, 4096))
            os.close(handle)
            raise UsageError(
                f"{folder}: {said or 'another process'} is writing here; wait until it is done, or choose another "
                "folder"
            ) from None
        except OSError as error:
            os.close(handle)
            log.warning("%s: no locks here (%s); let no two processes write in it", folder, error.strerror)
            return None
        with contextlib.suppress(OSError):
            if _is_at(handle, file):  # else its holder has just removed it
                before = _said(os.read(handle, 4096))
                if before:
                    log.warning("%s: %s ended before it was done; its lock is taken over", folder, before)
                if os.fstat(handle).st_nlink == 1:
                    _write(handle)
                    return handle
                file.unlink()  # a file that has another name too keeps what it says
        os.close(handle)


def _open(file: Path) -> int:
    """A handle on the lock file, which is made if there is none.

    It will be written, so what a link leads to is not opened; and no pipe is waited for.

    Raises:
        UsageError: it cannot be written, or something else than a file lies there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(OSError):  # it is not there yet
        _check_file(file, os.lstat(file).st_mode)  # before it is opened: that may do something to a device
    try:
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        raise UsageError(f"{file}: cannot write here ({error.strerror}); choose another folder") from error
    try:
        _check_file(file, os.fstat(handle).st_mode)
    except UsageError:
        os.close(handle)
        raise
    return handle


def _check_file(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{file}: expected a file, the lock of this run, got {kind_of(mode)}; move it elsewhere and run the same "
            "command again"
        )


def _write(handle: int) -> None:
    """Say who holds the lock; for messages only, so that it is no matter if the disk is full."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:2]] if sys.argv[0] not in ("", "-c") else ["python"]
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "what": " ".join(words), "since": since}
    with contextlib.suppress(OSError):
        os.lseek(handle, 0, os.SEEK_SET)
        os.truncate(handle, 0)
        os.write(handle, json.dumps(holder).encode())


def _said(content: bytes) -> str:
    """Who holds or held a lock, in words; empty if the file does not say."""
    try:
        holder = json.loads(content)
        return f"process {int(holder['pid'])} on {holder['host']} ({holder['what']}, since {holder['since']})"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ""

"""One writer at a time in the folder of a run: a lock that the system drops when its process ends, in whatever way."""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from zprime.atomic import LOCK
from zprime.errors import UsageError

log = logging.getLogger("zprime")
_held: dict[str, int] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes in `folder`; calls within calls of one process share the lock.

    The lock file says who holds it. Where a process died with it, its lock is taken over, and that is said. Where files
    cannot be locked (not on POSIX, some network file systems) nothing is locked; NFS is not tested.

    Raises:
        UsageError: another process holds it.
    """
    name = os.path.realpath(folder)
    with _guard:
        inner = name in _held
        _held[name] = _held.get(name, 0) + 1
    handle = None
    try:
        handle = None if inner else _take(Path(name))
        yield
    finally:
        if handle is not None:
            # while it is locked: who waits for this file sees that it is gone, and takes a new one
            with contextlib.suppress(OSError):
                (Path(name) / LOCK).unlink()
            os.close(handle)
        with _guard:
            _held[name] -= 1
            if not _held[name]:
                del _held[name]


def _take(folder: Path) -> int | None:
    """A handle on the locked file; None where files cannot be locked."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    file = folder / LOCK
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"{folder}: cannot write here ({error.strerror}); choose another folder") from error
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
            if os.fstat(handle).st_ino == file.stat().st_ino:  # else its holder has just removed it
                before = _said(os.read(handle, 4096))
                if before:
                    log.warning("%s: %s ended before it was done; its lock is taken over", folder, before)
                _write(handle)
                return handle
        os.close(handle)


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
    except (ValueError, KeyError, TypeError):
        return ""

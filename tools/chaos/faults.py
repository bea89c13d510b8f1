"""Calls of the system that fail, or at which the process ends: the n-th of those that touch one folder.

Counted are open, mkdir, rename, replace, the swap of two folders, unlink, rmdir, fsync, and the reads and writes of
files that Python opened. Not counted: stat and the listing of folders.
"""

import builtins
import errno
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zprime import atomic

GROW = {"write", "create", "mkdir", "fsync"}
"""What needs room on the disk."""
READ = {"open", "read"}
KILLED = 9


class Faults:
    """Counts calls, and makes one of them fail.

    Args:
        root: calls that touch files in this folder are counted.
        mode: `error`: the call `at` fails, of those that change something; `kill`: the process ends there, with half of
            a write written; `full`: from there on nothing can be written that needs room; `read`: a call fails of
            those that read; `count`: all are counted, and nothing fails.
        at: the first call is 1.
    """

    def __init__(self, root: Path, mode: str, at: int = 0) -> None:
        self.root, self.mode, self.at = os.path.realpath(root), mode, at
        self.calls: Counter[str] = Counter()
        self.n = 0
        self.inside = False

    def due(self, what: str) -> bool:
        """Count a call; whether it is to fail."""
        if self.mode != "count" and (self.mode == "read") != (what in READ):
            return False
        self.n += 1
        self.calls[what] += 1
        if self.mode == "full":
            return self.n >= self.at and what in GROW
        return self.mode != "count" and self.n == self.at

    def fail(self, what: str, path: str) -> None:
        """End the process, or raise what the system would."""
        if self.mode == "kill":
            os._exit(KILLED)
        number = errno.ENOSPC if self.mode == "full" else errno.EIO
        if self.mode == "error" and what in GROW and self.at % 2:
            number = errno.ENOSPC
        raise OSError(number, os.strerror(number), path)

    def touches(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path of what a call is about, if it lies in the folder."""
        if isinstance(path, int):
            try:
                whole = str(Path(f"/proc/self/fd/{path}").readlink())
            except OSError:
                return None
        else:
            start = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
            whole = os.path.normpath(start / os.fsdecode(path))
        return whole if whole == self.root or whole.startswith(self.root + os.sep) else None

    def install(self) -> None:
        """Put counting calls in the place of the system's, in this process, for good."""
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        os.remove = os.unlink
        os.open = self._opening(os.open)
        io.open = builtins.open = self._file(io.open)  # type: ignore[assignment]
        atomic._swap = self._swapping(atomic._swap)  # type: ignore[assignment]

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            where = self.touches(path, kwargs.get("dir_fd") or kwargs.get("src_dir_fd"))
            if where is not None and self.due(name):
                self.fail(name, where)
            return real(path, *args, **kwargs)

        return call

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            where = self.touches(path, kwargs.get("dir_fd"))
            what = "create" if flags & os.O_CREAT else "open"
            if where is not None and self.due(what):
                self.fail(what, where)
            return real(path, flags, *args, **kwargs)

        return call

    def _file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            where = self.touches(file)
            if where is None:
                return real(file, mode, *args, **kwargs)
            what = "create" if set(mode) & set("wxa") else "open"
            if not isinstance(file, int) and self.due(what):
                self.fail(what, where)
            return File(self, real(file, mode, *args, **kwargs), where)

        return call

    def _swapping(self, real: Callable[[Path, Path], bool]) -> Callable[[Path, Path], bool]:
        def call(a: Path, b: Path) -> bool:
            if self.touches(b) is not None and self.due("swap"):
                if self.mode == "kill":
                    os._exit(KILLED)
                return False  # as where the system knows no swap: two renames follow
            return real(a, b)

        return call


class File:
    """An open file whose reads and writes are counted."""

    def __init__(self, faults: Faults, file: Any, path: str) -> None:
        self._faults, self._file, self._path = faults, file, path

    def write(self, content: Any) -> Any:
        """Write; a write that fails has written half."""
        if self._faults.due("write"):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            self._faults.fail("write", self._path)
        return self._file.write(content)

    def read(self, *args: Any) -> Any:
        """Read."""
        if self._faults.due("read"):
            self._faults.fail("read", self._path)
        return self._file.read(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "File":
        self._file.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self._file.__exit__(*args)

    def __iter__(self) -> Any:
        return iter(self._file)

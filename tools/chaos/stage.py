"""Where commands are disturbed: processes forked from one that has imported everything, and folders to compare."""

import contextlib
import hashlib
import importlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import KILLED, Faults

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ("--latents", "2", "--hidden", "16", "--epochs", "4", "--batch", "32", "--checkpoint", "0")
AUDIT = ("--rows", "12", "--draws", "120", "--grid", "4", "--map", "20", "--samples", "60")
TRACEBACK = 70
Action = Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (minus a signal), and what it said."""

    code: int
    out: str
    err: str

    @property
    def clean(self) -> bool:
        """Whether it ended as documented: a code of the table, and a sentence if it failed."""
        said = "error:" in self.err
        return "Traceback" not in self.err and (self.code == 0 or (self.code in (1, 2, 3, 4, 5, 6) and said))


def verb(*words: str | Path) -> Action:
    """A call of the command line."""

    def act() -> int:
        from zprime.cli import main

        try:
            main(["--quiet", "--threads", "1", *map(str, words)])
        except SystemExit as end:
            return int(end.code or 0)

    return act


def start(action: Action, folder: Path, faults: Faults | None = None) -> int:
    """Fork a process that acts, with its output in `folder`; its id."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = TRACEBACK
    try:
        os.setsid()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if faults is not None:
            faults.install()
        code = action()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(child: int, folder: Path) -> Ended:
    """Wait for a process."""
    return _ended(os.waitpid(child, 0)[1], folder)


def done(child: int, folder: Path) -> Ended | None:
    """How a process ended; None while it has not."""
    found, status = os.waitpid(child, os.WNOHANG)
    return _ended(status, folder) if found else None


def _ended(status: int, folder: Path) -> Ended:
    code = os.waitstatus_to_exitcode(status)
    out, err = (
        (folder / name).read_text(errors="replace") if (folder / name).exists() else "" for name in ("out", "err")
    )
    return Ended(code, out, err)


def run(action: Action, folder: Path, faults: Faults | None = None) -> Ended:
    """Act in a forked process."""
    return finish(start(action, folder, faults), folder)


def snapshot(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file in a folder; empty folders count, too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir() and not any(path.iterdir()):
            found[name] = "empty folder"
    return found


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """In words, where two folders differ."""
    return [
        f"{name}: {'missing' if name not in found else 'left over' if name not in wanted else 'other bits'}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]


def age(folder: Path) -> None:
    """Make what was left old enough that the next command may sweep it."""
    then = time.time() - 3600
    for path in folder.rglob(".*"):
        with contextlib.suppress(OSError):
            os.utime(path, (then, then), follow_symlinks=False)


def fresh(folder: Path, source: Path | None) -> Path:
    """A folder that is a copy of another, or not there."""
    shutil.rmtree(folder, ignore_errors=True)
    if source is not None and source.exists():
        shutil.copytree(source, folder)
    return folder


def steady_clock() -> None:
    """A processor clock that counts its calls: then pages have the same bits, too, with the seconds that they tell."""
    ticks = itertools.count(1)
    time.process_time = lambda: next(ticks) / 64


def warm(actions: Sequence[Action], folder: Path) -> None:
    """Import here what commands import, without doing anything that a fork would not survive."""

    def act() -> int:
        code = max(a() for a in actions)
        (folder / "modules").write_text("\n".join(sorted(sys.modules)))
        return code

    ended = run(act, folder)
    if ended.code:
        raise SystemExit(f"an undisturbed command failed: {ended.err}")
    for name in (folder / "modules").read_text().splitlines():
        if not name.startswith(("__", "faults", "stage")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def table(path: Path, n: int = 120) -> Path:
    """The rows of tests/small.py: two clumps, in units of their own, with labels."""
    sys.path.insert(0, str(ROOT / "tests"))
    import small

    return small.table(path, n)


def scratch() -> Path:
    """A folder for everything, in memory where there is room."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="zprime-chaos-", dir=memory if os.access(memory, os.W_OK) else None))


__all__ = ["KILLED", "Ended", "age", "differences", "finish", "fresh", "run", "snapshot", "start", "verb"]

"""Worker processes: each calls what its parent sends it, and ends with its parent, however that ends.

A worker loads nothing that takes time before it watches its parent.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn, final

from zprime import memory
from zprime.errors import ResourceError

FEWER = (
    "fit fewer kinds at a time, or smaller ones, or let nothing run side by side (--threads 1; in Python: workers=1); "
    "the same command goes on from there"
)
PATIENCE = 3.0
"""Seconds that a worker has to clean up before it is killed."""


@final
@dataclass(frozen=True)
class Worker:
    """A process that waits for work, and what its parent talks to it through."""

    process: SpawnProcess
    connection: Connection

    @classmethod
    def start(cls) -> "Worker":
        """Start one that hears neither Ctrl-C nor the end of the terminal: its parent ends it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,))
        with _blocked():  # which the new process inherits
            process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, work: Callable[..., object], task: Sequence[Any]) -> None:
        """Let it call `work(*task)`.

        Raises:
            ResourceError: it has ended.
        """
        try:
            self.connection.send((work, tuple(task)))
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> None:
        """Wait until its work is done.

        Raises:
            Exception: what the work raised.
            ResourceError: it has ended.
        """
        try:
            error = self.connection.recv()
        except (EOFError, OSError) as gone:
            raise self._ended() from gone
        if error is not None:
            raise error

    def _ended(self) -> ResourceError:
        self.process.join(PATIENCE)
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        why = "; the system ends processes so where memory runs out" if code == -9 else ""
        return ResourceError(f"a worker process ended {how} before its work was done{why}; {FEWER}")


def dismiss(workers: Sequence[Worker]) -> None:
    """Let workers end that have nothing left to do, and wait for them."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join()


def stop(workers: Sequence[Worker]) -> None:
    """End workers, whatever they do: they clean up, and are killed where that takes more than `PATIENCE` seconds."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def serve(connection: Connection) -> None:
    """Be a worker: call what comes through the connection until it is closed. It computes with one thread."""
    _end_with_parent()
    signal.signal(signal.SIGTERM, _terminate)
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    import torch  # after the watch has begun

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            work, task = connection.recv()
            try:
                work(*task)
            except Exception as error:
                connection.send(sendable(error))
            else:
                connection.send(None)


def _end_with_parent() -> None:
    """Let this process be killed when its parent has ended: by the system on Linux, by a watched pipe everywhere."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    # also for a parent that had ended before
    threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # sent to the whole group it comes again from the parent: cleaning up goes on
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Block the signals that a terminal sends to all processes in it, where there is such a mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which lets SIGINT through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sendable(error: Exception) -> Exception:
    """The error with its traceback as a note; another one with the same text where it cannot be sent.

    What an error came from is lost on the way, and with it that memory ran out: that is told by an error of its own.
    """
    note = "in a worker process:\n" + "".join(traceback.format_exception(error))
    lacking = memory.ran_out(error)
    if lacking is not None:
        asked = f" ({lacking})" if lacking else ""
        error = ResourceError(f"memory ran out in a worker process{asked}; {FEWER}")
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of somebody else's does
        other = RuntimeError(f"{type(error).__name__}: {error}")
        other.add_note(note)
        return other
    return error

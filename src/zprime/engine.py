"""Independent work side by side: in processes of their own, or in threads that share their memory."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from typing import Any, TypeVar

import torch

from zprime.progress import Progress

T = TypeVar("T")


def in_processes(
    work: Callable[..., object], tasks: Sequence[tuple[Any, ...]], *, workers: int, done: Callable[[int], None]
) -> None:
    """Call `work(*task)` for every task, in new processes with one thread each; what it returns is dropped.

    The processes are spawned: a script that gets here needs `if __name__ == "__main__":` round what it does.

    Args:
        work: a function of a module, that keeps what it finds on disk.
        tasks: what to call it with; what takes longest should come first.
        workers: processes at a time.
        done: called with the number of tasks that are done.

    Raises:
        Exception: what a task raised first; the others are then stopped at once, and so they are by Ctrl-C.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_alone) as pool:
        futures = [pool.submit(work, *t) for t in tasks]
        try:
            for i, future in enumerate(as_completed(futures)):
                future.result()
                done(i + 1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            ours = set(multiprocessing.active_children()) - others
            for process in ours:
                process.terminate()
            for process in ours:
                process.join()
            raise


def _alone() -> None:
    """What a process does first: one thread, and Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class StoppedError(Exception):
    """Raised in a thread that is to end because another one failed."""


def in_threads(calls: Sequence[Callable[[Progress], T]], *, workers: int, progress: Progress) -> list[T]:
    """Call all, at most `workers` at a time, and give their answers in order.

    torch computes without Python's lock, so that threads with one core each are faster than one after the other with
    all cores, where operations are small. They must not use torch's global random numbers.

    Args:
        calls: each is given a `progress` that it has to call now and then: there it is stopped if another one fails.
        workers: threads, in each of which torch keeps to one core; with 1 they are called one after the other, by this
            thread, and torch keeps its cores.
        progress: called by all of them, one at a time.
    """
    if workers < 2 or len(calls) < 2:
        return [call(progress) for call in calls]
    stop, lock, before = threading.Event(), threading.Lock(), torch.get_num_threads()

    def heard(what: str, done: int, total: int) -> None:
        if stop.is_set():
            raise StoppedError(what)
        with lock:
            progress(what, done, total)

    with ThreadPoolExecutor(min(workers, len(calls))) as pool:
        try:
            torch.set_num_threads(1)
            futures = [pool.submit(call, heard) for call in calls]
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [f for f in futures if f.done() and f.exception() is not None]
            if failed:
                raise failed[0].exception()  # type: ignore[misc]
            return [f.result() for f in futures]
        finally:
            stop.set()
            torch.set_num_threads(before)

"""Independent work side by side: in processes of their own, or in threads that share their memory."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar, cast

from zprime import interrupts
from zprime.progress import Progress
from zprime.threads import one_thread
from zprime.workers import Worker, dismiss, stop

T = TypeVar("T")


def in_processes(
    work: Callable[..., object], tasks: Sequence[tuple[Any, ...]], *, workers: int, done: Callable[[int], None]
) -> None:
    """Call `work(*task)` for every task, in new processes with one thread each; what `work` returns is not kept.

    The processes are spawned: a script that gets here needs `if __name__ == "__main__":` round what it does.

    Args:
        work: a function of a module, which writes its results to disk.
        tasks: the arguments of each call; put the longest task first.
        workers: processes at a time.
        done: called with the number of tasks that are done.

    Raises:
        Exception: what the first failing task raised. The other processes are then stopped, as they are by Ctrl-C; and
            they end with this process, also where it is killed.
        ResourceError: a process ended before its work was done.
    """
    left, done_so_far = deque(tasks), 0
    crew: list[Worker] = []
    try:
        for _ in range(min(workers, len(tasks))):
            with interrupts.deferred():  # until `stop` can find it
                crew.append(Worker.start())
            crew[-1].give(work, left.popleft())
        busy = {w.connection: w for w in crew}
        while busy:
            for ready in wait_for(list(busy)):
                worker = busy[cast(Connection, ready)]
                worker.answer()
                done_so_far += 1
                done(done_so_far)
                if left:
                    worker.give(work, left.popleft())
                else:
                    del busy[worker.connection]
    except BaseException:
        stop(crew)
        raise
    dismiss(crew)


class StoppedError(Exception):
    """Raised in a thread that has to end because another one failed."""


def in_threads(calls: Sequence[Callable[[Progress], T]], *, workers: int, progress: Progress) -> list[T]:
    """Call all, at most `workers` at a time, and give their results in order.

    torch computes without Python's lock. Where operations are small, calls side by side with one core each are faster
    than calls one after the other with all cores.

    Args:
        calls: each gets a `progress` to call now and then. That call raises, and so ends it, if another call failed.
            They must not use torch's global random numbers.
        workers: threads; torch keeps to one core in each. With 1 there are no threads, and torch keeps its cores.
        progress: called by all of them, one at a time.

    Raises:
        Exception: what the first failing call raised.
    """
    if workers < 2 or len(calls) < 2:
        return [call(progress) for call in calls]
    halt, lock = threading.Event(), threading.Lock()

    def report(what: str, done: int, total: int) -> None:
        if halt.is_set():
            raise StoppedError(what)
        with lock:
            progress(what, done, total)

    with ThreadPoolExecutor(min(workers, len(calls))) as pool, one_thread():
        try:
            futures = [pool.submit(call, report) for call in calls]
            wait(futures, return_when=FIRST_EXCEPTION)
            errors = [f.exception() for f in futures if f.done()]
            for error in errors:
                if error is not None:
                    raise error
            return [f.result() for f in futures]
        finally:
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun does not

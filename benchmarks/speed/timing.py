"""Pieces of work that take turns, timed in CPU seconds of one thread."""

import ctypes
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]
DOCS = HERE.parent / "docs"
FASHION = Path("/usr/share/datasets/fashion-mnist")
ROUNDS, MORE = 3, 7
NARROW = 0.1
LONG = 20.0
"""Every comparison has 3 rounds. It gets up to 7, where its ratios spread by more than a tenth of their median and it
has taken less than 20 CPU seconds so far."""


@dataclass(frozen=True)
class Row:
    """One comparison: times are CPU seconds for the same work (the peer's scaled up where it had fewer points)."""

    job: str
    against: str
    ratios: list[float]
    ours: float
    peer: float
    least: float | None = None
    stretch: float | None = None
    unit: str = "x"

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """From the smallest to the largest ratio, as a share of the median."""
        return (max(self.ratios) - min(self.ratios)) / self.ratio


class Missing(Exception):  # noqa: N818
    """Something that a measurement needs is not here; the page says so."""


class Task(NamedTuple):
    """Something to be timed; `scale` times its work is the whole. `as_it_comes`: memory is not kept for it."""

    run: Callable[[], object]
    scale: float = 1.0
    as_it_comes: bool = False


class Pair(NamedTuple):
    """Two tasks to be compared, by name, and how many times faster the first should be."""

    job: str
    against: str
    least: float | None = None
    stretch: float | None = None


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def cpu() -> float:
    """CPU seconds of this process and of those that it waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def keep_memory(kept: bool = True) -> None:
    """Let glibc keep what is given back, where it is the C library; or do as it does by itself in large processes.

    Else every large temporary array is new pages of the system: they are a large and unsteady part of what peers take.
    """
    try:
        c = ctypes.CDLL(None)
        settle, trim = c.mallopt, c.malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    trim_at, map_from, most_mapped = -1, -3, -4  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX of malloc.h
    settle(trim_at, (1 << 31) - 1 if kept else 1 << 26)
    settle(map_from, 1 << 25)
    settle(most_mapped, 0 if kept else 1 << 16)
    if not kept:
        trim(0)


def timed(task: "Task") -> float:
    """CPU seconds of a task, with memory as it is to have it."""
    if not task.as_it_comes:
        return seconds(task.run)
    keep_memory(kept=False)
    try:
        return seconds(task.run)
    finally:
        keep_memory()


def compared(
    tasks: Mapping[str, Task | Callable[[], object]],
    pairs: Sequence[Pair],
    clock: Callable[[str, Task], float] | None = None,
    rounds: int = 0,
) -> list[Row]:
    """Ratios of pairs of tasks, each task run once a round: what is in several pairs is measured once.

    `clock` is what a task takes, given its name; by default its CPU seconds in this process. With `rounds`, for what
    takes long, it has so many, and no try before.
    """
    each = {name: task if isinstance(task, Task) else Task(task) for name, task in tasks.items()}
    taken = clock or (lambda name, task: timed(task))
    if clock is None and not rounds:
        for task in each.values():
            timed(task)  # caches, and what is laid out once
    found: dict[str, list[float]] = {name: [] for name in each}
    spent = 0.0
    while True:
        for name, task in each.items():
            one = taken(name, task)
            spent += one
            found[name].append(one * task.scale)
        rows = [row(pair, found) for pair in pairs]
        done = len(found[pairs[0].job])
        if done >= (rounds or MORE) or (done >= ROUNDS and (spent > LONG or all(r.spread <= NARROW for r in rows))):
            break
    show(rows)
    return rows


def row(pair: Pair, found: Mapping[str, list[float]]) -> Row:
    """Of the rounds so far."""
    ours, peer = found[pair.job], found[pair.against]
    ratios = [p / o for o, p in zip(ours, peer, strict=True)]
    return Row(
        pair.job, pair.against, ratios, statistics.median(ours), statistics.median(peer), pair.least, pair.stretch
    )


def show(rows: Iterable[Row]) -> None:
    for r in rows:
        spread = f"({min(r.ratios):.2f} to {max(r.ratios):.2f})"
        print(f"{r.job:52} {r.against:34} {r.ratio:10.2f}  {spread}", flush=True)


def interleaved(
    job: str,
    against: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    scale: float = 1.0,
    least: float | None = None,
    stretch: float | None = None,
) -> Row:
    """Ratio peer / ours; `scale` times the peer's work would be ours."""
    (only,) = compared({job: ours, against: Task(peer, scale)}, [Pair(job, against, least, stretch)])
    return only


def fastest(ways: Mapping[str, Task | Callable[[], object]]) -> str:
    """The name of the way that takes the least CPU time for the same work, the better of two tries."""
    spent = {}
    for name, given in ways.items():
        task = given if isinstance(given, Task) else Task(given)
        spent[name] = min(timed(task) for _ in range(2)) * task.scale
    best = min(spent, key=spent.__getitem__)
    print("    tried: " + ", ".join(f"{name} {s:.3g} s" for name, s in spent.items()) + f"; best: {best}", flush=True)
    return best

"""Pieces of work that take turns, timed in CPU seconds of one thread."""

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
    """Something to be timed; `scale` times its work is the whole."""

    run: Callable[[], object]
    scale: float = 1.0


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


def compared(
    tasks: Mapping[str, Task | Callable[[], object]],
    pairs: Sequence[Pair],
    clock: Callable[[str, Task], float] | None = None,
) -> list[Row]:
    """Ratios of pairs of tasks, each task run once a round: what is in several pairs is measured once.

    `clock` is what a task takes, given its name; by default its CPU seconds in this process.
    """
    each = {name: task if isinstance(task, Task) else Task(task) for name, task in tasks.items()}
    taken = clock or (lambda name, task: seconds(task.run))
    if clock is None:
        for task in each.values():
            task.run()  # caches, and what is laid out once
    found: dict[str, list[float]] = {name: [] for name in each}
    spent = 0.0
    while True:
        for name, task in each.items():
            one = taken(name, task)
            spent += one
            found[name].append(one * task.scale)
        rows = [row(pair, found) for pair in pairs]
        done = len(found[pairs[0].job])
        if done >= MORE or (done >= ROUNDS and (spent > LONG or all(r.spread <= NARROW for r in rows))):
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
        spent[name] = min(seconds(task.run) for _ in range(2)) * task.scale
    best = min(spent, key=spent.__getitem__)
    print("    tried: " + ", ".join(f"{name} {s:.3g} s" for name, s in spent.items()) + f"; best: {best}", flush=True)
    return best

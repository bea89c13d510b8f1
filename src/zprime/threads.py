"""How many threads torch uses, by the work: the time depends on it, the numbers do not.

Nothing here is set by importing or using the library: only a run that was given a `Threads` sets torch's threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch

HEAVY = 100_000
"""Numbers (rows times latents) from which on several threads are faster than one: on the digits they are slower."""


def large(numbers: int) -> bool:
    """Whether work on so many numbers (rows times latents) is faster on several threads."""
    return numbers >= HEAVY


def cores(asked: int = 0) -> int:
    """Cores to use: as many as were asked for, else all that this process may use.

    Where torchrun started several processes on this machine, its share of them.
    """
    if asked:
        return asked
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, there // int(beside)) if beside.isdecimal() and int(beside) else there


@final
@dataclass(frozen=True)
class Threads:
    """Numbers of threads for the two sorts of work; None leaves torch as it is.

    Attributes:
        light: for small networks, whose many small steps are fastest on one thread (5 s; 35 s on two busy cores).
        heavy: for convolutions and large matrices.
    """

    light: int | None = None
    heavy: int | None = None

    @classmethod
    def by_work(cls, asked: int = 0) -> "Threads":
        """One thread for light work and all cores for heavy work, or `asked` threads for both."""
        return cls(asked or 1, cores(asked))

    def use(self, *, heavy: bool) -> None:
        """Set torch's number of threads for the work that comes next."""
        count = self.heavy if heavy else self.light
        if count is not None:
            torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread within the block; after it torch has as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

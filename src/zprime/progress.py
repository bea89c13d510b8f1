"""How long operations tell how far they are, and about how long they will take."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from zprime.escape import visible

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) by every long operation."""

SHORT = 5.0
"""Seconds up to which nothing is said of how long something takes."""
MINUTE, HOUR = 60, 3600
FIRST = 0.05
"""Of many pieces, finished before it is told about how long all take."""


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


class Line:
    """Progress in one line of standard error, where that is a terminal or a notebook; else nothing is shown."""

    def __init__(self, every: float = 0.1) -> None:
        """Written anew after `every` seconds at the earliest."""
        self.every = every
        self._open: dict[str, str] = {}
        self._last = -math.inf

    @property
    def seen(self) -> bool:
        """Whether standard error is a terminal or a notebook."""
        stream = sys.stderr
        return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show what is not done yet: the first that was told, and the last."""
        stream = sys.stderr
        if stream is None or not self.seen:
            return
        self._open.pop(what, None)
        if done < total:
            self._open[what] = f"{visible(what)} {done:,}/{total:,}" if total > 1 else visible(what)
        now = time.monotonic()
        if self._open and now - self._last < self.every:
            return
        self._last = now
        width = shutil.get_terminal_size().columns - 1
        told = list(self._open.values())
        text = " · ".join(told if len(told) < 3 else (told[0], told[-1]))[:width]
        stream.write(f"\r{text:<{width}}" + ("" if told else "\r"))
        stream.flush()


shown = Line()
"""The default of what a user calls: a line of standard error, where somebody sees it."""


def about(seconds: float) -> str:
    """A duration as it may be expected, in words; e.g. `about 3 minutes`."""
    if seconds < MINUTE:
        return f"about {max(10, 10 * round(seconds / 10))} seconds"
    if seconds < 1.5 * HOUR:
        minutes = round(seconds / MINUTE)
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {seconds / HOUR:.1f} hours"


class Expectation:
    """How long something will take, told once as progress, until it is done; nothing is told of what is short."""

    def __init__(self, progress: Progress, what: str, *, pieces: int = 1) -> None:
        """Of what is done, in how many pieces, to whom."""
        self.progress, self.what, self.pieces, self.says = progress, what, pieces, ""
        self._start, self._finished = time.monotonic(), 0

    @property
    def wanted(self) -> bool:
        """Whether anybody sees it, and it was not told yet."""
        seen = self.progress.seen if isinstance(self.progress, Line) else self.progress is not silent
        return seen and not self.says

    def tell(self, seconds: float, *, words: str = "") -> None:
        """Say about how long it takes, where a piece takes so many seconds, or these words of it."""
        if self.wanted and self.pieces * seconds >= SHORT:
            self.says = f"{self.what}: {words or about(self.pieces * seconds) + ' on this machine'}"
            self.progress(self.says, 0, 1)

    def finished(self, pieces: int) -> None:
        """Say it once a twentieth of the pieces is finished, by how long these took: the smallest tell little."""
        self._finished += pieces
        if self._finished > FIRST * self.pieces:
            self.tell((time.monotonic() - self._start) / self._finished)

    def done(self) -> None:
        """Say no more of it."""
        if self.says:
            self.progress(self.says, 1, 1)


def in_pieces(progress: Progress, what: str, pieces: Sequence[tuple[T, int]]) -> Iterator[tuple[T, int]]:
    """Each piece of some work with its size, in order; once some are finished it is told about how long all take."""
    expectation = Expectation(progress, what, pieces=sum(size for _, size in pieces))
    try:
        for piece in pieces:
            yield piece
            expectation.finished(piece[1])
    finally:
        expectation.done()

"""How long operations tell how far they are, and about how long they will take."""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from zprime.escape import visible

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) by every long operation."""

SHORT = 5.0
"""Seconds up to which nothing is said of how long something takes, nor, in plain lines, of how far it is."""
SPARSE = 30.0
"""Seconds between two plain lines, where nobody watches."""
AGAIN = 2.0
"""Seconds after which the time left is told again, if it has other words by then."""
MINUTE, HOUR = 60, 3600
FIRST = 0.05
"""Of many pieces, finished before it is told about how long all take."""
TRUST = 0.2
"""Of the work, the share that a first estimate weighs as much as, beside the time that what is done took."""


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


class Expected(str):
    """What is told of how long something takes, as `what` of progress: words, which change, and what they are of."""

    __slots__ = ("of",)
    of: str

    def __new__(cls, says: str, of: str) -> "Expected":
        """The words of what has this name."""
        made = super().__new__(cls, says)
        made.of = of
        return made


def key_of(what: str) -> str:
    """What identifies a task: its words, or of an estimate, whose words change, what it is of."""
    return f"\0{what.of}" if isinstance(what, Expected) else what


def named(name: str, progress: Progress) -> Progress:
    """The same with a name in front of what is done."""

    def tell(what: str, done: int, total: int) -> None:
        says = f"{name}: {what}"
        progress(Expected(says, f"{name}: {what.of}") if isinstance(what, Expected) else says, done, total)

    return tell


@dataclass(frozen=True)
class Task:
    """What is not done yet, as it was told last.

    Attributes:
        what: its words.
        done, total: pieces.
        first: pieces that were done when it was told first.
        start: when that was, in seconds of `time.monotonic`.
    """

    what: str
    done: int
    total: int
    first: int
    start: float

    @property
    def text(self) -> str:
        """What, and how much of it is done where it has several pieces."""
        return f"{visible(self.what)} {self.done:,}/{self.total:,}" if self.total > 1 else visible(self.what)

    def line(self, now: float, expected: "Task | None") -> str:
        """As a plain line: the stage, the share done, the time so far and the time left, of all where that is known."""
        share = f"{self.text} ({100 * self.done / self.total:.0f} %)" if self.total > 1 else self.text
        if expected is not None:
            return f"{visible(expected.what)}; {share}; {clock(now - expected.start)} so far"
        told = f"{share}; {clock(now - self.start)} so far"
        if self.done == self.first:
            return told
        left = (now - self.start) * (self.total - self.done) / (self.done - self.first)
        return f"{told}, {about(left)} left"


class Open:
    """The tasks that are not done, in the order in which they were told first."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}

    def hear(self, what: str, done: int, total: int) -> Task:
        """Keep what was told of a task, and give it; what is done is kept no longer."""
        key = key_of(what)
        there = self.tasks.get(key)
        task = replace(there, what=what, done=done, total=total) if there else Task(what, done, total, done, _now())
        if done < total:
            self.tasks[key] = task
        elif there is None or there.what == what:  # the end of older words is not the end of the task
            self.tasks.pop(key, None)
        return task

    @property
    def expected(self) -> Task | None:
        """The last estimate among them."""
        found = [t for t in self.tasks.values() if isinstance(t.what, Expected)]
        return found[-1] if found else None


class Plain:
    """Progress as plain lines: at the start of what takes long an estimate, then at most one line in `SPARSE` seconds.

    For output that nobody watches, as in a file. Nothing is written of what is done within `SHORT` seconds.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        """Each line goes to `write`, without its end."""
        self.write = write
        self._open, self._last = Open(), -math.inf
        self._told: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write a line, if it is time for one."""
        task, now = self._open.hear(what, done, total), _now()
        if isinstance(what, Expected):
            if done < total and key_of(what) not in self._told:
                self._told.add(key_of(what))
                self._line(visible(what), now)
            if done >= total and key_of(what) not in self._open.tasks:
                self._told.discard(key_of(what))
            return
        expected = self._open.expected
        since = task.start if expected is None else expected.start
        if done < total and now - since >= SHORT and now - self._last >= SPARSE:
            self._line(task.line(now, expected), now)

    def _line(self, text: str, now: float) -> None:
        self.write(text)
        self._last = now


class Line:
    """Progress on standard error: one line that is written anew in a terminal or a notebook, elsewhere plain lines."""

    def __init__(self, every: float = 0.1) -> None:
        """In a terminal written anew after `every` seconds at the earliest."""
        self.every = every
        self._open, self._plain = Open(), Plain(_to_stderr)
        self._last = -math.inf
        self._instead: Progress | None = None

    @property
    def seen(self) -> bool:
        """Whether anything that it is told is shown anywhere."""
        return sys.stderr is not None if self._instead is None else self._instead is not silent

    @contextlib.contextmanager
    def through(self, progress: Progress) -> Iterator[None]:
        """Tell `progress` instead, within the block: what a command shows, or `silent`."""
        before, self._instead = self._instead, progress
        try:
            yield
        finally:
            self._instead = before

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show what is not done yet: the first that was told, and the last."""
        stream = sys.stderr
        if self._instead is not None:
            self._instead(what, done, total)
        elif stream is None:
            return
        elif stream.isatty() or type(stream).__module__.startswith("ipykernel"):
            self._rewrite(what, done, total)
        else:
            self._plain(what, done, total)

    def _rewrite(self, what: str, done: int, total: int) -> None:
        self._open.hear(what, done, total)
        now, told = _now(), [t.text for t in self._open.tasks.values()]
        if told and now - self._last < self.every:
            return
        self._last = now
        width = shutil.get_terminal_size().columns - 1
        text = " · ".join(told if len(told) < 3 else (told[0], told[-1]))[:width]
        sys.stderr.write(f"\r{text:<{width}}" + ("" if told else "\r"))
        sys.stderr.flush()


def _to_stderr(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it was closed: the work goes on
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _now() -> float:
    return time.monotonic()


shown = Line()
"""The default of what a user calls: standard error."""


def about(seconds: float) -> str:
    """A duration as it may be expected, in words; e.g. `about 3 minutes`."""
    if seconds < MINUTE - 5:
        return f"about {max(10, 10 * round(seconds / 10))} seconds"
    if seconds < 1.5 * HOUR:
        minutes = round(seconds / MINUTE)
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {seconds / HOUR:.1f} hours"


def clock(seconds: float) -> str:
    """A time that went by; e.g. `2:05`, or `1:00:00`."""
    minutes, rest = divmod(int(seconds), MINUTE)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True)
class Part:
    """A part of some work, as progress tells of it: pieces in all, and the seconds that they are expected to take."""

    pieces: int
    seconds: float


class Expectation:
    """How long something will take: told as progress, again as work is done, until it is done; never of what is short.

    The time left is what the first estimate says of the work that is left, times how much longer than that the work
    took that is done. Done is what was `finished`, or what parts of the work tell, where it is called in the place of
    the progress that it tells. Time between calls of anything else, which no estimate is of, counts for nothing.
    """

    def __init__(self, progress: Progress, what: str, *, pieces: int = 1) -> None:
        """Of what is done, in how many pieces, to whom."""
        self.progress, self.what, self.pieces, self.says = progress, what, pieces, ""
        self._finished = 0
        self._told = self._last = _now()
        self._spent = 0.0  # seconds of the work that is done
        self._work, self._done, self._again = 0.0, 0.0, 0.0  # in seconds of the first estimate
        self._parts: Mapping[str, Part] = {}
        self._heard: dict[str, tuple[int, int]] = {}  # of a part: pieces done as it said last, and in all

    @property
    def wanted(self) -> bool:
        """Whether anybody sees it, and it was not told yet."""
        seen = self.progress.seen if isinstance(self.progress, Line) else self.progress is not silent
        return seen and not self.says

    def tell(
        self, seconds: float, *, words: str = "", parts: Mapping[str, Part] | None = None, again: float = 0.0
    ) -> None:
        """Say about how long it takes.

        Args:
            seconds: of a piece.
            words: in place of those made of the seconds.
            parts: what progress says of a part of the work -> the part; None where all pieces will be `finished`.
            again: seconds more where parts are begun once more after all their pieces were done.
        """
        if not self.wanted or self.pieces * seconds < SHORT:
            return
        self._work = self.pieces * seconds
        self._parts, self._again = parts or {}, again
        self._done = self._work * self._finished / self.pieces
        if not self._finished:
            self._last = _now()
        self._say(words or f"{about(self._work)} on this machine")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell it of a part, as its progress is told; and the time left, if it has other words by now."""
        self.progress(what, done, total)
        part = self._parts.get(what)
        took = self._since_last()
        if part is None or not self.says:
            return
        self._spent += took
        before, summed = self._heard.get(what, (0, 0))
        more = done - before if done >= before else done  # less than before: begun again
        self._heard[what] = done, summed + more
        self._done += more * part.seconds / part.pieces
        if summed + more > part.pieces:
            self._work, self._again = self._work + self._again, 0.0
        self._say_left()

    def finished(self, pieces: int) -> None:
        """Count finished pieces; say how long all take, at first once a twentieth is done: the smallest tell little."""
        self._finished += pieces
        self._spent += self._since_last()
        if self.says:
            self._done += pieces * self._work / self.pieces
            self._say_left()
        elif self._finished > FIRST * self.pieces:
            self.tell(self._spent / self._finished)

    def done(self) -> None:
        """Say no more of it."""
        if self.says:
            self.progress(Expected(self.says, self.what), 1, 1)

    @property
    def left(self) -> float:
        """Seconds until it is done, by what was done."""
        trust = TRUST * self._work
        slower = (self._spent + trust) / (self._done + trust)
        return slower * max(0.0, self._work - self._done)

    def _since_last(self) -> float:
        """Seconds since the last call."""
        before, self._last = self._last, _now()
        return self._last - before

    def _say_left(self) -> None:
        if _now() - self._told >= AGAIN:
            self._say(f"{about(self.left)} left")

    def _say(self, words: str) -> None:
        before, self.says = self.says, f"{self.what}: {words}"
        self._told = _now()
        if self.says != before:
            self.progress(Expected(self.says, self.what), 0, 1)
            if before:
                self.progress(Expected(before, self.what), 1, 1)


def in_pieces(progress: Progress, what: str, pieces: Sequence[tuple[T, int]]) -> Iterator[tuple[T, int]]:
    """Each piece of some work with its size, in order; once some are finished it is told about how long all take."""
    expectation = Expectation(progress, what, pieces=sum(size for _, size in pieces))
    try:
        for piece in pieces:
            yield piece
            expectation.finished(piece[1])
    finally:
        expectation.done()

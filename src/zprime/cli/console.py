"""What all verbs share: the console, progress bars, JSON."""

import contextlib
import ctypes
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from zprime import stdio
from zprime.escape import visible, visible_lines
from zprime.progress import Plain, key_of, shown, silent

if TYPE_CHECKING:
    from zprime.results.audit import Audit


class SafeConsole(Console):
    """A console that writes no control character but its own, whatever it is asked to show; and no emoji for `:x:`.

    Writing to it when its reader is gone ends the command with exit code 141.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        """On standard output, or standard error."""
        super().__init__(stderr=stderr, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is shown passes here, as text with its style."""
        for s in super().render(renderable, options):
            yield s if s.control else Segment(visible_lines(s.text), s.style)

    def on_broken_pipe(self) -> None:
        """Raise `BrokenPipeError`, where rich would exit with code 1."""
        raise BrokenPipeError


CONSOLE = SafeConsole(stderr=True)
OUT = SafeConsole()


@dataclass
class Options:
    """What was asked for on the command line, for all verbs."""

    quiet: bool = False
    json: bool = False
    threads: int = 0


OPTIONS = Options()


class Speed(ProgressColumn):
    """Steps a second, or seconds a step."""

    def render(self, task: Task) -> Text:
        """The speed so far."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:,.1f} s each", style="progress.data.speed")


@contextmanager
def bars() -> Iterator[Any]:
    """What to give as `progress`: bars with speed and time left on standard error, sparse lines where nobody watches.

    What the library shows of its own accord goes the same way.
    """
    if OPTIONS.quiet:
        way: Any = contextlib.nullcontext(silent)
    elif CONSOLE.is_terminal:
        way = _drawn()
    else:
        way = contextlib.nullcontext(Plain(_line))
    with way as progress, shown.through(progress):
        yield progress


def _line(text: str) -> None:
    CONSOLE.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _drawn() -> Iterator[Any]:
    """Progress bars."""
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, transient=True) as drawn:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            key = key_of(what)
            if key not in tasks:
                tasks[key] = drawn.add_task(visible(what), total=total, completed=done), what
            task, words = tasks[key]
            if done >= total and words == what:  # the end of older words is not the end of the task
                drawn.remove_task(task)
                del tasks[key]
            elif done < total:
                tasks[key] = task, what
                drawn.update(task, description=visible(what), total=total, completed=done)

        yield progress


class Messages(RichHandler):
    """One message a line, whatever names are in it."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        """Nothing in it is markup."""
        return super().render_message(record, visible(message))


def handler() -> logging.Handler:
    """Messages of the library, on standard error."""
    return Messages(console=CONSOLE, show_path=False, show_level=False, log_time_format="[%X]")


def say(value: Any) -> None:
    """Print what a command says of its work, unless --quiet or JSON was asked for; a text is one line."""
    if not OPTIONS.quiet:
        _show(value)


def product(value: Any) -> None:
    """Print what a command is called for, with --quiet too; without a reader this ends it."""
    if not OPTIONS.json:
        stdio.need_reader()
    _show(value)


def _show(value: Any) -> None:
    if not OPTIONS.json:
        shown = visible(value) if isinstance(value, str) else value
        OUT.print(shown, highlight=False, markup=False, soft_wrap=isinstance(value, str))


def say_table(audit: "Audit") -> None:
    """Print the table of an audit, as wide as the terminal allows."""
    from zprime.reporting import show  # the root of the command line must not import torch

    say(show(audit, width=OUT.width))


def say_refined(run: Path, audit: "Audit") -> dict[str, Any]:
    """Print what refining was worth, where the run is a refined one; the same for JSON, empty of other runs."""
    from zprime.reporting.before import to_json
    from zprime.reporting.terminal import refined
    from zprime.results.refined import before

    then = before(run, audit)
    if then is None:
        return {}
    say(refined(audit, then, width=OUT.width))
    return {"refined": to_json(then, audit)}


def verdicts(audit: "Audit") -> dict[str, Any]:
    """Both verdicts for JSON, and what is shipped."""
    plain = audit.to_json()
    samples = plain["samples"]
    return {
        "verdict": plain["verdict"],
        "generation": None if samples is None else samples["verdict"],
        "shipped": audit.shipped,
        "quick": audit.settings.quick,
    }


def give(value: dict[str, Any]) -> None:
    """Print the result as JSON, if that was asked for."""
    if OPTIONS.json:
        stdio.need_reader()
        print(json.dumps(value, indent=1, default=str).replace("\x7f", "\\u007f"))  # noqa: T201


def keep_memory() -> None:
    """Let the C library keep up to 512 MB that is given back, where it is glibc's.

    Else tensors of a megabyte or so, made and dropped a thousand times a second, are new pages of the system each time:
    the density of flow-matching then takes twice as long. Like threads this is the process's business, so only the
    command line does it.
    """
    try:
        settle = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, another C library
        return
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    settle(mmap, 1 << 25)
    settle(trim, 1 << 29)

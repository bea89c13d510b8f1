"""How a command ends: what it says of an error, and its exit code."""

import contextlib
import os
import sys
import traceback

from cyclopts import CycloptsError

from zprime import interrupts, memory
from zprime.cli.console import CONSOLE
from zprime.errors import ResourceError, ZprimeError
from zprime.escape import visible_lines

SMALLER = {
    "run": "lower --latents, --hidden, --width, --batch, --rows, --draws or --samples, or fit smaller kinds",
    "train": "lower --latents, --hidden, --width or --batch, or take fewer rows (--limit)",
    "encode": "train with fewer latents, or on fewer rows (--limit)",
    "fit": "fit smaller kinds: fewer components, or covariance=diagonal (--set mixture.components=20)",
    "audit": "lower --rows, --draws, --samples, --members, --simulated or --map",
    "verify": "the audit asks for so much; verify where there is as much memory as it was made with",
    "sample": "draw fewer at a time (-n), each time with another --seed",
}
"""What to change where memory ran out, by verb."""
OTHER = "let the process have more memory"


def ended(error: BaseException, heard: interrupts.Listener, verb: str) -> int:
    """Say what ended a command, and give its exit code.

    Raises:
        BaseException: the error itself, where it is one that nobody foresaw.
    """
    if heard.number or isinstance(error, KeyboardInterrupt):  # an error after a signal is of what the signal cut short
        number = heard.number or 2
        _say(interrupts.sentence(number))
        return 128 + number
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):
        for stream in (sys.stdout, sys.stderr):  # what Python still writes to them when it ends goes nowhere
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    lacking = memory.ran_out(error)
    if lacking is not None:
        traceback.clear_frames(error.__traceback__)  # and with them what they hold
        more = f" ({lacking})" if lacking else ""
        _error(f"{verb or 'zprime'}: memory ran out{more}; {SMALLER.get(verb, OTHER)}; {interrupts.KEPT}")
        return ResourceError.exit_code
    if isinstance(error, CycloptsError):
        _error(str(error))
        return 2
    if isinstance(error, ZprimeError):
        _error(str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        _error(f"{where}{error.strerror}; free some room, or choose a place that can be read and written")
        return ZprimeError.exit_code
    raise error


def _error(text: str) -> None:
    from rich.markup import escape

    _say(f"[bold red]error:[/] {escape(visible_lines(text))}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be gone with its terminal
        CONSOLE.print(text, highlight=False)

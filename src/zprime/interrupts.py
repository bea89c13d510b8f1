"""SIGINT, SIGTERM and SIGHUP end a command with one sentence and an exit code of 128 and the signal's number.

Nothing here is set by importing the library: only a command line sets it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

Handler = Callable[[int, FrameType | None], object] | int | None

KEPT = "what is finished is kept, and the same command goes on from there"
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
"""Signals that end a command, and how that is said. Windows has no SIGHUP."""
AGAIN = 0.05
"""Seconds until a signal that Python dropped is sent again."""


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by the first signal; what lets Ctrl-C through lets this through."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def sentence(number: int) -> str:
    """What a command says that this signal ends."""
    return f"{WORDS[signal.Signals(number).name]}; {KEPT}"


class Listener:
    """What a process does when it hears a signal.

    Before it works (while modules are loaded, and arguments read) there is nothing to clean up: it says so and ends. A
    first signal while it works raises `Stopped`, so that whatever is half done is cleaned up. A second one while that
    goes on only tells how to end at once; a third does that.
    """

    def __init__(self) -> None:
        self.working, self.count, self.number = False, 0, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle one signal."""
        self.count += 1
        if not self.working or self.count > 2:
            quit_now(self.number or number)
        if self.count == 2:
            _say("ending; once more ends at once, and leaves what is half written to the next command")
            return
        self.number = number
        raise Stopped(number)

    def install(self) -> dict[signal.Signals, Handler]:
        """Hear signals from now on, and give the handlers that were there.

        A signal that is ignored (under `nohup`, or Ctrl-C in the background of a shell) stays ignored. Signals reach
        the main thread only: in another one nothing is heard.
        """
        return replace(self, lambda handler: handler is not signal.SIG_IGN)

    def dropped(self) -> None:
        """Python dropped the `Stopped` that was raised, for it came while an object was deleted: try once more."""
        self.count = 0
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), self.number))
        again.daemon = True
        again.start()


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Hear signals in the block; after it the process has the handlers that it had before."""
    listener, hook = Listener(), sys.unraisablehook
    before = listener.install()

    def unraisable(what: Any) -> None:
        if isinstance(what.exc_value, Stopped):
            listener.dropped()
        else:
            hook(what)

    sys.unraisablehook = unraisable
    try:
        yield listener
    finally:
        sys.unraisablehook = hook
        restore(before)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let signals that Python handles wait until the block is done."""
    heard: list[int] = []
    before = replace(lambda number, frame: heard.append(number), callable)
    try:
        yield
    finally:
        restore(before)
        for again in heard:
            signal.raise_signal(again)


def replace(handler: Handler, where: Callable[[Handler], bool]) -> dict[signal.Signals, Handler]:
    """Set the handler of each signal whose present one is such; give the present ones.

    One that Python did not set stays, for it could not be set again.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    there = {n: signal.getsignal(n) for n in (signal.Signals[name] for name in WORDS if hasattr(signal, name))}
    return {n: signal.signal(n, handler) for n, was in there.items() if was is not None and where(was)}


def restore(before: Mapping[signal.Signals, Handler]) -> None:
    """Set the handlers that `replace` gave."""
    for number, handler in before.items():
        signal.signal(number, handler)


def quit_now(number: int) -> NoReturn:
    """Say what ended the process, and end it without any cleaning up."""
    _say(sentence(number))
    os._exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be gone with the terminal
        os.write(2, f"{text}\n".encode())

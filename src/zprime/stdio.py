"""Standard input, output and error where the process was started without them, as by `zprime kinds >&-`.

Nothing here is set by importing the library: only a command line sets it.
"""

import os
import sys

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""In the order of their numbers."""
_lost: set[str] = set()


def fill() -> None:
    """Open what is missing, to nowhere: else the next file that is opened gets its number, and what is said with it."""
    for name, mode in STREAMS.items():
        if getattr(sys, name) is None:
            _lost.add(name)
            file = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115  (to the end of the process)
            os.set_inheritable(file.fileno(), True)  # noqa: FBT003
            setattr(sys, name, file)


def need_reader() -> None:
    """Raise `BrokenPipeError` where there was no standard output: for what a command is called for."""
    if "stdout" in _lost:
        raise BrokenPipeError

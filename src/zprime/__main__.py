"""zprime, and python -m zprime: signals are heard before anything that takes time is loaded."""

import gc
import io
import os
import sys
from typing import NoReturn

from zprime import interrupts, memory, stdio

SPINS = "1000"


def main() -> NoReturn:
    """Run the command line, and exit."""
    stdio.fill()  # before any other file is opened
    gc.disable()  # modules leave no garbage: to look for it is a seventh of a start
    # Read when torch is loaded. Where other work has the cores, threads that wait for one another must soon sleep: to
    # spin took five times the CPU time of the work. OMP_WAIT_POLICY=PASSIVE does that too, but on idle cores it takes
    # a quarter longer.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    interrupts.Listener().install()  # to the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is spelled out, and no error
            stream.reconfigure(errors="backslashreplace")
    try:
        from zprime.cli import main as command_line

        command_line(loaded=loaded)
    except (MemoryError, ImportError) as error:
        if memory.ran_out(error) is None:
            raise
        memory.give_up()


def loaded() -> None:
    """Look for garbage from now on, but not among what was loaded."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()

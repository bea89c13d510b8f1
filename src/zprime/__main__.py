"""zprime, and python -m zprime: signals are heard before anything that takes time is loaded."""

import io
import os
import sys
from typing import NoReturn

from zprime import interrupts, memory, stdio


def main() -> NoReturn:
    """Run the command line, and exit."""
    stdio.fill()  # before any other file is opened
    # read when torch is loaded: where other work has the cores, threads that wait for one another sleep and do not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interrupts.Listener().install()  # to the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is spelled out, and no error
            stream.reconfigure(errors="backslashreplace")
    try:
        from zprime.cli import main as command_line

        command_line()
    except (MemoryError, ImportError) as error:
        if memory.ran_out(error) is None:
            raise
        memory.give_up()


if __name__ == "__main__":
    main()

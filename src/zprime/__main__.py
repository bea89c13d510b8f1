"""zprime, and python -m zprime: signals are heard before anything that takes time is loaded."""

from typing import NoReturn

from zprime import interrupts


def main() -> NoReturn:
    """Run the command line, and exit."""
    interrupts.Listener().install()  # to the end of the process
    from zprime.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

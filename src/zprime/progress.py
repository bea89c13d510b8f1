"""How long operations tell how far they are."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) by every long operation."""


def silent(what: str, done: int, total: int) -> None:
    """Show nothing: the default `Progress`."""

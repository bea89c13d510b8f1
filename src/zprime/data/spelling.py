"""How numbers, and what stands for nothing, are spelled in text from outside."""

import re
from collections.abc import Iterable, Sequence

from zprime.errors import ArrayError

NOTHING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""What tables write, in small or capital letters, where nothing is known."""
MISSING = (*NOTHING, "inf", "+inf", "-inf", "infinity")
"""The same where a number is missing."""
WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
"""Python refuses to read whole numbers of thousands of digits."""


def number(text: str) -> float:
    """A number in the digits 0 to 9.

    Raises:
        ValueError: it is none. Python's own `float` also takes `4_5` as 45, and the digits of other scripts.
    """
    if "_" in text or not text.strip().isascii():
        raise ValueError(f"expected a number, got {text!r}")
    return float(text)


def is_number(text: str) -> bool:
    """Whether text is a number in the digits 0 to 9."""
    try:
        number(text)
    except ValueError:
        return False
    return True


def no_odd_number(texts: Sequence[str]) -> bool:
    """Whether Python's `float` takes none of these texts for a number that it is not."""
    together = "".join(texts)
    return (together.isascii() and "_" not in together) or all(map(is_number, texts))


def is_nothing(text: str) -> bool:
    """Whether text stands for nothing: a label, or a name, that is missing."""
    return text.strip().lower() in NOTHING


def whole(texts: Iterable[str]) -> dict[str, int] | None:
    """The whole number of each text, None where one of them is no whole number."""
    different = set(texts)
    return {text: int(text) for text in different} if all(map(WHOLE.fullmatch, different)) else None


def check_spelled_once(where: str, what: str, texts: Sequence[str]) -> None:
    """Raise `ArrayError` where all are whole numbers, and one is spelled in two ways: `01` and `1`.

    Args:
        where: they stand, for the error.
        what: each of them is.
        texts: as they are spelled.
    """
    first: dict[int, str] = {}
    for text, value in sorted((whole(texts) or {}).items()):
        if first.setdefault(value, text) != text:
            raise ArrayError(
                f"{where}: expected one spelling of each {what}, got {first[value]!r} and {text!r}; spell them alike "
                "if they are the same, or give them names that are no numbers"
            )

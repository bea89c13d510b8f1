"""What a section of the report is: the contract that every file of a section fills in once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from matplotlib.figure import Figure

from zprime.results.audit import Audit
from zprime.tables import Table

Sentence = str | tuple[str, str]
"""A sentence, or what it is about and the sentence."""


def nothing(audit: Audit) -> list[Any]:
    """No sentences, no tables."""
    return []


def say(text: Callable[[Audit], str] | str, audit: Audit) -> str:
    """A text that may depend on the audit."""
    return text if isinstance(text, str) else text(audit)


@runtime_checkable
class Extra(Protocol):
    """What a template of its own shows; None where there is nothing."""

    def __call__(self, audit: Audit) -> Any:
        """Made of the audit."""
        ...


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        draw: makes it, or returns None where there is nothing to draw.
        alt: what it shows, for those who cannot see it.
        said: whether `alt` stands below it, for everybody.
    """

    draw: Callable[[Audit], Figure | None]
    alt: Callable[[Audit], str] | str
    said: bool = True


@dataclass(frozen=True)
class Fold:
    """Sentences that are folded away under a title."""

    title: str
    sentences: Callable[[Audit], Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Section:
    """One section of the page, and what a terminal shows of it.

    It is left out where the field is None, or where it has nothing to show.

    Attributes:
        name: its anchor on the page.
        title: its heading.
        field: of the audit, that it tells of; empty for the whole audit.
        sentences: what its numbers say.
        fold: longer sentences, folded away.
        drawings: its figures.
        tables: what is shown below them.
        sorts: whether a click on a heading sorts these tables.
        note: what one must know to read them.
        numbers: whether all numbers of the field follow, as its docstrings tell of them, folded away.
        template: of its content, in `templates`.
        extra: what that template needs beside the audit.
        summary: its table in the terminal after every audit, in so many columns.
        details: whether `zprime report` prints its sentences or tables.
    """

    name: str
    title: str
    field: str = ""
    sentences: Callable[[Audit], Sequence[Sentence]] = nothing
    fold: Fold | None = None
    drawings: tuple[Drawing, ...] = ()
    tables: Callable[[Audit], Sequence[Table]] = nothing
    sorts: bool = False
    note: Callable[[Audit], str] | str = ""
    numbers: bool = False
    template: str = "section.html.j2"
    extra: Extra | None = None
    summary: Callable[[Audit, int], Table | None] | None = None
    details: bool = False

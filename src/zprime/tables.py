"""One model of a table, for the terminal, a notebook, a page, plain text and Markdown.

A cell has its text, a shorter one for terminals, what it sorts by, and a sentence that explains it. Code that makes a
table says nothing of how it is shown; the functions here, and the templates of the report, show it, and escape it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING

from zprime.escape import visible, visible_lines

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NONE = "–"
"""What was not measured."""


@dataclass(frozen=True)
class Bar:
    """An interval in a strip that is `WIDTH` wide.

    Attributes:
        low, high, value, zero: places in the strip, from 0 to `WIDTH`.
        left, right: whether the value lies beyond that end of the strip.
    """

    low: float
    high: float
    value: float
    zero: float
    left: bool
    right: bool


WIDTH = 130
"""Of the strip that a `Bar` is drawn in."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it shows.
        why: the sentence behind it; a page shows it when it is asked.
        key: what it sorts by; None for what was not measured, which comes last.
        short: its text in a terminal; default `text`.
        bar: what is drawn in it instead, on a page.
    """

    text: str
    why: str = ""
    key: int | float | str | None = None
    short: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: to pick it by.
        heading: over the column.
        short: the heading in a terminal; default `heading`.
        numeric: whether it holds numbers: set to the right in a terminal, and never broken into lines.
        page_only: whether a terminal leaves it out.
    """

    name: str
    heading: str
    short: str = ""
    numeric: bool = True
    page_only: bool = False


class Style(StrEnum):
    """What a row stands out by."""

    PLAIN = ""
    CHOSEN = "chosen"
    ITSELF = "itself"
    """A distribution itself, below its candidate: dim, and set in."""
    SHOWN = "shown"
    """For information only: dim."""
    CONTROL = "control"
    """Beside the candidates: dim."""


@dataclass(frozen=True)
class Row:
    """One row; its first cell is its name."""

    cells: Sequence[Cell]
    style: Style = Style.PLAIN

    @property
    def name(self) -> str:
        """What its first cell says."""
        return self.cells[0].text


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: above it.
        columns: one for each cell of a row.
        rows: all rows.
        note: below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""

    def pick(self, *names: str) -> "Table":
        """The columns of these names, in this order."""
        places = [[c.name for c in self.columns].index(n) for n in names]
        rows = [replace(r, cells=[r.cells[i] for i in places]) for r in self.rows]
        return replace(self, columns=[self.columns[i] for i in places], rows=rows)

    def named(self, **headings: str) -> "Table":
        """The same with other headings: name of a column = heading."""
        return replace(
            self, columns=[replace(c, heading=headings.get(c.name, c.heading), short="") for c in self.columns]
        )


def facts(title: str, pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values, without headings."""
    columns = [Column("name", "", numeric=False), Column("value", "", numeric=False)]
    return Table(title, columns, [Row([Cell(name), Cell(str(value))]) for name, value in pairs])


def to_text(table: Table) -> str:
    """Plain text in columns, without title and note."""
    texts = [[c.heading for c in table.columns], *([c.text for c in r.cells] for r in table.rows)]
    cells = [[visible(text) for text in line] for line in texts]
    widths = [max(len(line[j]) for line in cells) for j in range(len(table.columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def to_markdown(table: Table) -> str:
    """A table of Markdown, without title and note, of texts that are Markdown; the chosen row's name is bold."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(visible(c).replace('|', chr(92) + '|') for c in cells)} |"

    lines = [line(c.heading for c in table.columns), line("---" for _ in table.columns)]
    for row in table.rows:
        name, *others = (c.text for c in row.cells)
        lines.append(line([f"**{name}**" if row.style is Style.CHOSEN else name, *others]))
    return "\n".join(lines)


def to_html(table: Table) -> str:
    """For a notebook: without script, in the notebook's own colours; everything is escaped."""

    def safe(text: str) -> str:
        return escape(visible(text))

    def line(row: Row) -> str:
        weight = "bold" if row.style is Style.CHOSEN else "normal"
        name = f'<th scope="row" style="text-align:left;font-weight:{weight}">{safe(row.name)}</th>'
        cells = "".join(f'<td style="text-align:left;font-weight:{weight}">{safe(c.text)}</td>' for c in row.cells[1:])
        return f"<tr>{name}{cells}</tr>"

    head = "".join(f'<th scope="col" style="text-align:left">{safe(c.heading)}</th>' for c in table.columns)
    with_head = any(c.heading for c in table.columns)
    return (
        f"<div><strong>{safe(table.title)}</strong><table>{f'<thead><tr>{head}</tr></thead>' if with_head else ''}"
        f"<tbody>{''.join(map(line, table.rows))}</tbody></table></div>"
    )


MARKS = {Style.CHOSEN: "▶ ", Style.ITSELF: "  "}
RICH = {Style.CHOSEN: "bold", Style.ITSELF: "dim", Style.SHOWN: "dim", Style.CONTROL: "dim", Style.PLAIN: ""}
NARROWEST = 12


def to_rich(table: Table, width: int) -> "RichTable":
    """For a terminal of `width` columns. Long names give way to the numbers: they take several lines."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    table = table.pick(*(c.name for c in table.columns if not c.page_only))
    heads = [visible(c.short or c.heading) for c in table.columns]
    names = [MARKS.get(r.style, "") + visible(r.name) for r in table.rows]
    numbers = [[visible(c.short or c.text) for c in r.cells[1:]] for r in table.rows]
    taken = sum(max(len(head), *(len(n[j]) for n in numbers), 0) for j, head in enumerate(heads[1:]))
    longest = max([len(heads[0]), *map(len, names)])
    between = 2 if width - taken - 2 * len(heads) >= longest else 1  # 2: the blanks at both ends, and one less between
    room = max(width - taken - between * (len(heads) - 1) - 2, NARROWEST)
    rich_table = RichTable(
        title=Text(visible(table.title), style="table.title") if table.title else None,
        caption=Text(visible_lines(table.note), style="table.caption") if table.note else None,
        box=SIMPLE_HEAD,
        padding=(0, between - 1, 0, 0),
        pad_edge=False,
        show_header=any(heads),
    )
    rich_table.add_column(Text(heads[0]), max_width=room, overflow="fold")
    for column, head in zip(table.columns[1:], heads[1:], strict=True):
        rich_table.add_column(Text(head), justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row, name, cells in zip(table.rows, names, numbers, strict=True):
        rich_table.add_row(Text(_broken(name, room)), *map(Text, cells), style=RICH[row.style])
    return rich_table


def _broken(name: str, room: int) -> str:
    """A name on lines of `room` columns: what a candidate is mixed with on its own, and so what is in brackets."""
    if len(name) <= room:
        return name
    cut = name.rfind(" + ")
    first, rest = (name, "") if cut < 0 else (name[:cut], f"\n   {name[cut:]}")
    bracket = first.find("(")
    if len(first) > room and bracket > 0:
        first = f"{first[:bracket]}\n    {first[bracket:]}"
    return first + rest

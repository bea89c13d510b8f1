"""A table of numbers in a .csv file."""

import csv
import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from zprime.data.blocks import gathered, rows_at_once
from zprime.data.source import Array, Reader, Source, file_named, in_one_line
from zprime.data.spelling import MISSING, is_nothing, is_number, no_odd_number, whole
from zprime.errors import ArrayError

LABEL = "label"
"""The column that holds labels."""
MEANT = re.compile(r"[+-]?[.,]?\d[\d.,:/+ _-]*(e[+-]?[\d_]*)?", re.IGNORECASE)
"""Text that was meant as a number, or a date: `1.2.3`, `1,5`, `4_5`, `2.5e`, `2020-01-31`."""
TOGETHER = 1 << 16
"""Characters that are read at once."""

SEMICOLONS = "put commas between the columns, and points before decimals"


def read_csv(path: Path, aside: Collection[str] = ()) -> Source:
    """Numbers with commas between them, a line a datum; a column named `label` holds the labels, numbers or text.

    A first line in which no cell is a number names the columns, and so does 0, 1, 2, ..., as pandas writes columns
    without names. A first line of numbers and names is refused, and so is one in which all numbers are missing: it may
    be a row. Blank lines are left out. Only a block of lines is in memory at a time, if the rows are large.

    Args:
        path: the file.
        aside: columns, numbers or text, that are no part of the rows but columns of the source, where there are any of
            these names.

    Raises:
        ArrayError: no rows, lines of different lengths, cells that are no finite numbers, columns without a name or
            with the same one, a file that is not UTF-8 or has an open quote.
    """
    table = _Table(path, [in_one_line(name) for name in aside])
    x = gathered(table.parts())
    if x is None:
        raise ArrayError(f"{path}: expected rows of numbers, got {'only a header' if table.width else 'an empty file'}")
    table.check_texts()
    names, texts = table.names, table.texts
    return Source(
        path.stem,
        x,
        numbered(texts[table.at]) if table.at >= 0 else None,
        columns={names[i]: numbered(text) for i, text in texts.items() if names[i] in table.aside},
        names=tuple(name for i, name in enumerate(names) if i not in texts),
        lines=np.array(table.lines),
    )


class _Table:
    """A file that is read a block of rows at a time.

    Attributes:
        path: the file.
        aside: columns that are no part of the rows, by their names.
        width: columns; 0 before the first line.
        names: of all columns; none without a header.
        texts: position of a column that is no part of the rows -> its cells.
        at: position of the labels' column; -1 without labels.
        lines: number of each row's line in the file.
    """

    def __init__(self, path: Path, aside: Sequence[str]) -> None:
        self.path, self.aside = path, aside
        self.width, self.at, self.names, self.lines = 0, -1, list[str](), array("q")
        self.texts: dict[int, list[str]] = {}
        self._spelled: dict[str, str] = {}  # of equal cells one is kept

    def parts(self) -> Iterator[Array]:
        """The rows, float64, without the columns that are no part of them.

        Raises:
            ArrayError: a line that cannot be used.
        """
        path, values = self.path, array("d")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                read = _Lines(file)
                reader = csv.reader(read, strict=True)
                for cells in filter(None, reader):
                    if not self._is_row(cells, reader.line_num):
                        continue
                    for i, text in self.texts.items():
                        cell = cells[i].strip()
                        text.append(self._spelled.setdefault(cell, cell))
                        cells[i] = "0"
                    if read.odd and not no_odd_number(cells):
                        raise _no_number(path, reader.line_num, cells)
                    try:
                        values.extend(map(float, cells))
                    except ValueError:
                        raise _no_number(path, reader.line_num, cells) from None
                    self.lines.append(reader.line_num)
                    if len(values) >= self.width * rows_at_once((self.width,)):
                        yield self._finite(values)
                        values = array("d")
        except UnicodeDecodeError as error:
            raise ArrayError(
                f"{path}: not a readable .csv file in UTF-8 ({error}); save it with the encoding UTF-8"
            ) from error
        except csv.Error as error:
            raise ArrayError(
                f"{path}, line {reader.line_num}: not a readable .csv file ({error}); look for a quote that is not "
                "closed, or a cell that holds something else than a number, a name or a label"
            ) from error
        except OSError as error:
            raise ArrayError(f"{path}: cannot be read ({error.strerror})") from error
        if values:
            yield self._finite(values)

    def _is_row(self, cells: list[str], line: int) -> bool:
        """Whether a line is no header; the first one says how many columns there are, and what they are called."""
        if not self.width:
            self.width = len(cells)
            if not all(map(is_number, cells)):
                self._take_names(cells, f"{self.path}, line {line}")
                return False
            if self.width > 2 and cells == [str(i) for i in range(self.width)]:
                return False
        if len(cells) != self.width:
            raise ArrayError(
                f"{self.path}, line {line}: expected {self.width} cells, as in the first line, got {len(cells)}"
                f"{_comma_hint(len(cells), self.width)}"
            )
        return True

    def _take_names(self, cells: list[str], where: str) -> None:
        self.names = names = _names(cells, where)
        self.at = _labels_among(names, where)
        self.texts = {i: [] for i, name in enumerate(names) if name == LABEL or name in self.aside}
        if len(self.texts) > len({names[i] for i in self.texts}) or len(self.texts) == self.width:
            raise ArrayError(
                f"{self.path}: expected one column named {', one named '.join(self.aside)} beside others, got "
                f"{', '.join(names)}"
            )
        _check_different(names, where)

    def _finite(self, values: "array[float]") -> Array:
        """The last lines as rows, where all cells are finite."""
        x = np.frombuffer(values, np.float64).reshape(-1, self.width)
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            row, column = bad[0]
            line = self.lines[len(self.lines) - len(x) + row]
            raise ArrayError(
                f"{self.path}, line {line}, column {column + 1}: expected a finite number, got {x[row, column]:g}; "
                "fill it in, or leave the line out"
            )
        return np.delete(x, list(self.texts), axis=1)

    def check_texts(self) -> None:
        """Raise `ArrayError` where a cell beside the rows holds nothing."""
        for i, text in self.texts.items():
            nothing = set(filter(is_nothing, set(text)))
            if nothing:
                empty = next(at for at, cell in enumerate(text) if cell in nothing)
                what = "a label" if i == self.at else f"a value of {self.names[i]}"
                raise ArrayError(
                    f"{self.path}, line {self.lines[empty]}, column {i + 1}: expected {what}, got {text[empty]!r}; "
                    "fill it in, leave the line out, or write it in another way if it is a name"
                )


class _Lines:
    """The lines of a file, many of them read at once.

    Attributes:
        odd: whether those lines have anything that makes `float` take what is no number, such as `4_5`. To look at many
            lines at once costs next to nothing.
    """

    def __init__(self, file: TextIO) -> None:
        self.odd, self._file = False, file

    def __iter__(self) -> Iterator[str]:
        """Each line. A row over several lines has a quote in its last one, so none escapes."""
        while lines := self._file.readlines(TOGETHER):
            text = "".join(lines)
            self.odd = not text.isascii() or "_" in text or '"' in text
            yield from lines


def _names(cells: Sequence[str], where: str) -> list[str]:
    """A first line with text in it as names of columns; refused where it may be a row.

    Raises:
        ArrayError: it holds numbers, text that was meant as a number, or nothing but words for missing values.
    """
    names = [in_one_line(cell) for cell in cells]
    unseen = next((i for i, name in enumerate(names) if not name.isprintable()), None)
    if unseen is not None:
        raise ArrayError(f"{where}, column {unseen + 1}: expected a name that can be printed, got {names[unseen]!r}")
    number = next((name for name in names if _stands_for_one(name)), None)
    if number is None and "" in names:
        raise ArrayError(
            f"{where}, column {names.index('') + 1}: expected a name, or a number if the file has no header, got "
            "an empty cell; leave a column of row numbers out (pandas: to_csv(index=False))"
        )
    if number is not None or all(name.lower() in MISSING for name in names):
        column = next((i for i, name in enumerate(names) if name.lower() in MISSING or not is_number(name)), 0)
        if ";" in "".join(cells):
            advice = SEMICOLONS
        else:
            rule = "not all may be words for missing values" if number is None else f"none may be a number ({number!r})"
            advice = (
                "if this line is a row, correct that cell or leave the line out; if it holds the names of the columns, "
                f"{rule}"
            )
        raise ArrayError(
            f"{where}, column {column + 1}: expected numbers alone, or names alone, got {names[column][:40]!r} beside "
            f"others; {advice}"
            if len(names) > 1
            else f"{where}: expected a number or a name, got {names[column][:40]!r}; {_advice(names[column])}"
        )
    return names


def _stands_for_one(name: str) -> bool:
    """Whether text is a number, or was meant as one; a word for a missing number is none."""
    return name.lower() not in MISSING and (is_number(name) or MEANT.fullmatch(name) is not None)


def _labels_among(names: list[str], where: str) -> int:
    """Position of the labels among the named columns, -1 if there are none."""
    if names.count(LABEL) > 1 or names == [LABEL]:
        raise ArrayError(f"{where}: expected one column named {LABEL} beside others, got {', '.join(names)}")
    return names.index(LABEL) if LABEL in names else -1


def _check_different(names: Sequence[str], where: str) -> None:
    """Refuse two columns of one name."""
    for i, name in enumerate(names):
        first = names.index(name)
        if first < i:
            raise ArrayError(
                f"{where}: expected a different name for each column, got {name!r} in columns {first + 1} "
                f"and {i + 1}; rename one, or leave it out"
            )


def _comma_hint(cells: int, width: int) -> str:
    """What may be the cause where a line has too many cells."""
    return "; decimals need a point, not a comma, and text with commas needs quotes" if cells > width else ""


def _no_number(path: Path, line: int, cells: list[str]) -> ArrayError:
    """What is wrong with the first cell of a line that is no number, and what to do."""
    column, cell = next((i, c) for i, c in enumerate(cells, 1) if not is_number(c))
    what = repr(cell[:40]) if cell.strip() else "an empty cell"
    return ArrayError(f"{path}, line {line}, column {column}: expected a number, got {what}; {_advice(cell)}")


def _advice(cell: str) -> str:
    """What to do about a cell that is no number."""
    word = cell.strip()
    if word.lower() in MISSING:
        return "fill it in, or leave the line out"
    if ";" in word or "\t" in word:
        return SEMICOLONS
    if re.fullmatch(r"[+-]?\d*,\d+", word):
        return f"write decimals with a point ({word.replace(',', '.')})"
    if MEANT.fullmatch(word):
        return "correct it, or leave the line out"
    return f"leave the column out, name it {LABEL} if it holds labels, or encode it"


def numbered(cells: list[str]) -> Array:
    """Cells as whole numbers where all of them are, and none is spelled in two ways; else as text."""
    numbers = whole(cells)
    if numbers is None or len(set(numbers.values())) < len(numbers):
        return np.array(cells)
    try:
        return np.array([numbers[cell] for cell in cells], dtype=np.int64)
    except OverflowError:
        return np.array(cells)


CSV = Reader("a .csv file", f"numbers; a column named {LABEL} holds labels", file_named(".csv"), read_csv, read_csv)

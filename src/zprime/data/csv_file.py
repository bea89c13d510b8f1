"""A table of numbers in a .csv file."""

import csv
import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

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
    be a row. Blank lines are left out.

    Args:
        path: the file.
        aside: columns, numbers or text, that are no part of the rows but columns of the source, where there are any of
            these names.

    Raises:
        ArrayError: no rows, lines of different lengths, cells that are no finite numbers, columns without a name or
            with the same one, a file that is not UTF-8 or has an open quote.
    """
    aside = [in_one_line(name) for name in aside]
    values, lines, width, names = array("d"), array("q"), 0, list[str]()
    texts: dict[int, list[str]] = {}  # position of a column that is no part of the rows -> its cells
    at = -1  # position of the labels' column
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            read = _Lines(file)
            reader = csv.reader(read, strict=True)
            for cells in filter(None, reader):
                if not width:
                    width = len(cells)
                    if not all(map(is_number, cells)):
                        names = _names(cells, f"{path}, line {reader.line_num}")
                        at = _labels_among(names, f"{path}, line {reader.line_num}")
                        texts = {i: [] for i, name in enumerate(names) if name in (LABEL, *aside)}
                        if len(texts) > len({names[i] for i in texts}) or len(texts) == width:
                            raise ArrayError(
                                f"{path}: expected one column named {', one named '.join(aside)} beside others, got "
                                f"{', '.join(names)}"
                            )
                        _check_different(names, f"{path}, line {reader.line_num}")
                        continue
                    if width > 2 and cells == [str(i) for i in range(width)]:
                        continue
                if len(cells) != width:
                    raise ArrayError(
                        f"{path}, line {reader.line_num}: expected {width} cells, as in the first line, got "
                        f"{len(cells)}{_comma_hint(len(cells), width)}"
                    )
                for i, text in texts.items():
                    text.append(cells[i].strip())
                    cells[i] = "0"
                if read.odd and not no_odd_number(cells):
                    raise _no_number(path, reader.line_num, cells)
                try:
                    values.extend(map(float, cells))
                except ValueError:
                    raise _no_number(path, reader.line_num, cells) from None
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise ArrayError(
            f"{path}: not a readable .csv file in UTF-8 ({error}); save it with the encoding UTF-8"
        ) from error
    except csv.Error as error:
        raise ArrayError(
            f"{path}, line {reader.line_num}: not a readable .csv file ({error}); look for a quote that is not closed, "
            "or a cell that holds something else than a number, a name or a label"
        ) from error
    except OSError as error:
        raise ArrayError(f"{path}: cannot be read ({error.strerror})") from error
    if not lines:
        raise ArrayError(f"{path}: expected rows of numbers, got {'only a header' if width else 'an empty file'}")
    x = np.frombuffer(values, np.float64).reshape(len(lines), width)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, at_fault = bad[0]
        raise ArrayError(
            f"{path}, line {lines[row]}, column {at_fault + 1}: expected a finite number, got {x[row, at_fault]:g}; "
            "fill it in, or leave the line out"
        )
    for i, text in texts.items():
        nothing = set(filter(is_nothing, set(text)))
        if nothing:
            empty = next(at for at, cell in enumerate(text) if cell in nothing)
            what = "a label" if i == at else f"a value of {names[i]}"
            raise ArrayError(
                f"{path}, line {lines[empty]}, column {i + 1}: expected {what}, got {text[empty]!r}; fill it in, "
                "leave the line out, or write it in another way if it is a name"
            )
    return Source(
        path.stem,
        np.delete(x, list(texts), axis=1),
        _numbered(texts[at]) if at >= 0 else None,
        columns={names[i]: _numbered(text) for i, text in texts.items() if names[i] in aside},
        names=tuple(name for i, name in enumerate(names) if i not in texts),
        lines=np.array(lines),
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


def _numbered(cells: list[str]) -> Array:
    """Cells as whole numbers where all of them are, and none is spelled in two ways; else as text."""
    numbers = whole(cells)
    if numbers is None or len(set(numbers.values())) < len(numbers):
        return np.array(cells)
    try:
        return np.array([numbers[cell] for cell in cells], dtype=np.int64)
    except OverflowError:
        return np.array(cells)


CSV = Reader("a .csv file", f"numbers; a column named {LABEL} holds labels", file_named(".csv"), read_csv, read_csv)

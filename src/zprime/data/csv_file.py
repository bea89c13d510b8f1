"""A table of numbers in a .csv file."""

import csv
from array import array
from collections.abc import Collection
from pathlib import Path

import numpy as np

from zprime.data.source import Array, Reader, Source, file_named
from zprime.errors import ArrayError

LABEL = "label"
"""The column that holds labels."""


def read_csv(path: Path, aside: Collection[str] = ()) -> Source:
    """Numbers with commas between them, a line a datum; a column named `label` holds the labels, numbers or text.

    A first line with a cell that is no number names the columns, and so does 0, 1, 2, ..., as pandas writes columns
    without names. Blank lines are left out.

    Args:
        path: the file.
        aside: columns, numbers or text, that are no part of the rows but columns of the source, where there are any of
            these names.

    Raises:
        ArrayError: no rows, lines of different lengths, cells that are no finite numbers, columns without a name.
    """
    values, lines, width, names = array("d"), array("q"), 0, list[str]()
    texts: dict[int, list[str]] = {}  # position of a column that is no part of the rows -> its cells
    at = -1  # position of the labels' column
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in filter(None, reader):
                if not width:
                    width = len(cells)
                    if not all(map(_is_number, cells)):
                        names = [name.strip() for name in cells]
                        at = _labels_among(names, f"{path}, line {reader.line_num}")
                        texts = {i: [] for i, name in enumerate(names) if name in (LABEL, *aside)}
                        if len(texts) > len({names[i] for i in texts}) or len(texts) == width:
                            raise ArrayError(
                                f"{path}: expected one column named {', one named '.join(aside)} beside others, got "
                                f"{', '.join(names)}"
                            )
                        continue
                    if width > 2 and cells == [str(i) for i in range(width)]:
                        continue
                if len(cells) != width:
                    raise ArrayError(
                        f"{path}, line {reader.line_num}: expected {width} cells, as in the first line, got "
                        f"{len(cells)}"
                    )
                for i, text in texts.items():
                    text.append(cells[i].strip())
                    cells[i] = "0"
                try:
                    values.extend(map(float, cells))
                except ValueError:
                    raise _no_number(path, reader.line_num, cells) from None
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ArrayError(f"{path}: not a readable .csv file in UTF-8 ({error})") from error
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
        empty = next((line for line, cell in enumerate(text) if cell.lower() in ("", "nan")), None)
        if empty is not None:
            what = "a label" if i == at else f"a value of {names[i]}"
            raise ArrayError(
                f"{path}, line {lines[empty]}, column {i + 1}: expected {what}, got {text[empty]!r}; fill it in, or "
                "leave the line out"
            )
    return Source(
        path.stem,
        np.delete(x, list(texts), axis=1),
        _numbered(texts[at]) if at >= 0 else None,
        columns={names[i]: _numbered(text) for i, text in texts.items() if names[i] in aside},
        names=tuple(name for i, name in enumerate(names) if i not in texts),
        lines=np.array(lines),
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _labels_among(names: list[str], where: str) -> int:
    """Position of the labels among the named columns, -1 if there are none."""
    if "" in names:
        raise ArrayError(
            f"{where}, column {names.index('') + 1}: expected a name, or a number if the file has no header, got "
            "an empty cell; leave a column of row numbers out (pandas: to_csv(index=False))"
        )
    if names.count(LABEL) > 1 or names == [LABEL]:
        raise ArrayError(f"{where}: expected one column named {LABEL} beside others, got {', '.join(names)}")
    return names.index(LABEL) if LABEL in names else -1


def _no_number(path: Path, line: int, cells: list[str]) -> ArrayError:
    """What is wrong with the first cell of a line that is no number, and what to do."""
    column, cell = next((i, c) for i, c in enumerate(cells, 1) if not _is_number(c))
    if not cell.strip():
        what, advice = "an empty cell", "fill it in, or leave the line out"
    elif len(cells) == 1 and (";" in cell or "\t" in cell):
        what, advice = repr(cell[:40]), "put commas between the columns, and points before decimals"
    else:
        what, advice = repr(cell[:40]), f"leave the column out, name it {LABEL} if it holds labels, or encode it"
    return ArrayError(f"{path}, line {line}, column {column}: expected a number, got {what}; {advice}")


def _numbered(labels: list[str]) -> Array:
    """Labels as whole numbers where all of them are, else as text."""
    try:
        return np.array([int(label) for label in labels], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(labels)


CSV = Reader("a .csv file", f"numbers; a column named {LABEL} holds labels", file_named(".csv"), read_csv, read_csv)

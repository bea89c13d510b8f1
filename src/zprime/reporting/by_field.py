"""Any dataclass of estimates as tables, explained by its docstring: all numbers of a section of the report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from zprime.reporting.numbers import attributes
from zprime.results.audit import Audit
from zprime.results.names import Gain
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import explained
from zprime.tables import NONE, Cell, Column, Row, Table

MOST = 40
"""Rows of a table of single numbers, at most; longer tables are left out."""

ASIDE = frozenset(("seed", "verdict", "name", "label", "source", "id", "copied"))
"""Fields that are told elsewhere: the seed behind each number, a verdict at the top, a name at the head of its row, and
ids of training rows, which no public page shows."""

OWN_NAMES = "averages"
"""The field whose members may be called as fits are, but are none of them."""


def numbers(audit: Audit, field: str) -> list[Table]:
    """All numbers of one field of the audit; rows are called as in the table of gains."""
    tables = tables_of(getattr(audit, field), attributes(Audit).get(field, ""))
    if field == OWN_NAMES:
        return tables
    titles = {str(e.id): e.title for e in audit.entries}
    return [dataclasses.replace(t, rows=[_renamed(r, titles) for r in t.rows]) for t in tables]


def about(field: str) -> str:
    """What the audit's docstring says of a field."""
    return attributes(Audit).get(field, "")


def _renamed(row: Row, titles: Mapping[str, str]) -> Row:
    return Row([Cell(titles.get(row.name, row.name)), *row.cells[1:]], row.style)


def tables_of(value: Any, says: str) -> list[Table]:
    """One table of the values, and one for every table inside."""
    if isinstance(value, Mapping):
        return _of_mapping(value, says)
    if isinstance(value, list | tuple):
        return _of_mapping({_name_of(v, i): v for i, v in enumerate(value)}, says)
    if not _is_section(value):
        return _of_mapping({"": value}, says)
    told = attributes(type(value))
    single: list[tuple[str, list[Cell]]] = []
    inside: list[Table] = []
    for f in dataclasses.fields(value):
        inner, about_it = getattr(value, f.name), told.get(f.name, "")
        if f.name in ASIDE:
            continue
        if _is_section(inner) or isinstance(inner, Mapping | list | tuple):
            inside += _called(words(f.name), tables_of(inner, about_it))
        elif inner is not None and inner != "":
            single.append((words(f.name), [_cell(inner, about_it)]))
    return ([_table(["value"], single)] if single else []) + inside


def words(name: str) -> str:
    """The name of a field as a heading."""
    if name in set(Gain):
        gain = Gain(name).words
        return gain[0].upper() + gain[1:]
    return SPELLED.get(name, name.replace("_", " ").capitalize())


SPELLED = {"tstr": "TSTR", "kl": "KL", "ks": "KS", "mmd": "MMD", "c2st": "C2ST", "z_u": "Z_U", "c_t": "C_T"}


def _table(headings: list[str], rows: list[tuple[str, list[Cell]]]) -> Table:
    columns = [Column("", "", numeric=False), *(Column(h, h) for h in headings)]
    return Table("", columns, [Row([Cell(name), *cells]) for name, cells in rows])


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Estimate | type)


def _name_of(value: Any, i: int) -> str:
    """The name of an item of a list."""
    return next((str(getattr(value, k)) for k in ("id", "label", "name", "source") if hasattr(value, k)), str(i + 1))


def _called(title: str, tables: list[Table]) -> list[Table]:
    return [dataclasses.replace(t, title=": ".join(filter(None, (title, t.title)))) for t in tables if t.rows]


def _of_mapping(value: Mapping[Any, Any], says: str) -> list[Table]:
    """Name -> estimate gives one column, name -> mapping a column a key, name -> dataclass a column a field.

    What does not fit a cell becomes a table of its own, with the same rows.
    """
    value = {str(k): v for k, v in value.items() if v is not None}
    first: Any = next(iter(value.values()), None)
    if _is_section(first):
        return _of_sections(value)
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(n for v in value.values() for n in v))
        if all(_fits(x) for v in value.values() for x in v.values()):
            headings = [n.words if isinstance(n, Gain) else str(n) for n in names]
            return [_table(headings, [(k, [_cell(v.get(n), says) for n in names]) for k, v in value.items()])]
        return [t for n in names for t in _called(str(n), _of_mapping({k: v.get(n) for k, v in value.items()}, says))]
    rows = [(k, [_cell(v, says)]) for k, v in value.items() if _fits(v)]
    return [_table(["value"], rows)] if rows and len(rows) <= MOST else []


def _of_sections(value: Mapping[str, Any]) -> list[Table]:
    first = next(iter(value.values()))
    told = attributes(type(first))
    single: list[str] = []
    inside: list[Table] = []
    for f in dataclasses.fields(first):
        cells = {k: getattr(v, f.name) for k, v in value.items()}
        if f.name in ASIDE or all(c is None for c in cells.values()):
            continue
        if all(_fits(c) for c in cells.values()):
            single.append(f.name)
        elif not any(isinstance(c, list | tuple) for c in cells.values()):
            inside += _called(words(f.name), _of_mapping(cells, told.get(f.name, "")))
    rows = [(k, [_cell(getattr(v, n), told.get(n, "")) for n in single]) for k, v in value.items()]
    return ([_table([words(n) for n in single], rows)] if single else []) + inside


def _fits(value: Any) -> bool:
    return value is None or isinstance(value, Estimate | str | bool | int | float)


def _cell(value: Any, says: str) -> Cell:
    if isinstance(value, Estimate):
        return explained(value, says or value.unit, plain=True)
    why = says.rstrip(".") + "." if says else ""
    if value is None:
        return Cell(NONE, why)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", why, float(value))
    if isinstance(value, float):
        return Cell(f"{value:.4g}" if math.isfinite(value) else str(value), why, value)
    if isinstance(value, int):
        return Cell(f"{value:,}", why, value)
    return Cell(str(value) if _fits(value) else "…")

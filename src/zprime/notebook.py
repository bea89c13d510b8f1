"""How results show themselves in a notebook: small pieces of HTML, without script, in the notebook's own colours."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def box(title: str, rows: Iterable[Sequence[Any]], *, heads: Sequence[str] = (), bold: str = "") -> str:
    """A title and a table, the first cell of each row its name; everything is escaped. The row named `bold` is bold."""

    def line(row: Sequence[Any]) -> str:
        weight = "bold" if bold and row[0] == bold else "normal"
        name = f'<th scope="row" style="text-align:left;font-weight:{weight}">{escape(str(row[0]))}</th>'
        cells = "".join(f'<td style="text-align:left;font-weight:{weight}">{escape(str(v))}</td>' for v in row[1:])
        return f"<tr>{name}{cells}</tr>"

    head = "".join(f'<th scope="col" style="text-align:left">{escape(h)}</th>' for h in heads)
    body = "".join(line(r) for r in rows)
    return (
        f"<div><strong>{escape(title)}</strong><table>{f'<thead><tr>{head}</tr></thead>' if head else ''}"
        f"<tbody>{body}</tbody></table></div>"
    )

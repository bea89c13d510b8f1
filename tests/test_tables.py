"""One table, shown in every way: the same cells in the terminal, a notebook, plain text and Markdown."""

import io

import pytest
from rich.console import Console

from zprime.tables import Cell, Column, Row, Style, Table, facts, to_html, to_markdown, to_rich, to_text

TABLE = Table(
    "Gains & more",
    [
        Column("name", "z′ from", "z' from", numeric=False),
        Column("gain", "likelihood gain", "likelihood"),
        Column("note", "outcome", numeric=False, page_only=True),
    ],
    [
        Row([Cell("prior"), Cell("+0.00 ± 0.00", short="+0.00±0.00"), Cell("–")]),
        Row([Cell("mixture(20) + 10 % p"), Cell("+2.10 ± 0.11", short="+2.10±0.11"), Cell("[b]fine")], Style.CHOSEN),
        Row([Cell("mixture(20)"), Cell("+2.07 ± 0.13 ?", short="+2.07±0.13?"), Cell("<i>|x")], Style.ITSELF),
        Row([Cell("copies"), Cell("–"), Cell("")], Style.CONTROL),
    ],
    "± one standard error",
)


def terminal(table: Table, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(table, width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [28, 40, 60])
def test_no_name_is_cut(width: int) -> None:
    names = ["aggregated(55000)", "aggregated(55000) + 10 % p", "averages-of-a-very-long-name"]
    rows = [Row([Cell(n), Cell("+0.00±0.00"), Cell("")], Style.ITSELF) for n in names]
    shown = terminal(Table("", TABLE.columns, rows), width)
    assert "…" not in "".join(shown)
    text = "".join("".join(line[:-12].split()) for line in shown)
    for name in names:
        assert "".join(name.split()) in text
    if width == 28:
        assert [" ".join(line.split()) for line in shown[3:5]] == ["aggregated +0.00±0.00", "(55000)"]


def test_text() -> None:
    assert to_text(TABLE.pick("name", "gain")).splitlines() == [
        "z′ from               likelihood gain",
        "prior                 +0.00 ± 0.00",
        "mixture(20) + 10 % p  +2.10 ± 0.11",
        "mixture(20)           +2.07 ± 0.13 ?",
        "copies                –",
    ]


def test_markdown() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "| z′ from | likelihood gain | outcome |",
        "| --- | --- | --- |",
        "| prior | +0.00 ± 0.00 | – |",
        "| **mixture(20) + 10 % p** | +2.10 ± 0.11 | [b]fine |",
        "| mixture(20) | +2.07 ± 0.13 ? | <i>\\|x |",
        "| copies | – |  |",
    ]


def test_notebook_escapes_everything_and_has_the_chosen_row_bold() -> None:
    html = to_html(TABLE)
    assert "<strong>Gains &amp; more</strong>" in html
    assert "&lt;i&gt;|x" in html
    assert "<i>" not in html
    assert html.count("font-weight:bold") == 3
    assert '<th scope="row" style="text-align:left;font-weight:bold">mixture(20) + 10 % p</th>' in html
    assert "<thead>" not in to_html(facts("x", [("a", 1)]))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_terminal_has_every_number_in_its_width(width: int) -> None:
    lines = terminal(TABLE, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    for row in TABLE.rows:
        assert row.cells[1].short in text
    assert "outcome" not in text
    assert "fine" not in text
    assert "▶ mixture(20)" in text
    assert "likelihood gain" not in text
    assert "…" not in text


def test_a_long_name_gives_way_to_the_numbers_at_its_plus() -> None:
    lines = [line.strip() for line in terminal(TABLE, 34)]
    at = next(i for i, line in enumerate(lines) if line.startswith("▶ mixture(20)"))
    assert "+2.10±0.11" in lines[at]
    assert lines[at + 1] == "+ 10 % p"


def test_markup_in_a_name_is_text() -> None:
    assert any("[red]x" in line for line in terminal(facts("t", [("[red]x", "[/]")]), 60))


def test_pick_orders_columns_and_named_renames_them() -> None:
    picked = TABLE.pick("gain", "name").named(gain="gain, nats")
    assert [c.heading for c in picked.columns] == ["gain, nats", "z′ from"]
    assert [r.name for r in picked.rows][:2] == ["+0.00 ± 0.00", "+2.10 ± 0.11"]
    assert picked.rows[1].style is Style.CHOSEN
    with pytest.raises(ValueError, match="is not in list"):
        TABLE.pick("road")

"""The pages, tested on their data: rendered from an audit alone, offline, escaped, the same bytes again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape
from rich.console import Console

import small
from zprime import reporting
from zprime.errors import ArtifactError
from zprime.record import Audit
from zprime.reporting import pictures
from zprime.reporting.latent_side import lines
from zprime.reporting.page import html
from zprime.reporting.table import short, show, size


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("report")
    return small.run(folder / "run", small.table(folder / "table.npz"))[1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit]:
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, small.run(folder, Path("digits"))[1]


def test_page_asks_no_outside_host(digits: tuple[Path, Audit]) -> None:
    page = html(digits[1])
    hosts = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+:?//[^"'\s)]+)""", page))
    assert not hosts
    assert "<script" not in page
    assert "@import" not in page
    assert len(page) < 5_000_000


def test_page_shows_every_grid_and_number(digits: tuple[Path, Audit]) -> None:
    folder, audit = digits
    page = reporting.report(folder).read_text()
    assert page == html(audit)
    assert audit.verdict.sentence.replace("'", "&#39;") in page
    names = ["held-out data", "reconstructions", *(e.label for e in audit.entries if e.eligible)]
    for name in names:
        assert f': {name}"' in page or f'from {name}"' in page.replace("&#39;", "'"), name
    assert page.count("data:image/png;base64") >= len(names)
    for e in audit.entries:
        assert str(e.scores["heldout"]["likelihood"].gain) in page


def test_tables_have_no_picture_grids(made: Audit) -> None:
    page = html(made)
    assert "What comes out" not in page
    assert "The latent space" in page


def test_page_is_the_same_bytes_again(made: Audit) -> None:
    assert html(made) == html(made)


def test_hostile_names_are_escaped(made: Audit) -> None:
    nasty = "<script>alert(1)</script>&'\""
    spoiled = replace(
        made,
        data={**made.data, "name": nasty},
        warnings=[nasty],
        verdict=replace(made.verdict, sentence=nasty, why=[nasty]),
        entries=[replace(e, label=nasty) for e in made.entries],
    )
    page = html(spoiled)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


@pytest.mark.parametrize("width", [80, 120])
def test_latent_side_is_told_on_page_and_terminal(made: Audit, width: int) -> None:
    told = lines(made)
    assert len(told) >= 7
    page = html(made)
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show(made, width=width))
    terminal = console.export_text()
    for name, text in told:
        assert str(escape(name)) in page
        assert str(escape(text)) in page
        for word in (*name.split(), *text.split()):
            assert word in terminal
    assert made.latent_side is not None
    assert made.latent_side.hole is not None
    for b in made.latent_side.hole.bounds:
        assert b.name in page
        assert str(b.estimate) in page
    assert lines(replace(made, latent_side=None)) == []


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_table_holds_what_the_audit_says(made: Audit, width: int) -> None:
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show(made, width=width))
    text = console.export_text()
    assert made.verdict.decision in text
    for e in made.entries:
        assert e.label in text
        assert short(e.scores["heldout"]["likelihood"].gain) in text
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_untrusted_numbers_are_marked(made: Audit) -> None:
    e = made.entries[1].scores["heldout"]["likelihood"].gain
    assert short(replace(e, trusted=False)) == short(replace(e, trusted=True)) + "?"


def test_sizes_in_words() -> None:
    assert [size(n) for n in (0, 999, 1000, 43_120_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "43.1 MB",
        "5.0 GB",
    ]


def test_grid_places_images_in_order() -> None:
    import numpy as np
    import torch

    x = torch.stack([torch.full((1, 2, 3), i / 10) for i in range(5)])
    sheet = np.asarray(pictures.grid(x, columns=3))
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1)
    for i in range(5):
        assert sheet[1 + i // 3 * 3, 1 + i % 3 * 4] == round(255 * i / 10)


def test_no_audit_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected an artefact of kind audit, found no manifest.json"):
        reporting.report(tmp_path)

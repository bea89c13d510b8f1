"""What the commands behind the doc pages compute, and how they write it there."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import small
from zprime.errors import UsageError

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_a_page_gets_what_was_measured_and_keeps_the_rest(example, tmp_path) -> None:
    pages = example("pages")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- make x -->\nold\n<!-- /make x -->\nafter\n")
    for _ in range(2):
        pages.put(page, "make x", pages.table(["a", "b"], [["1", r"\1"]]))
        assert page.read_text() == (
            "before\n<!-- make x -->\n| a | b |\n| --- | --- |\n| 1 | \\1 |\n<!-- /make x -->\nafter\n"
        )
    with pytest.raises(UsageError, match=r"expected the lines <!-- make y --> and <!-- /make y -->, found none"):
        pages.put(page, "make y", "")


def test_the_toys_truth_is_a_density_with_the_priors_moments(example) -> None:
    toy = example("toy")
    z, area = toy.square(toy.SIDE)
    mass = toy.population(z).exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(mass @ z, torch.zeros(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close((mass[:, None] * z).T @ z, torch.eye(2).double(), rtol=0, atol=1e-12)


def test_the_toys_truth_is_what_its_rows_are_drawn_from(example, monkeypatch) -> None:
    toy = example("toy")
    monkeypatch.setattr(toy, "N", 20_000)
    mean, scale = toy.Encoder().encode(toy.rows("train").x)
    z = mean + scale * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    points, area = toy.square(toy.SIDE)
    for f in (lambda z: z.norm(dim=1), lambda z: z.norm(dim=1).square(), lambda z: z[:, 0].abs(), toy.population):
        mass = toy.population(points).exp() * area
        want = float(mass @ f(points))
        stderr = math.sqrt(float(mass @ (f(points) - want).square()) / len(z))
        assert abs(float(f(z).mean()) - want) < 4 * stderr


def test_what_an_example_printed_becomes_a_section_of_its_page(example, tmp_path, monkeypatch) -> None:
    page = example("bring_page")
    monkeypatch.setattr(page.pages, "DOCS", tmp_path)
    (tmp_path / "bring").mkdir()
    (tmp_path / "bring" / "x.md").write_text("# x\n<!-- make bring-x -->\nold\n<!-- /make bring-x -->\n")
    (tmp_path / "x.txt").write_text("\n# Digits\n\n- a # b\n")
    page.main("x", tmp_path / "x.txt")
    assert (tmp_path / "bring" / "x.md").read_text() == (
        "# x\n<!-- make bring-x -->\n### Digits\n\n- a # b\n<!-- /make bring-x -->\n"
    )


@pytest.mark.slow
def test_the_readmes_picture_is_drawn_from_a_run(example, tmp_path) -> None:
    small.run(tmp_path / "run", Path("digits"))
    example("picture").main(tmp_path / "run", tmp_path / "out" / "picture.png")
    assert min(Image.open(tmp_path / "out" / "picture.png").size) > 100

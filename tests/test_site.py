"""The documentation site: every page is in it, what is generated is current, and it asks no outside host."""

import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import changes  # noqa: E402
import cli  # noqa: E402
import formulas  # noqa: E402
import gallery  # noqa: E402
import katex  # noqa: E402
import layers  # noqa: E402
import nav as navigation  # noqa: E402
import places  # noqa: E402

from zprime import plot  # noqa: E402
from zprime.latent import SETTINGS  # noqa: E402

LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preconnect|preload|icon|modulepreload|dns-prefetch))[^>]*href=["']?(?:https?:)?//"""
    r"""|@import|url\(["']?(?:https?:)?//"""
)


def pages(nav: Any) -> list[str]:
    """All files that a `nav` names."""
    if isinstance(nav, str):
        return [nav]
    return [p for entry in nav for p in (pages(entry) if isinstance(entry, str) else pages([*entry.values()][0]))]


def test_every_page_is_in_the_nav_and_the_other_way_round() -> None:
    nav = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    there = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")} | {"changes.md"}
    assert sorted(nav) == sorted(there), "run `python tools/nav.py`"


def test_page_for_python_has_the_settings_of_every_kind() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert page == navigation.settings(), "run `python tools/nav.py`"
    told = re.findall(r"^::: zprime\.latent\.(\w+)", page, re.M)
    assert told == [s.__name__ for s in SETTINGS.values()]


def test_a_new_page_goes_to_the_end_of_its_folders_section(tmp_path: Path) -> None:
    (tmp_path / "docs" / "kinds").mkdir(parents=True)
    for page, heading in (("index.md", "zprime"), ("kinds/a.md", "a"), ("kinds/new.md", "new: what it is")):
        (tmp_path / "docs" / page).write_text(f"# {heading}\n\nText.\n")
    lines = [
        '  { "Start" = "index.md" },',
        '  { "Changes" = "changes.md" },',
        '  { "Kinds" = [',
        '    { "A" = "kinds/a.md" },',
        '    { "Gone" = "kinds/gone.md" },',
        "  ] },",
        "",
    ]
    (tmp_path / "zensical.toml").write_text("\n".join(lines))
    wanted = [*lines[:4], '    { "new" = "kinds/new.md" },', *lines[5:]]
    assert navigation.text(tmp_path) == "\n".join(wanted)


@pytest.mark.parametrize("folder", ["kinds", "measures"])
def test_the_index_of_a_folder_has_a_line_for_every_page(folder: str) -> None:
    place = ROOT / "docs" / folder
    lines = re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\): \S", (place / "index.md").read_text(), re.M)
    assert sorted(lines) == sorted(p.name for p in place.glob("*.md") if p.name != "index.md"), "run `tools/nav.py`"


def test_a_new_page_goes_to_the_end_of_its_folders_index(tmp_path: Path) -> None:
    page = tmp_path / "index.md"
    page.write_text("# Kinds\n\n- [a](a.md): first.\n")
    (tmp_path / "a.md").write_text("# a\n\nText.\n")
    (tmp_path / "new.md").write_text("# new: one\n\nA new kind,\nwith a line. And more.\n")
    wanted = "# Kinds\n\n- [a](a.md): first.\n- [new](new.md): A new kind, with a line.\n"
    assert navigation.index(page) == wanted
    page.write_text(wanted)
    assert navigation.index(page) == wanted


def test_the_gallery_has_every_figure() -> None:
    assert gallery.PAGE.read_text() == gallery.text(), "run `python tools/gallery.py runs/demo`"
    assert sorted(name for names in gallery.GROUPS.values() for name in names) == sorted(plot.__all__)
    drawn = {p.stem for p in gallery.IMAGES.glob("*.png")}
    assert {"gains", "samples", "surgery", "hole"} <= drawn <= set(plot.__all__)


def test_katex_is_what_was_fetched() -> None:
    said = f"KaTeX {katex.VERSION}"
    assert (katex.FOLDER / katex.SUMS).read_text() == katex.sums(), "run `python tools/katex.py`"
    assert said in (katex.FOLDER / "NOTICE.txt").read_text()
    assert said in (ROOT / "docs" / "dependencies.md").read_text()
    fonts = re.findall(r"url\((fonts/[\w-]+\.woff2)\)", (katex.FOLDER / "katex.min.css").read_text())
    assert fonts
    assert all((katex.FOLDER / f).is_file() for f in fonts)
    assert sum(p.stat().st_size for p in katex.FOLDER.rglob("*") if p.is_file()) < 700_000


def test_a_package_with_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "katex.tgz").write_bytes(b"another")
    with pytest.raises(SystemExit, match="expected SHA-512"):
        katex.checked(tmp_path / "katex.tgz", katex.SHA512)


# Pages for developers, with names of the code; and what commands write, as are all pages of results.
AS_TEXT = {"add-a-kind", "api", "architecture", "changes", "changing", "cli", "dependencies", "performance"}
AS_TEXT |= {"reliability", "tests"}


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", text, flags=re.S | re.M)


def typeset_formulas(text: str) -> list[str]:
    """What stands between dollars on a page."""
    return re.findall(r"^\$\$$.*?^\$\$$|\$[^$\n]+\$", without_code(text), re.S | re.M)


def wrong_formulas(text: str) -> list[str]:
    """What no browser could set: a lone $, braces that do not match, | in a row of a table, signs outside LaTeX,
    a displayed formula without empty lines around it.
    """
    rest = plain = without_code(text)
    found = typeset_formulas(text)
    for formula in found:
        rest = rest.replace(formula, "", 1)
    rows = [row for row in plain.splitlines() if row.startswith("|")]
    return (
        [line for line in rest.splitlines() if "$" in line]
        + [f for f in found if f.count("{") != f.count("}") or re.search(r"[−‖Σ√∏∫≤≥∝∞²]|\\\|", f)]
        + [f for f in found if f.startswith("$$") and f"\n\n{f}\n\n" not in f"\n\n{plain}\n\n"]
        + [row for row in rows if any("|" in f for f in re.findall(r"\$[^$]+\$", row))]
    )


def test_formulas_are_whole() -> None:
    assert wrong_formulas("$a$ and `$HOME`\n\n$$\n\\frac{a}{b}\n$$\n") == []
    for bad in (
        "$a",
        "$\\frac{a}{b$",
        "$KL(q‖p)$",
        "| $q(z|x)$ | b |",
        "$$\na {\n$$\n",
        "$$\na\n$$\nb",
        "a\n$$\nb\n$$",
    ):
        assert wrong_formulas(bad), bad
    for page in (ROOT / "docs").rglob("*.md"):
        assert wrong_formulas(page.read_text()) == [], page


def test_formulas_are_typeset_where_text_becomes_a_page() -> None:
    for text, wanted in (
        ("mean KL(q(z|x) ‖ p(z)) of z′", r"mean $\mathrm{KL}(q(z \mid x) \Vert p(z))$ of $z'$"),
        ("p(Z|X=D) ∏ N(0, I)", r"$p(Z \mid X = D)$ ∏ $N(0, I)$"),
        ("I = 5.1 ± 0.2 nats, h = 0.05.", r"$I = 5.1 \pm 0.2$ nats, $h = 0.05$."),
        ("| all \\|D\\| | log E_q[r − 1] |", r"| all $\lvert D \rvert$ | $\log E_q[r - 1]$ |"),
        ("mixture(5) + 1 % p, `q(z|x)`, [n, d, r], $r$ and x % of 28 x 28", None),
        ("## p(z)\n\n```text\np(z)\n```\n\n![p(z)](p.png)\n\n<!-- a -->\np(z)\n<!-- /a -->", None),
    ):
        assert formulas.typeset(text) == (wanted or text)
        assert formulas.typeset(formulas.typeset(text)) == (wanted or text), "twice is once"
    assert formulas.left("p(z) ∏ $q$") == ["p(z)", "∏"]


def test_no_formula_stands_on_a_page_as_text() -> None:
    pages = [p for p in (ROOT / "docs").rglob("*.md") if p.stem not in AS_TEXT and p.parent.name != "results"]
    assert {"question", "questions", "choosing", "bring", "explore", "index"} <= {p.stem for p in pages}
    for page in pages:
        assert formulas.left(page.read_text()) == [], f"{page}: run `python tools/formulas.py {page}`"


def test_command_line_page_is_what_the_commands_say() -> None:
    assert cli.PAGE.read_text() == cli.text(), "run `make cli-docs`"


def test_architecture_page_has_the_layers_that_are_enforced() -> None:
    assert layers.PAGE.read_text() == layers.text(), "run `python tools/layers.py`"


def test_what_is_new_touches_few_places() -> None:
    """docs/changing.md: a kind 4, a measure 3, a data format 2, a section the list of sections, and
    a file if it has sentences or figures of its own.
    """
    code = places.modules()
    assert min(len(k.places) for k in places.kinds(code)) <= 4
    assert statistics.median_low(len(m.places) for m in places.measures(code)) <= 3
    assert {len(f.places) for f in places.formats(code)} == {2}
    assert {len(s.places) for s in places.sections(code)} == {1, 2}


def test_places_are_found_by_imports_and_names() -> None:
    by_name = {k.name: k.places for k in places.kinds(places.modules())}
    assert {"src/zprime/latent/vamp.py", "src/zprime/latent/__init__.py"} <= set(by_name["vamp"])
    assert "src/zprime/bring/pythae_vae.py" in by_name["vamp"]  # its prior is made of one
    assert "src/zprime/reporting/page.py" not in by_name["barycentre"]


def test_changes_hold_every_fragment(tmp_path: Path) -> None:
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "a.fixed.md").write_text("It no longer\nbreaks.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0\n\nFirst.\n")
    assert changes.text(tmp_path) == (
        "# Changes\n\n## Not released yet\n\n**Fixed**\n\n- It no longer breaks.\n\n## 0.1.0\n\nFirst.\n"
    )
    names = [p.name for p in (ROOT / "news").glob("*.md") if p.name != "README.md"]
    assert all(n.split(".")[1] in changes.KINDS for n in names), names


def test_the_pattern_finds_what_it_is_for() -> None:
    for bad in (
        '<script defer src="https://a.b/c.js">',
        "<img alt=x src=//a.b/c.png>",
        '<link href="https://fonts.googleapis.com" rel="preconnect">',
        "body{background:url(https://a.b/c.png)}",
    ):
        assert LOADS.search(bad), bad
    assert not LOADS.search('<a href="https://a.b">x</a><link rel="canonical" href="https://a.b">')


def test_the_built_site_asks_no_outside_host(tmp_path: Path) -> None:
    zensical = shutil.which("zensical") or shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip("zensical is not installed (pip install '.[docs]')")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    (tmp_path / "docs" / "changes.md").write_text(changes.text())
    done = subprocess.run([zensical, "build"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    built = [*(tmp_path / "site").rglob("*.html"), *(tmp_path / "site").rglob("*.css")]
    assert len(built) > 20
    for file in built:
        found = LOADS.search(file.read_text())
        assert found is None, f"{file}: {found and found.group(0)}"
    assert "doc-heading" in (tmp_path / "site" / "api.html").read_text(), "mkdocstrings did nothing"
    assert 'src="./assets/katex/katex.min.js"' in (tmp_path / "site" / "theory.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        html = (tmp_path / "site" / page.relative_to(ROOT / "docs")).with_suffix(".html").read_text()
        assert html.count('class="arithmatex"') == len(typeset_formulas(page.read_text())), page

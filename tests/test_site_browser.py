"""The built site in Debian's chromium, served on loopback: `make browser`; screenshots in build/screenshots."""

import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
AXE = ROOT / "tests" / "vendor" / "axe.min.js"
SHOTS = ROOT / "build" / "screenshots"
PAGES = (
    "index",
    "question",
    "questions",
    "choosing",
    "bring",
    "explore",
    "theory",
    "api",
    "kinds/index",
    "kinds/mixture",
)
PAGES += ("kinds/compared", "kinds/toy", "measures/index", "measures/gains")
# Formulas in running text that stick out of the page's column, or whose comma is on the next line; TeX read as text.
WRONG = """() => {
    const article = document.querySelector("article");
    const right = article.getBoundingClientRect().right + 1;
    const out = [...article.querySelectorAll("p .katex, li .katex")].filter(
        (e) => !e.closest("table, div.arithmatex") && e.getBoundingClientRect().right > right);
    out.push(...[...article.querySelectorAll("span.arithmatex")].filter((formula) => {
        const after = formula.nextSibling;
        if (!/^[.,;:!?)]/.test(after?.nodeValue ?? "")) return false;
        const mark = document.createRange();
        mark.setStart(after, 0);
        mark.setEnd(after, 1);
        const last = [...formula.querySelectorAll(".katex-base")].pop();
        return mark.getBoundingClientRect().left < last.getBoundingClientRect().left;
    }));
    const text = article.cloneNode(true);
    text.querySelectorAll("code, .katex").forEach((e) => e.remove());
    return [...out.map((e) => e.textContent), ...(text.textContent.match(/[$]|[\\\\][a-z]+/g) ?? [])];
}"""
pytestmark = pytest.mark.browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, without a line for each."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the built site."""
    zensical = shutil.which("zensical") or shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip("zensical is not installed (pip install '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "docs" / "changes.md").write_text("# Changes\n")
    subprocess.run([zensical, "build"], cwd=folder, check=True, capture_output=True, timeout=300)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("width", [1400, 390])
def test_formulas_are_set_tables_fit_and_no_other_host_is_asked(browser: Any, site: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(f"console {m.type}: {m.text}"))
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    page.on("request", lambda r: r.url.startswith((site, "data:", "blob:")) or wrong.append(f"request: {r.url}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url}"))
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        formulas = page.locator(".arithmatex")
        assert formulas.count() == page.locator(".arithmatex > .katex, .arithmatex > .katex-display").count(), name
        assert page.locator(".katex-error").count() == 0, name
        assert page.evaluate(WRONG) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than {width}"
        page.screenshot(path=str(SHOTS / f"site-{name.replace('/', '-')}-{width}.png"))
    assert not wrong
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_but_what_the_theme_has(browser: Any, site: str, width: int, scheme: str) -> None:
    """The theme's own: its navigation and the buttons of code blocks are landmarks without names of their own."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for name in ("index", "theory", "kinds/compared", "measures/surgery"):
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run({rules: {'landmark-unique': {enabled: false}}})")["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found] == [], name
    page.close()


def test_the_first_column_of_a_wide_table_stays(browser: Any, site: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"{site}/kinds/compared.html")
    moved = page.evaluate(
        """() => {
            const table = document.querySelector("article table");
            const left = (i) => table.rows[3].cells[i].getBoundingClientRect().left;
            const before = [left(0), left(2)];
            table.scrollLeft = 150;
            return [left(0) - before[0], left(2) - before[1]];
        }"""
    )
    assert moved == [0, -150]
    page.close()

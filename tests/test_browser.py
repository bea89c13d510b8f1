"""The report in a real browser, Debian's chromium by playwright: `make browser`; screenshots in build/screenshots."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import small
from zprime import reporting

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SHOTS = Path(__file__).parent.parent / "build" / "screenshots"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of images, of a table, of both compared; or of the runs in ZPRIME_TEST_RUNS (to look at real ones)."""
    folder = tmp_path_factory.mktemp("browser")
    if "ZPRIME_TEST_RUNS" in os.environ:
        runs = [Path(r) for r in os.environ["ZPRIME_TEST_RUNS"].split(":")]
    else:
        runs = [folder / "digits", folder / "table"]
        small.run(runs[0], Path("digits"))
        small.run(runs[1], small.table(folder / "table.npz"))
    out = {r.name: reporting.report(r, folder / f"{r.name}.html") for r in runs}
    out[f"{runs[0].name}-public"] = reporting.report(runs[0], folder / "public.html", public=True)
    out["compare"] = reporting.report(runs, folder / "compare.html")
    return out


@pytest.fixture
def open_page(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Open a page by name; the test fails on any console message, error or request to anywhere but the page itself."""
    contexts, wrong = [], []

    def opened(name: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(f"console {m.type}: {m.text}"))
        page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(f"request: {r.url}"))
        page.goto(pages[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def names(pages: dict[str, Path]) -> list[str]:
    return list(pages)


def shot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def test_every_page_light_dark_phone(open_page: Any, pages: dict[str, Path]) -> None:
    for name in names(pages):
        assert pages[name].stat().st_size < 5_000_000
        for scheme in ("light", "dark"):
            page = open_page(name, color_scheme=scheme)
            shot(page, f"{name}-{scheme}")
        page = open_page(name, viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
        shot(page, f"{name}-phone")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{name}: {wide} pixels wide on a phone of 390"


def first(pages: dict[str, Path]) -> str:
    return next(iter(pages))


def test_sorting_by_every_column(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages))
    table = page.locator("table.sort").first
    for column in range(2, 11):
        head = table.locator("thead th").nth(column)
        for direction, sign in (("descending", -1), ("ascending", 1)):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction
            keys = page.evaluate(
                "c => [...document.querySelector('table.sort').tBodies[0].rows].map(r => r.children[c].dataset.key)",
                column,
            )
            numbers = [float(k) for k in keys if k is not None]
            assert numbers == sorted(numbers, key=lambda x, s=sign: s * x)
            assert [k for k in keys if k is not None] == keys[: len(numbers)], "what was not measured comes last"


def test_every_number_explains_itself(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages))
    numbers, why = page.locator(".n:visible"), page.locator("#why")
    assert numbers.count() > 40
    assert not why.is_visible()
    for i in (0, 5, numbers.count() - 1):
        numbers.nth(i).click()
        assert why.inner_text() == numbers.nth(i).get_attribute("data-why")
        box = why.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1280
    page.keyboard.press("Escape")
    assert not why.is_visible()
    numbers.nth(2).focus()
    page.keyboard.press("Enter")
    assert why.is_visible()


def test_hover_magnifies_the_image_under_the_pointer(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages))
    image = page.locator(".sheets img").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    columns = int(image.get_attribute("data-columns"))
    page.mouse.move(box["x"] + box["width"] * 1.5 / columns, box["y"] + 5)
    lens = page.locator("#lens")
    assert lens.is_visible()
    position = lens.locator("i").first.evaluate("e => e.style.backgroundPosition")
    assert position.startswith("-11") or position.startswith("-10"), position  # the second column
    shot(page, "hover")
    page.mouse.move(box["x"] - 5, box["y"])
    assert not lens.is_visible()


def test_theme_switch(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages), color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    pixel = "document.querySelector('canvas').getContext('2d').getImageData(2, 2, 1, 1).data[0]"
    page.locator("#theme").click()
    assert page.evaluate(paper) != light
    assert page.evaluate(pixel) < 80
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


def test_map_axes(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages))
    content = "document.querySelector('canvas').toDataURL()"
    before = page.evaluate(content)
    page.locator("select[name=x]").select_option(index=2)
    assert page.evaluate(content) != before
    assert page.evaluate("document.querySelector('canvas').ariaLabel").endswith("up")


def test_printing(open_page: Any, pages: dict[str, Path]) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name in names(pages):
        page = open_page(name, color_scheme="dark")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("#theme").is_visible()
        page.pdf(
            path=str(SHOTS / f"{name}.pdf"),
            format="A4",
            margin=dict.fromkeys(("top", "bottom", "left", "right"), "1.2cm"),
        )


def test_public_page_has_no_row_of_the_data(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(next(n for n in pages if n.endswith("-public")))
    text = page.locator("body").inner_text()
    assert "no row of the data" in text
    captions = page.locator("figcaption").all_inner_texts()
    assert captions
    assert not [c for c in captions if "Held-out" in c or "reconstructions" in c or "aggregated" in c]
    assert page.evaluate("JSON.parse(document.querySelector('#latent').textContent).codes") is None


def test_axe_finds_nothing_serious(open_page: Any, pages: dict[str, Path]) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm pack axe-core)")
    for name in names(pages):
        for scheme in ("light", "dark"):
            page = open_page(name, color_scheme=scheme, bypass_csp=True)
            page.add_script_tag(content=AXE.read_text())
            found = page.evaluate("axe.run()")["violations"]
            bad = [
                f"{name} {scheme}: {v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes'][:3]]}"
                for v in found
                if v["impact"] in ("serious", "critical", "moderate")
            ]
            assert not bad, "\n".join(bad)


SIDEWAYS = """() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const width = document.documentElement.clientWidth, wrong = [];
  for (const e of document.body.querySelectorAll('*')) {
    const says = `${e.tagName} ${e.id} ${e.className.baseVal ?? e.className} ${e.ariaLabel ?? ''}`;
    const declared = e.closest('.scroll, .plot');
    if (e === declared && e.scrollWidth > e.clientWidth) wrong.push(`scrolls: ${says}`);
    if (!declared && e.getBoundingClientRect().right > width + 0.5) wrong.push(`wider than the page: ${says}`);
  }
  return wrong;
}"""


@pytest.mark.parametrize("width", [1300, 1280])
def test_nothing_is_wider_than_a_page_of_a_laptop(open_page: Any, pages: dict[str, Path], width: int) -> None:
    """Not the contents, and no table scrolls sideways, with all of the page unfolded."""
    for name in names(pages):
        page = open_page(name, viewport={"width": width, "height": 900})
        assert page.evaluate(SIDEWAYS) == [], name
        contents = page.locator("#contents")
        if contents.count():
            assert contents.evaluate("e => [e, ...e.querySelectorAll('ul')].every(x => x.scrollWidth <= x.clientWidth)")


def test_a_phone_scrolls_tables_and_contents_alone(open_page: Any, pages: dict[str, Path]) -> None:
    page = open_page(first(pages), viewport={"width": 390, "height": 844}, has_touch=True)
    wrong = page.evaluate(SIDEWAYS.replace(".scroll, .plot", ".scroll, .plot, #contents ul"))
    assert [w for w in wrong if w.startswith("wider")] == []
    table = page.locator(".scroll").first
    assert table.evaluate("e => { e.scrollLeft = 400; return e.scrollLeft; }") > 0
    name = page.locator("table.sort tbody th").first.bounding_box()
    assert 0 <= name["x"] < 390, "the names stay in sight"

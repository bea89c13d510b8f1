"""The page of `zprime explore` in a real browser: each control, no console message, no request to elsewhere."""

import functools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from exploring import D, explorer
from test_browser import AXE, shot
from test_exporting_onnx import needs_onnx
from test_exporting_web import FOLDER
from zprime import exploring
from zprime.exploring import Explorer, Server
from zprime.latent import Gaussian, Prior
from zprime.posteriors import MemoryPosteriors

pytestmark = pytest.mark.browser
MOVES = 40


@dataclass
class Opened:
    """A page, what it asked, how many requests were under way at once, and what should not have been."""

    page: Any
    url: str
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    open: int = 0
    most: int = 0

    def watch(self) -> None:
        """Note every message and request from now on."""
        self.page.on("console", lambda m: self.wrong.append(f"console {m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.wrong.append(f"error: {e}"))
        self.page.on("request", self._request)
        self.page.on("requestfinished", self._done)
        self.page.on("requestfailed", self._done)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.wrong.append(f"request: {request.url}")
        self.asked.append(request.url.removeprefix(self.url))
        if "?" in request.url:
            self.open += 1
            self.most = max(self.most, self.open)

    def _done(self, request: Any) -> None:
        self.open -= "?" in request.url

    def settle(self) -> None:
        """Wait until nothing is computed, and nothing waits to be painted."""
        self.page.wait_for_selector("html[data-ready]:not([data-busy])")

    def of(self, name: str) -> int:
        """How often `name` was asked."""
        return sum(a.split("?")[0] == name for a in self.asked)

    def text(self, where: str) -> str:
        return str(self.page.inner_text(where))

    def picture(self, where: str) -> str:
        """What a canvas shows."""
        self.settle()
        return str(self.page.evaluate("q => document.querySelector(q).toDataURL()", where))


@pytest.fixture
def look(browser: Any) -> Iterator[Any]:
    """Serve an explorer, and open its page."""
    ends: list[Any] = []

    def opened(shown: Explorer, *, expect_errors: bool = False, **options: Any) -> Opened:
        server = Server(shown)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def end() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        found = Opened(context.new_page(), server.url)
        found.watch()
        ends.append((end, context, found, expect_errors))
        found.page.goto(server.url)
        found.settle()
        return found

    yield opened
    for end, context, found, expect_errors in ends:
        context.close()
        end()
        assert expect_errors or not found.wrong


def test_a_page_takes_seven_requests_and_then_only_what_is_asked(look: Any) -> None:
    o = look(explorer())
    assert len([a for a in o.asked if not a.startswith("data:")]) == 7
    assert o.of("decode") == 1
    before = len(o.asked)
    o.page.locator("#across").select_option("3")
    o.page.locator("#up").select_option("4")
    o.page.locator("#theme").click()
    assert len(o.asked) == before  # all of it is there


def test_dragging_decodes_one_z_at_a_time_and_ends_at_the_last(look: Any) -> None:
    o = look(explorer())
    box, x, before = o.page.locator("#map").bounding_box(), o.picture("#made canvas"), o.of("decode")
    o.page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2)
    o.page.mouse.down()
    for i in range(MOVES):
        o.page.mouse.move(box["x"] + 60 + 8 * i, box["y"] + box["height"] / 2 - 2 * i)
    o.page.mouse.up()
    o.settle()
    assert o.picture("#made canvas") != x
    assert 2 <= o.of("decode") - before <= MOVES + 1
    assert o.most == 1
    last = [a for a in o.asked if a.startswith("decode")][-1]
    z = torch.tensor([float(v) for v in last.split("z=")[1].split("&")[0].replace("%2C", ",").split(",")])
    across, up = (explorer().axes.directions.T[:2] @ z.double()).tolist()
    said = o.text("#where").replace("−", "-").split()
    assert float(said[2]) == pytest.approx(across, abs=0.02)
    assert float(said[5]) == pytest.approx(up, abs=0.02)
    right, above = 60 + 8 * (MOVES - 1), 2 * (MOVES - 1)  # pixels from the left, and above the middle
    assert up / across == pytest.approx(above / (right - box["width"] / 2), rel=0.02)


def test_sources_axes_buttons_and_keys(look: Any) -> None:
    o = look(explorer())
    shown, where = o.picture("#map"), o.text("#where")
    o.page.locator("#source").select_option("aggregated")
    o.settle()
    assert o.picture("#map") != shown
    assert "log r(z′) − log p(z′)" in o.text("#where")
    o.page.locator("#source").select_option("prior")
    o.settle()
    assert "log r(z′)" not in o.text("#where")
    assert o.text("#where") != where
    shown, curve = o.picture("#map"), o.picture("#curve")
    o.page.locator("#across").select_option("2")
    assert o.picture("#map") != shown
    assert o.picture("#curve") != curve
    assert o.text("#axis") == "principal axis 3"
    where = o.text("#where")
    o.page.locator("#draw").click()
    o.settle()
    assert o.text("#where") != where
    o.page.locator("#centre").click()
    o.settle()
    assert o.text("#where").startswith("z′ at 0 across and 0 up, 0 from 0")
    o.page.locator("#map").focus()
    o.page.keyboard.press("ArrowRight")
    o.page.keyboard.press("Shift+ArrowDown")
    o.settle()
    _, _, across, _, _, up, *_ = o.text("#where").replace("−", "-").split()
    assert float(across) > 0 > float(up)
    assert -float(up) == pytest.approx(5 * float(across), rel=0.02)


def test_data_are_picked_by_click_number_chance_and_label(look: Any) -> None:
    e = explorer()
    o = look(e)
    plane = e.posteriors.mean.double() @ e.axes.directions[:, :2]
    far = int(plane.norm(dim=1).argmax())
    draws = torch.tensor(e.scene()["sources"][1]["draws"]).double() @ e.axes.directions[:, :2]
    reach = 1.12 * max(2.6, float(plane.abs().max()), float(draws.abs().max()))
    box = o.page.locator("#map").bounding_box()
    o.page.locator("input[value=pick]").check()
    x, y = (plane[far] / reach).tolist()
    o.page.mouse.click(box["x"] + (x + 1) / 2 * box["width"], box["y"] + (1 - y) / 2 * box["height"])
    o.settle()
    row = int(e.posteriors.row_ids[far])
    assert o.text("#picked") == f"row {row} · label {row % 3} ✕"
    assert "posterior of the last one picked" in o.text("#key")
    assert o.page.locator("#datum canvas").count() == 2  # x, and what is decoded of its posterior
    another = next(i for i in e.posteriors.row_ids.tolist() if i != row)
    o.page.locator("#id").fill(str(another))
    o.page.locator("#id").press("Enter")
    o.settle()
    assert f"row {another}" in o.text("#picked")
    assert o.page.locator(".stop").count() == 24
    assert o.text("#ways").count("lowest log r − log p") == 2
    where = o.text("#where")
    o.page.locator(".stop").nth(5).click()
    o.settle()
    assert o.text("#where") != where
    assert o.page.locator(".stop").nth(5).get_attribute("aria-pressed") == "true"
    o.page.locator("#random").click()
    o.page.locator("#like").click()
    o.settle()
    assert o.page.locator("#picked li").count() == 8
    o.page.locator("#id").fill("999999")
    o.page.locator("#id").press("Enter")
    assert "No row 999999 on the map" in o.text("#error")
    o.page.locator("#picked button").first.click()
    o.settle()
    assert o.page.locator("#picked li").count() == 7
    o.page.locator("#clear").click()
    o.settle()
    assert o.page.locator("#picked li").count() == 0
    assert o.page.locator(".stop").count() == 0
    assert "posterior of the last" not in o.text("#key")


def test_what_data_share_tightens_as_more_share_it(look: Any) -> None:
    o = look(explorer())
    for _ in range(6):
        o.page.locator("#random").click()
    o.settle()
    widths, asked = [], o.of("shared")
    for n in range(1, 7):
        o.page.locator("#first").fill(str(n))
        o.settle()
        assert o.text("#first-n") == str(n)
        widths.append(float(o.text("#shared-says").split(": ")[1].split(". ")[0].rstrip(".")))
    assert all(b < a for a, b in zip(widths, widths[1:], strict=False))
    assert o.of("shared") - asked <= 6
    o.page.locator("#first").fill("2")
    o.settle()
    assert o.of("shared") - asked <= 6  # what was asked is kept


def test_the_sliders_fit_and_become_sources(look: Any) -> None:
    o = look(explorer())
    assert o.of("try") == 0
    for slider, key, tag in (
        ("#components", "Home", "K = 1"),
        ("#bandwidth", "End", "h = 1"),
        ("#components", "End", "K = 10"),
    ):
        o.page.locator(slider).focus()
        o.page.keyboard.press(key)
        o.settle()
        assert o.text("#try-says").startswith(f"{tag}: gain ")
        assert o.text("#tried tr.now th") == tag
    assert o.page.locator("#tried tbody tr").count() == 3
    assert o.of("try") == 3
    assert o.page.locator("#source").input_value() == "components 10"
    o.page.locator("#components").focus()
    o.page.keyboard.press("Home")
    o.settle()
    assert o.of("try") == 3  # it was there
    assert o.text("#tried tr.now th") == "K = 1"


def test_codes_a_table_another_prior(look: Any) -> None:
    """What is missing is said, and what is not there is not shown."""
    e = explorer(image=False)
    codes = MemoryPosteriors(e.posteriors.mean, None, row_ids=e.posteriors.row_ids)
    other = replace(e.model, latent=Gaussian(torch.ones(D), 2 * torch.ones(D)))
    o = look(replace(e, posteriors=codes, model=other, x=None, trials=None))
    assert o.page.locator("#made .bars output").count() == 16
    assert "draws from the prior" in o.text("#key")
    assert not o.page.locator(".tries").is_visible()
    o.page.locator("#random").click()
    o.page.locator("#random").click()
    o.settle()
    assert "There is a code only" in o.text("#datum-says")
    assert "codes without a posterior" in o.text("#shared-says")
    assert not o.page.locator("#like").is_visible()
    assert o.page.locator(".stop").count() == 24
    shot(o.page, "explore-codes")


def test_when_the_command_has_ended_the_page_says_so(look: Any, browser: Any) -> None:
    o = look(explorer(trials=False), expect_errors=True)
    o.page.context.set_offline(True)
    o.page.locator("#draw").click()
    o.page.wait_for_selector("#error:not([hidden])")
    assert "has ended; start it again" in o.text("#error")


def busy(o: Opened) -> None:
    """Show all that the page has."""
    o.page.locator("#like").click()
    o.page.locator("#components").focus()
    o.page.keyboard.press("End")
    o.settle()
    o.page.wait_for_timeout(60)


def test_light_dark_and_phone(look: Any) -> None:
    for name, shown in (("explore", explorer()), ("explore-table", explorer(image=False))):
        for scheme in ("light", "dark"):
            o = look(shown, color_scheme=scheme)
            busy(o)
            shot(o.page, f"{name}-{scheme}")
        o = look(shown, viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
        busy(o)
        shot(o.page, f"{name}-phone")
        assert o.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_axe_finds_nothing(look: Any) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm pack axe-core)")
    for scheme in ("light", "dark"):
        o = look(explorer(), color_scheme=scheme, bypass_csp=True)
        busy(o)
        o.page.add_script_tag(content=AXE.read_text())
        found = o.page.evaluate("axe.run()")["violations"]
        assert not [f"{scheme}: {v['id']}: {[n['html'][:120] for n in v['nodes'][:3]]}" for v in found]


@needs_onnx
def test_a_folder_without_zprime_does_the_same(browser: Any, tmp_path: Path) -> None:
    """As `python -m http.server` serves it, with onnxruntime-web."""
    if not (FOLDER / "VERSION").exists():
        pytest.skip(f"no onnxruntime-web in {FOLDER} (python tools/onnx_web.py {FOLDER}; or set ONNXRUNTIME_WEB)")
    e = explorer()
    model = replace(e.model, latent=e.sources["gaussian"], copying="passes")
    exploring.write(tmp_path / "out", model, FOLDER, prior=Prior(D))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "out"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        o = Opened(browser.new_page(), f"http://127.0.0.1:{server.server_port}/")
        o.watch()
        o.page.goto(o.url)
        o.settle()
        for _ in range(3):
            o.page.locator("#draw").click()
        o.settle()
        shown = o.page.evaluate(
            "(() => { const c = document.querySelector('#made canvas'); "
            "return [...c.getContext('2d').getImageData(0, 0, 4, 4).data].filter((_, i) => i % 4 === 0) })()"
        )
        z = torch.tensor([draws_of(tmp_path / "out")[3]])
        right = (255 * e.model.decoder.decode(z).mean.flatten()).tolist()  # type: ignore[union-attr]
        assert shown == pytest.approx(right, abs=1.01)
        before = o.text("#where")
        o.page.locator("#source").select_option("prior")
        o.settle()
        assert o.text("#where") != before
        assert not o.page.locator("#picked").is_visible()
        assert not o.page.locator(".tries").is_visible()
        shot(o.page, "explore-static")
        o.page.close()
        server.shutdown()
        thread.join()
    assert not o.wrong


def draws_of(folder: Path) -> list[list[float]]:
    draws: list[list[float]] = json.loads((folder / "scene.json").read_text())["sources"][1]["draws"]
    return draws

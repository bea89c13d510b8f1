"""Take the picture of docs/explore.md in Debian's chromium: python tools/explore_picture.py RUN FILE."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ROWS = 6


def take(url: str, file: Path) -> None:
    """Pick rows of one label, and show the upper part of the page."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 1500}, color_scheme="light")
        page.goto(url)
        page.wait_for_selector("html[data-ready]:not([data-busy])")
        labels = page.evaluate("fetch('scene.json').then(a => a.json()).then(s => [s.rows.ids, s.rows.labels])")
        for row in [i for i, label in zip(*labels, strict=True) if label == labels[1][0]][:ROWS]:
            page.fill("#id", str(row))
            page.press("#id", "Enter")
        page.wait_for_selector("html:not([data-busy])")
        page.click("#draw")
        page.wait_for_selector("html:not([data-busy])")
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(300)
        page.screenshot(path=str(file))
        browser.close()


if __name__ == "__main__":
    command = [sys.executable, "-m", "zprime", "--json", "explore", sys.argv[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = ""
            while not said.endswith("}\n"):
                said += server.stdout.readline()
            take(json.loads(said)["url"], Path(sys.argv[2]))
        finally:
            server.send_signal(signal.SIGINT)

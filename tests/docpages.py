"""Code blocks of pages that need names of the reader's own: run by the tests that have them."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import printed  # noqa: E402
from pictures import blocks  # noqa: E402

__all__ = ["ROOT", "blocks", "printed", "run_page"]


def run_page(page: str, **given: object) -> dict[str, object]:
    """All Python blocks of a page under `docs/`, with the reader's names; the names there are at the end."""
    names = dict(given)
    for _, language, text in blocks(ROOT / "docs" / page):
        if language == "python":
            exec(compile(text, page, "exec"), names)
    return names

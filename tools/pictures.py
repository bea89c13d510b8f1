"""Make a page's pictures by running its Python blocks in docs/images: python tools/pictures.py docs/question.md."""

import os
import re
import sys
from pathlib import Path

FENCE = re.compile(r"^(<!-- slow -->\n)?```(\w*)\n(.*?)^```$", re.S | re.M)


def blocks(page: Path) -> list[tuple[bool, str, str]]:
    """All code blocks of a page: whether it is slow, its language, its text."""
    return [(bool(slow), language, text) for slow, language, text in FENCE.findall(page.read_text())]


if __name__ == "__main__":
    page = Path(sys.argv[1]).resolve()
    os.chdir(Path(__file__).resolve().parent.parent / "docs" / "images")
    names: dict[str, object] = {}
    for _, language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)

"""Show under the Python blocks of pages what they print: python tools/printed.py docs/kinds/*.md docs/measures/*.md.

What a block printed stands under it between `<!-- printed -->` and `<!-- /printed -->`. The tests run the blocks and
compare. A block after `<!-- slow -->` is left as it is, but with `--slow` before the pages.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

from pictures import FENCE

SHOWN = re.compile(r"\n<!-- printed -->\n\n```text\n(.*?)\n```\n\n<!-- /printed -->\n", re.S)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def run(code: str, page: str, names: dict[str, object]) -> str:
    """Run a block among the names of its page; what it printed, without the spaces at the ends of lines."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), names)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def shown(page: Path) -> list[str | None]:
    """What stands under each code block of a page, as `pictures.blocks` lists them: None where nothing does."""
    text = page.read_text()
    found = [SHOWN.match(text, block.end() + 1) for block in FENCE.finditer(text)]
    return [m and m[1] for m in found]


def alike(shown: str, printed: str) -> bool:
    """Whether two texts are the same but for the last digits of their numbers, which machines round differently."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(abs(a - b) <= 0.02 + 0.02 * max(abs(a), abs(b)) for a, b in values)


def filled(page: Path, *, slow: bool = False) -> str:
    """The page with what each of its blocks prints; without `slow`, of those that are not."""
    text, names = page.read_text(), {}
    out, at = "", 0
    for block in FENCE.finditer(text):
        if block.start() < at:
            continue  # what was shown so far
        out += text[at : block.end()]
        at = block.end()
        late, language, code = block.groups()
        if language != "python" or (late and not slow):
            continue
        old = SHOWN.match(text, at + 1)
        printed = run(code, page.name, names)
        at = old.end() if old else at + 1
        if printed:
            printed = f"\n<!-- printed -->\n\n```text\n{printed}\n```\n\n<!-- /printed -->\n"
        out += f"\n{printed}"
    return out + text[at:]


if __name__ == "__main__":
    slow = sys.argv[1:2] == ["--slow"]
    pages = [Path(p).resolve() for p in sys.argv[1 + slow :]]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)  # where blocks write files
        for page in pages:
            page.write_text(filled(page, slow=slow))

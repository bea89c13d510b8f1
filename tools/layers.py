"""Write the layers of pyproject.toml into docs/architecture.md: python tools/layers.py."""

import re
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
INDENT = "    "
PLACE = re.compile(r"(<!-- layers -->\n).*?(<!-- /layers -->)", re.S)


def layers() -> str:
    """From the top down, as an indented block."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(c["layers"] for c in contracts if c["type"] == "layers")
    line = " > ".join(named).replace("zprime.", "")
    return "\n".join(
        textwrap.wrap(line, 110, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
    )


def text() -> str:
    """The page with the layers as they are."""
    return PLACE.sub(lambda m: f"{m[1]}\n{layers()}\n\n{m[2]}", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(text())

"""Put what a command measured into a doc page, between two comments that name it."""

import re
from pathlib import Path

from zprime import artifact
from zprime.errors import UsageError

DOCS = Path(__file__).parent.parent / "docs"


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in a Markdown page.

    Raises:
        UsageError: the page has no such place.
    """
    old = page.read_text()
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    if not place.search(old):
        raise UsageError(f"{page}: expected the lines <!-- {name} --> and <!-- /{name} -->, found none")
    new = place.sub(lambda m: f"{m[1]}{text.rstrip()}\n{m[2]}", old)
    artifact.write_file(page, new.encode())


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

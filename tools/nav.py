"""Add pages that are missing in the site's `nav`, each at the end of its folder's section: python tools/nav.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SITE = ROOT / "zensical.toml"
LINE = re.compile(r'^( *)\{ "[^"]+" = "([\w./-]+\.md)" \},\n', re.M)
GENERATED = {"changes.md"}


def title(page: Path) -> str:
    """The heading of a page up to a colon, which begins its explanation."""
    heading = page.read_text().split("\n", 1)[0].removeprefix("# ")
    return heading.split(":")[0].replace('"', "'")


def text(root: Path = ROOT) -> str:
    """The file with a line for every page; lines of pages that are gone are left out."""
    docs = root / "docs"
    pages = {str(p.relative_to(docs)) for p in docs.rglob("*.md")} | GENERATED
    out = LINE.sub(lambda m: m[0] if m[2] in pages else "", (root / "zensical.toml").read_text())
    for page in sorted(pages - {m[2] for m in LINE.finditer(out)}):
        last = [m for m in LINE.finditer(out) if Path(m[2]).parent == Path(page).parent][-1]
        out = f'{out[: last.end()]}{last[1]}{{ "{title(docs / page)}" = "{page}" }},\n{out[last.end() :]}'
    return out


if __name__ == "__main__":
    SITE.write_text(text())

"""What the site needs of new pages and kinds, written by python tools/nav.py.

Pages that are missing in `nav` go to the end of their folder's section, and into the index page of their folder, with
their first sentence, where there is one; the settings of every kind go into docs/api.md.
"""

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


def index(page: Path) -> str:
    """An index page with a line for every page beside it; what is new goes to the end."""
    out = page.read_text()
    for other in sorted(page.parent.glob("*.md")):
        if other != page and f"]({other.name})" not in out:
            first = other.read_text().split("\n\n")[1].replace("\n", " ").split(". ")[0].removesuffix(".")
            out += f"- [{title(other)}]({other.name}): {first}.\n"
    return out


def settings(root: Path = ROOT) -> str:
    """docs/api.md with the settings that `zprime.latent` imports, in that order."""
    lines = re.findall(r"import .*?\b(\w+Settings) as \1$", (root / "src/zprime/latent/__init__.py").read_text(), re.M)
    listed = "".join(f"::: zprime.latent.{name}\n" for name in lines)
    page = (root / "docs" / "api.md").read_text()
    return re.sub(
        r"(<!-- settings -->\n).*?(<!-- /settings -->)", lambda m: f"{m[1]}\n{listed}\n{m[2]}", page, flags=re.S
    )


if __name__ == "__main__":
    SITE.write_text(text())
    for folder in ("kinds", "measures"):
        page = ROOT / "docs" / folder / "index.md"
        page.write_text(index(page))
    (ROOT / "docs" / "api.md").write_text(settings())

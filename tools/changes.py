"""Write docs/changes.md from CHANGELOG.md and the fragments in news/: python tools/changes.py."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "changes.md"
KINDS = {"added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}


def unreleased(root: Path = ROOT) -> list[str]:
    """What is not released yet, a paragraph for each kind of change."""
    parts = []
    for kind, title in KINDS.items():
        found = sorted((root / "news").glob(f"*.{kind}.md"))
        if found:
            parts.append(f"**{title}**\n\n" + "\n".join(f"- {' '.join(f.read_text().split())}" for f in found))
    return parts


def text(root: Path = ROOT) -> str:
    """What is not released yet by kind of change, then the releases."""
    parts = ["# Changes", "## Not released yet", *unreleased(root)]
    released = root / "CHANGELOG.md"
    if released.exists():
        parts.append(released.read_text().split("\n", 1)[1].strip())
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text())

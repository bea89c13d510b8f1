"""Every Python block of the README and the docs runs, and every relative link leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [(p, i, b) for p in PAGES for i, b in enumerate(re.findall(r"```python\n(.*?)```", p.read_text(), re.S))]


def name(value: object) -> str | None:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


@pytest.mark.parametrize(("page", "i", "block"), [b for b in BLOCKS if b[0].name != "README.md"], ids=name)
def test_docs_blocks_run(page: Path, i: int, block: str) -> None:
    exec(compile(block, f"{page.name}:{i}", "exec"), {})


def test_readme_blocks_run_as_a_user_would() -> None:
    code = "\n".join(b for p, _, b in BLOCKS if p.name == "README.md")
    first = next(b for p, _, b in BLOCKS if p.name == "README.md")
    assert "zprime.audit" in first
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "from mixture(" in done.stdout  # the verdict that the README tells of


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target

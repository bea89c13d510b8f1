"""Every code block of the README and the docs runs, and every relative link leads somewhere.

Blocks of one page share their names, as a reader's session would. A block after `<!-- slow -->` runs with `-m slow`.
Shell blocks run with tiny settings (from the environment, so the commands themselves are those that are printed).
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docpages import ROOT, blocks, printed
from zprime.cli import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {p: blocks(p) for p in PAGES}
LINES = [
    (p, slow, line.split(" #")[0].strip())
    for p, found in BLOCKS.items()
    for slow, language, text in found
    if language == "sh"
    for line in text.replace("\\\n", "").splitlines()
    if line.strip()
]
LANGUAGES = {"python", "sh", "toml", "text", "json"}
TINY = {
    "ZPRIME_EPOCHS": "3",
    "ZPRIME_ROWS": "12",
    "ZPRIME_DRAWS": "48",
    "ZPRIME_GRID": "4",
    "ZPRIME_MAP": "20",
    "ZPRIME_SAMPLES": "60",
    "ZPRIME_SIMULATED": "0",
    "ZPRIME_HIDDEN": "[16]",
    "ZPRIME_LIMIT": "200",
    "OMP_NUM_THREADS": "1",
}


UNTRAINED = {k: v for k, v in TINY.items() if k not in ("ZPRIME_EPOCHS", "ZPRIME_HIDDEN")}
"""For a model of the user's own: what is said of a training is refused."""
TOO_STRONG = {
    r"cannot be copies": "a row is unseen, or nearer than copies are: nothing is known never to be a copy",
    r"no function of (any|a) single row": "everything that is fitted depends on each row",
    r"(?<!no )guarantees? (of )?(privacy|anonymity)|privacy.preserving": "no measure here promises privacy",
    r"\btrusted\b": "an estimate is stable, a gain has passed the exchange check",
    r"\bthat is the blur\b|never trained": "a cause, where only a difference was measured",
    r"KL term (brings|keeps)": "what was measured is how near the posteriors are, not what brought them there",
    r"does not depend on the seed": "a few seeds agree",
    r"no measurable (copies|harm)": "not found is not excluded: cleared, or not cleared",
}
"""What is said more strongly than it holds -> why."""


def name(value: object) -> str | None:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


def run_python(page: Path, *, slow: bool) -> None:
    """All Python blocks of a page in order, which print what is shown; without `slow`, up to the first slow one."""
    names: dict[str, object] = {}
    for (late, language, text), shown in zip(BLOCKS[page], printed.shown(page), strict=True):
        if language == "python":
            if late and not slow:
                return
            said = printed.run(text, page.name, names)
            assert shown is None or printed.alike(shown, said), f"run `python tools/printed.py {name(page)}`:\n{said}"


def test_what_is_shown_is_compared_but_for_last_digits() -> None:
    assert printed.alike("x is 1.001 ± 0.020 of 1,200, p = 3e-07", "x is 1.002 ± 0.021 of 1,201, p = 4e-07")
    assert not printed.alike("x is 1.00", "x is 1.10")
    assert not printed.alike("x is 1.00", "y is 1.00")
    assert not printed.alike("x is 1.00", "x is 1.00 and 2")


def test_what_a_block_prints_is_written_under_it_and_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# x\n\n```python\na = 1\nprint(a)\n```\n\n```python\nb = a\n```\n\nText.\n")
    wanted = page.read_text().replace(
        "print(a)\n```\n", "print(a)\n```\n\n<!-- printed -->\n\n```text\n1\n```\n\n<!-- /printed -->\n"
    )
    page.write_text(printed.filled(page))
    assert page.read_text() == wanted
    assert printed.shown(page) == ["1", None, None]
    page.write_text(wanted.replace("\n1\n", "\n2\n"))
    assert printed.shown(page)[0] == "2"
    assert printed.filled(page) == wanted


def test_every_marker_holds_what_a_block_printed() -> None:
    for page in PAGES:
        assert page.read_text().count("<!-- printed -->") == sum(x is not None for x in printed.shown(page)), page


def with_python(*, slow: bool) -> list[Path]:
    """Pages that need nothing but zprime; those of other libraries are run beside these (`tests/test_bring_*.py`)."""
    found = {p: f for p, f in BLOCKS.items() if p.parent.name != "bring"}
    return [p for p, f in found.items() if any(b[1] == "python" and (b[0] or not slow) for b in f)]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "bring"], ids=name)
def test_pages_of_other_libraries_run_in_the_tests_of_their_adapters(page: Path) -> None:
    assert f'run_page("bring/{page.name}"' in (ROOT / "tests" / f"test_bring_{page.stem}.py").read_text()


RUN_ELSEWHERE = ("README.md", "question.md", "questions.md")
"""By a test below, and by tests/test_answers.py, which compares what the blocks print with what is shown."""


@pytest.mark.parametrize("page", [p for p in with_python(slow=False) if p.name not in RUN_ELSEWHERE], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_python(slow=True), ids=name)
def test_slow_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(page, slow=True)


def test_readme_blocks_run_as_a_user_would(tmp_path: Path) -> None:
    found = [text for _, language, text in BLOCKS[ROOT / "README.md"] if language == "python"]
    code = "\n".join(found)
    for block in found[:2]:  # a model of one's own, and one that zprime trains
        assert "zprime.audit" in block
        assert sum(bool(line.strip()) for line in block.splitlines()) <= 14
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "from mixture(" in done.stdout  # the verdict that the README tells of


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_their_language(page: Path) -> None:
    text = page.read_text()
    assert text.count("```") == 2 * len(BLOCKS[page]), "a code block that no test sees"
    for _, language, block in BLOCKS[page]:
        assert language in LANGUAGES, language
        if language == "toml":
            tomllib.loads(block)


@pytest.mark.parametrize(("page", "slow", "line"), LINES, ids=[f"{name(p)}: {line[:60]}" for p, _, line in LINES])
def test_shell_lines_are_commands_that_exist(page: Path, slow: bool, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "zprime":
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets), line
    else:
        assert words[0] in ("pip", "python", "cd", "git"), f"{line}: no test knows this command"
        for extra in re.findall(r"\[([\w,-]+)\]", line):
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(extra.split(",")) <= set(known), line


SERVED = [
    line
    for _, language, text in BLOCKS[ROOT / "docs" / "explore.md"]
    if language == "text"
    for line in text.splitlines()
    if line.startswith("zprime ")
]
"""Commands that run until Ctrl-C: test_exploring_server.py and test_exploring_browser.py run them."""


@pytest.mark.parametrize("line", SERVED)
def test_commands_that_serve_exist(line: str) -> None:
    app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_there_are_two_commands_that_serve() -> None:
    assert len(SERVED) == 2


def shell_pages(*, slow: bool) -> list[Path]:
    return [p for p in PAGES if any(q == p and late == slow and line.startswith("zprime ") for q, late, line in LINES)]


def run_shell(page: Path, folder: Path, *, slow: bool) -> None:
    """The `zprime` lines of a page in order, in a folder with `images/` and `new.npy`, tiny."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(400):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / "images" / f"{i}.png")
    np.save(folder / "new.npy", rng.integers(0, 17, (60, 8, 8)).astype(np.float32))
    for q, late, line in LINES:
        words = shlex.split(line)
        if q != page or late > slow:
            continue
        if words[0] == "python" and (folder / words[1]).exists():  # what `zprime init` wrote
            subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True, capture_output=True, timeout=300)
        if words[0] != "zprime":
            continue
        missing = [w for w in words if w.startswith("/") and not Path(w).exists()]
        if missing:
            continue  # a data set that this machine does not have
        done = subprocess.run(
            [sys.executable, "-m", "zprime.cli", *words[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, **TINY} if "--model" not in words else {**os.environ, **UNTRAINED},
            timeout=900,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({*shell_pages(slow=False), *shell_pages(slow=True)}), ids=name)
def test_shell_blocks_run(page: Path, tmp_path: Path) -> None:
    run_shell(page, tmp_path, slow=True)


def test_the_first_commands_run(tmp_path: Path) -> None:
    """Those of the docs' first page, which are the first that anybody types."""
    run_shell(ROOT / "docs" / "index.md", tmp_path, slow=False)
    assert (tmp_path / "runs" / "demo" / "report.html").exists()


@pytest.mark.parametrize("phrase", TOO_STRONG)
def test_nothing_is_said_more_strongly_than_it_holds(phrase: str) -> None:
    """In the docs, and in what page, terminal and verdicts say: comments and sentences of the source."""
    pages = [p for p in PAGES if p.name != "changes.md"]  # made by `make docs`; it tells which words there were
    said = [*pages, *sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "src").rglob("*.j2"))]
    told = {p: re.sub(r'"\s*\n\s*f?"', "", p.read_text()) for p in said}  # sentences go on over lines of the source
    found = [name(p) for p, text in told.items() if re.search(phrase, re.sub(r"\s+", " ", text))]
    assert not found, TOO_STRONG[phrase]


def test_every_module_is_named_on_the_page_of_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = {p.name for p in (ROOT / "src" / "zprime").glob("*.py")}
    modules |= {f"{p.parent.name}/" for p in (ROOT / "src" / "zprime").glob("*/__init__.py")}
    assert [m for m in sorted(modules) if not re.search(rf"(?m)^      .*{re.escape(m)}", text)] == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    plain = [unicodedata.normalize("NFKD", h).encode("ascii", "ignore").decode() for h in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target
            if page.is_relative_to(ROOT / "docs"):  # beyond it the built site has no page
                assert found.is_relative_to(ROOT / "docs"), target


def test_the_paper_cites_what_its_bibliography_has_and_shows_pictures_that_are_there() -> None:
    text = (ROOT / "paper" / "paper.md").read_text()
    known = set(re.findall(r"^@\w+\{([\w-]+),", (ROOT / "paper" / "paper.bib").read_text(), re.M))
    cited = set(re.findall(r"(?<![\w.])@([a-z][\w-]+)", text.split("---", 2)[2]))
    assert cited == known
    pictures = re.findall(r"!\[.+?\]\((\S+?)\)", text, re.S)
    assert len(pictures) == 2
    assert all((ROOT / "paper" / p).is_file() for p in pictures)

"""A release: refused where something is not ready, done whole or not at all, and a dry run changes nothing."""

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import release  # noqa: E402

PYPROJECT = '[project]\nname = "zprime"\nversion = "0.2.0.dev0"\n\n[project.scripts]\nzprime = "zprime.cli:main"\n'
ADDRESS = "https://host.example/owner/zprime"
MAKE = ".PHONY: wheels sbom\nwheels:\n\tmkdir -p dist\n\techo wheel > dist/a.whl\nsbom:\n\techo sbom > dist/b.json\n"


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "news").mkdir()
    files = {
        "pyproject.toml": PYPROJECT,
        "Makefile": MAKE,
        ".gitignore": "dist/\n",
        "CHANGELOG.md": "# Changelog\n\n## 0.1.0 (2026-01-01)\n\n**Added**\n\n- The first.\n",
        "news/README.md": "how\n",
        "news/b.fixed.md": "A fault\nis gone.\n",
        "news/a.added.md": "A thing.\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "tests")
    git(tmp_path, "config", "user.email", "tests@host.example")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "start")
    return tmp_path


def state(root: Path) -> tuple[str, ...]:
    files = {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and ".git" not in p.parts}
    return git(root, "rev-parse", "HEAD"), git(root, "tag"), git(root, "status", "--porcelain"), repr(files)


def make(root: Path, *arguments: str) -> int:
    return release.main([*arguments, "--checked"], root)


def test_a_release_is_committed_built_and_tagged(repository: Path) -> None:
    assert make(repository, "0.2.0", "--repository", ADDRESS) == 0
    log = (repository / "CHANGELOG.md").read_text()
    assert log.startswith("# Changelog\n\n## 0.2.0 (20")
    assert log.endswith(
        "- A thing.\n\n**Fixed**\n\n- A fault is gone.\n\n## 0.1.0 (2026-01-01)\n\n**Added**\n\n- The first.\n"
    )
    table = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert table["version"] == "0.2.0"
    assert table["urls"]["Changelog"] == f"{ADDRESS}/CHANGELOG.md"
    assert [p.name for p in (repository / "news").iterdir()] == ["README.md"]
    assert git(repository, "tag", "--points-at", "HEAD") == "v0.2.0"
    assert git(repository, "status", "--porcelain") == ""
    lines = (repository / "dist" / "SHA256SUMS").read_text().splitlines()
    assert lines[0] == f"{hashlib.sha256(b'wheel' + bytes([10])).hexdigest()}  a.whl"
    assert [line.split()[1] for line in lines] == ["a.whl", "b.json"]


def test_a_dry_run_changes_nothing_and_says_all(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(repository)
    assert release.main(["0.2.0", "--dry-run", "--repository", ADDRESS], repository) == 0
    assert state(repository) == before
    said = capsys.readouterr().out
    for part in (*release.CHECKS, *release.BUILDS, "2 fragments", "tag v0.2.0", "- A fault is gone.", "[project.urls]"):
        assert part in said


def dirty(root: Path) -> None:
    (root / "new.txt").write_text("")


def branch(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "other")


def tagged(root: Path) -> None:
    git(root, "tag", "v0.2.0")


def no_news(root: Path) -> None:
    git(root, "rm", "-q", "news/a.added.md", "news/b.fixed.md")
    git(root, "commit", "-q", "-m", "none")


def strange_news(root: Path) -> None:
    git(root, "mv", "news/a.added.md", "news/a.addde.md")
    git(root, "commit", "-q", "-m", "typo")


@pytest.mark.parametrize(
    ("break_it", "arguments", "text"),
    [
        (dirty, ("0.2.0", "--repository", ADDRESS), "the tree is not clean"),
        (branch, ("0.2.0", "--repository", ADDRESS), "expected branch main, on other"),
        (tagged, ("0.2.0", "--repository", ADDRESS), "tag v0.2.0 is there already"),
        (no_news, ("0.2.0", "--repository", ADDRESS), "no fragments"),
        (strange_news, ("0.2.0", "--repository", ADDRESS), "found a.addde.md"),
        (None, ("0.2.0",), "no [project.urls]"),
        (None, ("0.2.0", "--repository", "https://name:word@host.example/a/b"), "expected https://HOST"),
        (None, ("0.1.9", "--repository", ADDRESS), "0.2.0.dev0 is not before it"),
        (None, ("0.2", "--repository", ADDRESS), "expected three numbers"),
        (None, ("0.2.0.dev1", "--repository", ADDRESS), "expected three numbers"),
    ],
)
def test_what_is_not_ready_is_refused(
    repository: Path, break_it: object, arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if callable(break_it):
        break_it(repository)
    before = state(repository)
    assert make(repository, *arguments) == 1
    assert text in capsys.readouterr().err
    assert state(repository) == before


@pytest.mark.parametrize("fault", ["build", "commit", "tag"])
def test_a_release_that_fails_leaves_the_branch_as_it_was(repository: Path, fault: str) -> None:
    if fault == "build":
        (repository / "Makefile").write_text(MAKE + "\tfalse\n")
        git(repository, "commit", "-q", "-a", "-m", "broken")
    elif fault == "commit":
        hook = repository / ".git" / "hooks" / "pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    else:
        git(repository, "tag", "v0.2.0/nested")  # so that v0.2.0 cannot be made
    head, tags, status, _ = state(repository)
    assert make(repository, "0.2.0", "--repository", ADDRESS) == 1
    assert state(repository)[:3] == (head, tags, status)
    assert (repository / "news" / "a.added.md").exists()


def test_checks_come_first_and_stop_a_release(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(repository)
    assert release.main(["0.2.0", "--repository", ADDRESS], repository) == 1  # this Makefile has no `check`
    assert "`make check` failed" in capsys.readouterr().err
    assert state(repository) == before


@pytest.mark.parametrize(("earlier", "later"), [("0.2.0.dev0", "0.2.0"), ("0.2.0", "0.10.0"), ("0.9.9", "1.0.0")])
def test_versions_are_in_order(earlier: str, later: str) -> None:
    assert release.number(earlier) < release.number(later)

"""Make a release: python tools/release.py VERSION [--repository URL] [--checked] [--dry-run].

In this order: refuse what is not ready, run the checks, move the fragments of news/ into CHANGELOG.md, set the version,
commit, build dist/ (sdist, wheel, SBOM, SHA256SUMS), and tag. Nothing is pushed or uploaded. A dry run does the first
and says the rest. Where a step fails, the branch and its files are as they were, and there is no tag.
"""

import argparse
import datetime
import hashlib
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from changes import KINDS, unreleased

ROOT = Path(__file__).parent.parent
CHECKS = ("make check", "make chaos-short", "make browser", "make docs", "make min-versions")
BUILDS = ("make wheels", "make sbom")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(/[A-Za-z0-9._-]+)+")  # no user, password, port or query
PLACES = {"Homepage": "", "Documentation": "", "Source": "", "Changelog": "CHANGELOG.md", "Issues": "issues"}


class NotReadyError(Exception):
    """What has to be done before a release can be made."""


@dataclass(frozen=True)
class Release:
    """A release that is asked for: its version, where the project is published, the repository's folder."""

    version: str
    repository: str | None = None
    root: Path = ROOT

    @property
    def tag(self) -> str:
        return f"v{self.version}"


def git(root: Path, *arguments: str) -> str:
    """Git's output."""
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if run.returncode:
        raise NotReadyError(f"git {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout.strip()


def number(version: str) -> tuple[int, ...]:
    """The three numbers of a version, and whether it is final: 0.2.0.dev0 comes before 0.2.0."""
    found = VERSION.match(version)
    if found is None:
        raise NotReadyError(f"version: expected three numbers such as 0.2.0, got {version}")
    return (*map(int, found.groups()), int(found.end() == len(version)))


def project(root: Path) -> dict[str, object]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def fragments(root: Path) -> list[Path]:
    """The fragments in news/, in the order of the changelog."""
    found = {kind: sorted((root / "news").glob(f"*.{kind}.md")) for kind in KINDS}
    known = [f for files in found.values() for f in files]
    strange = {*(root / "news").iterdir()} - {*known, root / "news" / "README.md"}
    if strange:
        names = ", ".join(sorted(f.name for f in strange))
        raise NotReadyError(f"news: expected NAME.({'|'.join(KINDS)}).md, found {names}")
    empty = [f.name for f in known if not f.read_text().strip()]
    if empty:
        raise NotReadyError(f"news: {', '.join(empty)} is empty")
    return known


def refuse(asked: Release) -> None:
    """Raise NotReadyError, with everything that is in the way at once."""
    wrong = []

    def need(holds: object, else_say: str) -> None:
        if not holds:
            wrong.append(else_say)

    need(VERSION.fullmatch(asked.version), f"version: expected three numbers such as 0.2.0, got {asked.version}")
    table = project(asked.root)
    if not wrong:
        need(number(asked.version) > number(str(table["version"])), f"version: {table['version']} is not before it")
    need(
        not git(asked.root, "status", "--porcelain"),
        "the tree is not clean: commit, or put away, what git status shows",
    )
    branch = git(asked.root, "rev-parse", "--abbrev-ref", "HEAD")
    need(branch == "main", f"expected branch main, on {branch}")
    need(not git(asked.root, "tag", "--list", asked.tag), f"tag {asked.tag} is there already")
    try:
        need(fragments(asked.root), "news/ has no fragments: nothing to release")
    except NotReadyError as found:
        wrong.append(str(found))
    need(
        "urls" in table or asked.repository,
        "pyproject.toml has no [project.urls]: give the public address, REPOSITORY=https://HOST/OWNER/zprime",
    )
    need(
        asked.repository is None or ADDRESS.fullmatch(asked.repository),
        f"repository: expected https://HOST/OWNER/NAME, got {asked.repository}",
    )
    if wrong:
        raise NotReadyError("\n".join(wrong))


def changelog(asked: Release, day: str) -> str:
    """CHANGELOG.md with this release first."""
    path = asked.root / "CHANGELOG.md"
    before = path.read_text().split("\n", 1)[1].strip() if path.exists() else ""
    parts = ["# Changelog", f"## {asked.version} ({day})", *unreleased(asked.root)]
    return "\n\n".join([*parts, before] if before else parts) + "\n"


def metadata(asked: Release) -> str:
    """pyproject.toml with the version, and with the addresses where they were asked for."""
    text = (asked.root / "pyproject.toml").read_text()
    text, changed = re.subn(r'^version = "[^"]*"$', f'version = "{asked.version}"', text, count=1, flags=re.M)
    if changed != 1 or tomllib.loads(text)["project"]["version"] != asked.version:
        raise NotReadyError("pyproject.toml: expected a line `version = ...` in [project]")
    if asked.repository and "urls" not in project(asked.root):
        base = asked.repository
        lines = [f'{name} = "{base}{"/" + tail if tail else ""}"' for name, tail in PLACES.items()]
        text = text.replace("[project.scripts]", "[project.urls]\n" + "\n".join(lines) + "\n\n[project.scripts]", 1)
    return text


def sums(folder: Path) -> str:
    """What `sha256sum --check` reads, for every file of a folder but SHA256SUMS."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)


def call(root: Path, command: str) -> None:
    """Run one step in the repository."""
    print(f"+ {command}", flush=True)
    if subprocess.run(command.split(), cwd=root).returncode:
        raise NotReadyError(f"`{command}` failed")


def build(root: Path) -> None:
    """Fill dist/ anew."""
    dist = root / "dist"
    for old in dist.glob("*") if dist.is_dir() else ():
        old.unlink()
    for command in BUILDS:
        call(root, command)
    (dist / "SHA256SUMS").write_text(sums(dist))


def release(asked: Release, *, checked: bool, day: str) -> None:
    """Do it. The caller has refused what is not ready."""
    root = asked.root
    for command in () if checked else CHECKS:
        call(root, command)
    refuse(asked)  # a check may have written files
    news, log, table = fragments(root), changelog(asked, day), metadata(asked)
    start = git(root, "rev-parse", "HEAD")
    try:
        (root / "CHANGELOG.md").write_text(log)
        (root / "pyproject.toml").write_text(table)
        for path in news:
            path.unlink()
        git(root, "add", "--all", "CHANGELOG.md", "pyproject.toml", "news")
        git(root, "commit", "--quiet", "-m", f"Release {asked.version}")
        build(root)
        git(root, "tag", "-a", asked.tag, "-m", f"zprime {asked.version}")
    except BaseException:
        git(root, "reset", "--quiet", "--hard", start)  # the tree was clean: nothing of anyone's is lost
        raise
    print(f"{asked.tag} is committed and tagged, its files are in dist/. Next: git push origin main {asked.tag}")


def plan(asked: Release, *, checked: bool, day: str) -> str:
    """What `release` would do."""
    steps = [] if checked else [*CHECKS]
    added = " and [project.urls]" if asked.repository and "urls" not in project(asked.root) else ""
    steps += [
        f"write CHANGELOG.md from {len(fragments(asked.root))} fragments, and delete these",
        f"set version {asked.version}{added} in pyproject.toml (now {project(asked.root)['version']})",
        f"commit `Release {asked.version}`",
        "empty dist/",
        *BUILDS,
        "write dist/SHA256SUMS",
        f"tag {asked.tag}",
    ]
    return "\n".join([*(f"would: {s}" for s in steps), "", changelog(asked, day).split("\n\n## ")[1]])


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Exit code: 0 done, 1 not ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="three numbers, e.g. 0.2.0")
    parser.add_argument("--repository", help="public address, for the project's URLs, e.g. https://HOST/OWNER/zprime")
    parser.add_argument(
        "--checked", action="store_true", help="the checks passed on this commit: do not run them again"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    given = parser.parse_args(arguments)
    asked = Release(given.version, given.repository, root)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        refuse(asked)
        if given.dry_run:
            print(plan(asked, checked=given.checked, day=day))
        else:
            release(asked, checked=given.checked, day=day)
    except NotReadyError as why:
        print(f"no release: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

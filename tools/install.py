"""Install what a target of the Makefile needs, by the lock of this platform: python tools/install.py GROUP.

With a lock every file that pip takes must have a hash that the lock lists, and nothing third-party is built from
source. A failure under the lock is final: it never falls back to an installation without hashes.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
GROUPS = ("run", "dev", "docs", "tools", "minimum")
LOCK_OF = {"tests": "dev"}  # the tests' packages without zprime itself
TOOLS = ("build", "cmake", "cyclonedx-bom", "ninja", "uv")  # beside what pyproject.toml builds with
EDITABLE = ("dev",)  # groups that install zprime itself, from this folder

Pip = Callable[[list[str]], int]


def here() -> str:
    """The name of this platform, as folders in requirements/ are named."""
    return f"{sys.platform}-{platform.machine().lower()}-py{sys.version_info[0]}{sys.version_info[1]}"


def pip(arguments: list[str]) -> int:
    """Run pip of this interpreter; its exit code."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"], cwd=ROOT).returncode


def torch_is_there(lock: Path, call: Pip) -> bool:
    """Whether pip finds the build of torch that the lock names: the CPU builds are not on PyPI."""
    found = re.search(r"^torch==\S+", lock.read_text(), re.M)
    return found is None or call(["install", "-qqq", "--dry-run", "--no-deps", found[0]]) == 0


def unlocked(group: str, why: str, call: Pip) -> int:
    """Install by constraints.txt, without hashes, and say so."""
    print(f"installing without hashes, by constraints.txt: {why}", flush=True)
    if group == "minimum":
        print("the lowest versions are known by the lock only: nothing is installed")
        return 1
    what = {"run": ["."], "tests": [".[dev]"], "tools": [*TOOLS]}.get(group, ["-e", f".[{group}]"])
    return call(["install", "-q", "-c", "constraints.txt", *what])


def install(group: str, *, root: Path = ROOT, name: str | None = None, call: Pip = pip) -> int:
    """Install one group; pip's exit code."""
    lock = root / "requirements" / (name or here()) / f"{LOCK_OF.get(group, group)}.txt"
    if not lock.is_file():
        return unlocked(group, f"no lock for {lock.parent.name} in requirements/", call)
    if not torch_is_there(lock, call):
        return unlocked(
            group,
            "pip finds no CPU build of torch as the lock names it "
            "(PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu adds the index that has it)",
            call,
        )
    code = call(["install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)])
    if code == 0 and group in EDITABLE:
        code = call(["install", "-q", "--no-deps", "--no-build-isolation", "-e", "."])
    return code


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in (*GROUPS, *LOCK_OF):
        sys.exit(f"usage: python tools/install.py {'|'.join((*GROUPS, *LOCK_OF))}")
    sys.exit(install(sys.argv[1]))

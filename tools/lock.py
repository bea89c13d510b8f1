"""Write the locks of this platform, requirements/PLATFORM/*.txt, from pyproject.toml: python tools/lock.py [--upgrade].

Needs uv. Packages come from PyPI, the CPU build of torch from the places that pip's setting `find-links` names, else
from torch's own index. No address is written into the locks.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from install import GROUPS, ROOT, TOOLS, here

OPTIONS = ["--quiet", "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-find-links"]
HEAD = "# Made by `make lock` from pyproject.toml and constraints.txt, for {}: {}.\n"
WHAT = {
    "run": "what zprime imports",
    "dev": "the tests, and what zprime is built with",
    "docs": "the documentation site, beside dev.txt",
    "tools": "the tools of a release, and what zprime is built with",
    "minimum": "the lowest versions that pyproject.toml allows, with their tests",
}
BINARIES = ("cmake>=3.26", "ninja>=1.11")  # what CMakeLists.txt is run by; older ones have no wheel
TESTED = ("pytest", "pytest-xdist", "hypothesis", "beartype", "scikit-learn")  # beside the lowest versions


def asked(group: str, project: dict[str, Any], torch: str) -> list[str]:
    """The requirements that a group is made from."""
    extras = project["project"]["optional-dependencies"]
    run = project["project"]["dependencies"]
    build = project["build-system"]["requires"]
    tests = [line for line in extras["dev"] if line.split(">")[0] in TESTED]
    return {
        "run": [*run, torch],
        "dev": [*run, torch, *extras["dev"], *build, *BINARIES],
        "docs": extras["docs"],
        "tools": [*TOOLS, *build],
        "minimum": [*run, *tests, *build, *BINARIES],
    }[group]


def torch_here() -> str:
    """The build of torch that constraints.txt pins, the CPU build on Linux."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pin = next(line for line in lines if line.startswith("torch=="))
    return f"{pin}+cpu" if sys.platform == "linux" else pin


def places_of_torch() -> list[str]:
    """Options that say where the CPU build of torch is."""
    get = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    found = subprocess.run(get, capture_output=True, text=True).stdout.split()
    return [f"--find-links={place}" for place in found] or ["--find-links=https://download.pytorch.org/whl/cpu/torch/"]


def compile_lock(group: str, project: dict[str, Any], out: Path, more: list[str]) -> None:
    """Write one lock. All but `minimum` agree with dev.txt and constraints.txt."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *places_of_torch(), *more, "-o", str(out), "-"]
    if group == "minimum":
        command += ["--resolution", "lowest-direct"]
    else:
        command += ["-c", str(ROOT / "constraints.txt")]
        command += [] if group == "dev" else ["-c", str(out.with_name("dev.txt"))]
    names = "\n".join(asked(group, project, torch_here()))
    subprocess.run(command, input=names, text=True, check=True, cwd=ROOT)
    out.write_text(HEAD.format(here(), WHAT[group]) + out.read_text())


def main(more: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "requirements" / here()
    folder.mkdir(parents=True, exist_ok=True)
    for group in ("dev", *(g for g in GROUPS if g != "dev")):
        out = folder / f"{group}.txt"
        compile_lock(group, project, out, more)
        print(f"{out.relative_to(ROOT)}: {sum('==' in line for line in out.read_text().splitlines())} packages")


if __name__ == "__main__":
    main(sys.argv[1:])

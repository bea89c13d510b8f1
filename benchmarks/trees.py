"""Two source trees, measured in turns: another checkout of this repository, and this one."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
KERNELS = "from zprime.kernels import compiled; m = compiled.module; print('torch' if m is None else m.used())"


class Ran(NamedTuple):
    """What a process printed, its CPU seconds, and those between start and end."""

    out: str
    cpu: float
    wall: float


@dataclass(frozen=True)
class Tree:
    """A checkout whose `src` is imported by processes of one thread, in this environment."""

    path: Path

    def run(self, *command: str) -> Ran:
        """`python COMMAND` with this tree's zprime; what it prints to standard error is shown if it fails."""
        # as users have it, modules are compiled once and not in every process
        paths = {"PYTHONPATH": str(self.path / "src"), "PYTHONDONTWRITEBYTECODE": ""}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **ONE_THREAD, **paths},
        )
        after, end = resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed
        if done.returncode:
            sys.exit(f"{self.path}: python {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Ran(done.stdout, cpu, end - start)

    def commit(self) -> str:
        """Its short hash, and whether sources differ from it."""
        return commit(self.path)


SOURCES = ("src", "benchmarks", "CMakeLists.txt", "pyproject.toml", "constraints.txt")
RESULTS = "benchmarks/results"


def commit(path: Path) -> str:
    """The commit of a checkout, and `, changed` where what is measured differs from it."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=path, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", *SOURCES, f":(exclude){RESULTS}")
    return git("rev-parse", "--short=7", "HEAD") + (", changed" if changed else "")


def pair(before: Path) -> tuple[Tree, Tree]:
    """The two trees, whose kernels are compiled, and run the same instructions.

    The kernels of a checkout that has none are built, in its `src`.
    """
    trees = Tree(before.resolve()), Tree(HERE.parent)
    for tree in trees:
        if not (tree.path / "src" / "zprime").is_dir():
            sys.exit(f"{tree.path}: expected a checkout of zprime, with src/zprime")
        if not list((tree.path / "src" / "zprime" / "kernels").glob("_compiled*")):
            build(tree)
    used = [tree.run("-c", KERNELS).out.strip() for tree in trees]
    if used[0] != used[1] or "torch" in used:
        sys.exit(f"kernels: expected the same compiled ones, got {used[0]} in {trees[0].path}, {used[1]} here")
    print(f"before: {trees[0].commit()}; now: {trees[1].commit()}; kernels: {used[0]}", flush=True)
    return trees


def build(tree: Tree) -> None:
    """Compile the kernels as an editable install does, without installing anything."""
    print(f"building the kernels of {tree.path}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        configure = ["cmake", "-S", str(tree.path), "-B", folder, f"-DPython_EXECUTABLE={sys.executable}"]
        for command in ([*configure, "-DSKBUILD_STATE=editable"], ["cmake", "--build", folder]):
            if shutil.which(command[0]) is None:
                sys.exit(f"{tree.path}: its kernels are not built, and there is no cmake")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{tree.path}: {' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def ratios(before: Sequence[float], now: Sequence[float]) -> str:
    """Median of the ratios of neighbours, with the smallest and the largest."""
    each = [b / n for b, n in zip(before, now, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"

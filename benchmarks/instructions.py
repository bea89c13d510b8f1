"""How near to the peak: instructions of the compiled sweep, by callgrind, and where its time goes, by perf.

python benchmarks/instructions.py (`make bench-instructions`): needs valgrind and perf. Writes the table of
docs/performance.md. A step is what one vector instruction does: 8 pairs of a point and a component, one dimension.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from trees import commit

HERE = Path(__file__).parent
KERNELS = HERE.parent / "src" / "zprime" / "kernels"
POINTS, COMPONENTS, DIMENSIONS = 128, 2048, (16, 32, 64, 128)
PERF_POINTS, PERF_COMPONENTS = 4096, 60_000


def library() -> Path:
    return next(KERNELS.glob("_compiled*.so"))


def sweep(d: int, points: int, components: int, times: int) -> None:
    """The kernel alone, every pair, one thread. Without torch, which is slow to start under callgrind."""
    spec = importlib.util.spec_from_file_location("_compiled", library())
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((components, d), dtype=np.float32)
    scale = np.exp(rng.uniform(np.log(0.05), np.log(0.4), (components, d))).astype(np.float32)
    some = rng.integers(components, size=points)
    z = mean[some] + scale[some] * rng.standard_normal((points, d), dtype=np.float32)
    panel = module.Single(mean, scale, np.full(components, -np.log(components)), False)
    for _ in range(times):
        shift, total, doubt = np.full(points, -np.inf), np.zeros(points), np.zeros(points)
        panel.sweep(z, shift, total, doubt, None, None, 40.0, 5.77e-5, 1)


def command(d: int, points: int, components: int, times: int) -> list[str]:
    return [sys.executable, __file__, "sweep", *map(str, (d, points, components, times))]


def counted(d: int, times: int) -> int:
    """Instructions inside the library."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command(d, POINTS, COMPONENTS, times)]
        subprocess.run(tool, check=True, capture_output=True)
        listing = subprocess.run(
            ["callgrind_annotate", "--threshold=100", str(out)], check=True, capture_output=True, text=True
        ).stdout
    lines = [x for x in listing.splitlines() if "[" in x and "_compiled" in x]
    return sum(int(re.sub(r"\D", "", x.split("(")[0])) for x in lines)


def spent(d: int) -> tuple[float, str]:
    """Share of the library's samples in its most sampled function, and what it is."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "perf")
        run = command(d, PERF_POINTS, PERF_COMPONENTS, 5)
        subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-o", out, *run], check=True, capture_output=True)
        listing = subprocess.run(
            ["perf", "report", "-i", out, "--stdio", "--no-children", "-s", "dso,symbol"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = []
    for line in listing.splitlines():
        if "_compiled" in line:
            share, name = line.split("]", 1)
            found.append((float(share.split("%")[0]), name.split("(")[0].strip()))
    return max(found)[0] / sum(x for x, _ in found), max(found)[1]


def main() -> None:
    if sys.argv[1:2] == ["sweep"]:
        sweep(*map(int, sys.argv[2:]))
        return
    for tool in ("valgrind", "callgrind_annotate", "perf"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool}: not found; install valgrind and perf (Debian: valgrind, linux-perf)")
    sys.path.insert(0, str(HERE.parent / "examples"))
    from pages import put, table

    rows = []
    for d in DIMENSIONS:
        steps = POINTS * COMPONENTS * d / 8
        once = counted(d, 2) - counted(d, 1)  # without what is done once
        share, where = spent(d)
        rows.append([f"{d}", f"{once / steps:.2f}", f"{share:.1%}"])
        print(d, rows[-1], where, flush=True)
    text = table(["d", "instructions a step (callgrind)", "CPU time in the sweep's own loop (perf)"], rows)
    of = f"commit {commit(HERE.parent)}, {time.strftime('%Y-%m-%d')}"
    text += f"\n\n*`make bench-instructions` at {of}: {POINTS} points, {COMPONENTS:,} components;"
    text += f" perf with {PERF_POINTS:,} and {PERF_COMPONENTS:,}; seed 0.*"
    put(HERE.parent / "docs" / "performance.md", "instructions", text)


if __name__ == "__main__":
    main()

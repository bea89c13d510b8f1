"""The default kinds in thousands of dimensions: CPU seconds of fits and audit, and the memory that they take at most.

The mixture gets the number of components and the rank that it would choose.

python benchmarks/speed/dimensions.py D N does it in this process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import HERE

import zprime
from zprime.fit_stage import KINDS
from zprime.latent import MixtureSettings
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings

D, N, UNSEEN = 4096, 5000, 1000
FACTORS = 20
MIXTURE = MixtureSettings(components=84, covariance="low-rank", rank=8, restarts=1)
"""What the defaults choose here; choosing it takes nine times as long."""
LIMIT = 4 * 1024
"""Megabytes that may be taken in all."""


def posteriors(n: int, d: int, seed: int) -> MemoryPosteriors:
    """Codes with 20 common factors, in single precision."""
    load = torch.randn(FACTORS, d, generator=torch.Generator().manual_seed(0)) / FACTORS**0.5
    rng = torch.Generator().manual_seed(seed)
    mean = 0.8 * torch.randn(n, FACTORS, generator=rng) @ load + 0.3 * torch.randn(n, d, generator=rng)
    return MemoryPosteriors(mean, torch.full((n, d), 0.5), row_ids=torch.arange(n) + 10**6 * seed)


def highest() -> float:
    """Megabytes that this process has taken at most; `ru_maxrss` begins with what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) / 1024


def work(d: int, n: int) -> None:
    """Fit and audit; a line of JSON for every step."""
    torch.set_num_threads(1)
    sizes = {"train": n, "selection": UNSEEN, "heldout": UNSEEN}
    splits = {name: posteriors(size, d, i + 1) for i, (name, size) in enumerate(sizes.items())}
    fits = {}
    for kind in KINDS:
        start = time.process_time()
        how = MIXTURE if kind == MIXTURE.kind else kind
        fits[kind] = zprime.fit(how, splits["train"], selection=splits["selection"], keep_duplicates=True)
        told(fits[kind].distribution.label, start)
    start = time.process_time()
    found = zprime.audit(fits, splits, settings=AuditSettings(rows=200))
    told("audit", start)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "audit")
        zprime.report(Path(folder) / "audit", Path(folder) / "report.html")
    told("audit saved and read again, and its page", start)


def told(what: str, start: float) -> None:
    print(json.dumps([what, time.process_time() - start, highest()]), flush=True)


def dimensions() -> dict[str, list[float]]:
    """What was done -> CPU seconds, and megabytes taken at most until then."""
    code = f"import sys; sys.path.insert(0, {str(HERE / 'speed')!r}); import dimensions; dimensions.work({D}, {N})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found = {what: [seconds, most] for what, seconds, most in map(json.loads, out.stdout.splitlines())}
    for what, (seconds, most) in found.items():
        over = "" if most < LIMIT else f", more than {LIMIT:,}"
        print(f"{D:,} dimensions, {N:,} rows: {what:40} {seconds:8.1f} CPU s, {most:6,.0f} MB{over}", flush=True)
    return found


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))

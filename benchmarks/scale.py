"""Posteriors of any number: python benchmarks/scale.py (`make scale`) measures, and writes docs/scale.md.

Posteriors of N rows with 16 latents are made shard by shard. Every step is a process of its own, in which no more than
4 GiB of data may be had (RLIMIT_DATA), with one thread; CPU seconds and peak memory are those of the step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import zprime
from zprime.aggregate import Shard
from zprime.fitting import load_fit, save_fit
from zprime.latent import GaussianSettings, MixtureSettings
from zprime.latent.kind import Settings
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split
from zprime.posteriors import Posteriors, ShardedPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
STORE = HERE / "results" / "scale.json"
D, MODES, EACH, LIMIT = 16, 200, 16_384, 4 << 30
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
FITS: dict[str, Settings] = {
    "gaussian": GaussianSettings(),
    "mixture": MixtureSettings(components=100, restarts=1),
}


class Generated(Posteriors):
    """Posteriors about a mixture of 200 Gaussians, made when they are asked for: every shard from its own seed."""

    def __init__(self, n: int, name: str) -> None:
        self.n, self.d, self.name = n, D, name
        self.row_ids = torch.arange(n)
        self.weights = self.labels = None
        rng = stream(0, "modes")
        self.modes = 0.9 * torch.randn(MODES, D, generator=rng)
        self.widths = 0.1 + 0.3 * torch.rand(MODES, D, generator=rng)

    def shards(self) -> Iterator[Shard]:
        for start in range(0, self.n, EACH):
            rng, m = stream(0, "shard", self.name, start), min(EACH, self.n - start)
            k = torch.randint(MODES, (m,), generator=rng)
            mean = self.modes[k] + self.widths[k] * torch.randn(m, D, generator=rng)
            yield Shard(start, mean, 0.1 + 0.2 * torch.rand(m, D, generator=rng))


def step(name: str, n: int, folder: Path) -> str:
    """Do one step; what it found, in words."""
    train = folder / "train"
    if name == "store":
        for split, rows in (("train", n), ("selection", 5_000), ("heldout", 5_000)):
            Generated(rows, split).save(folder / split)
        return f"{sum(f.stat().st_size for f in train.iterdir()) / 1e9:.2f} GB"
    posteriors = {s: ShardedPosteriors(folder / s) for s in ("train", "selection", "heldout")}
    if name in FITS:
        found = zprime.fit(
            FITS[name], posteriors["train"], selection=posteriors["selection"], keep_duplicates=True, seed=0
        )
        save_fit(found, FITS[name], folder / name, key="", seed=0, inputs={})
        return found.outcome.message
    if name == "density":
        z = posteriors["heldout"].gather().mean[:1_000]
        return f"mean log qbar {float(posteriors['train'].log_prob(z).mean()):.3f}"
    if name == "sample":
        return f"mean {float(posteriors['train'].sample(1_000_000, rng=stream(0, 'z')).mean()):+.4f}"
    if name == "surgery":
        split = Split("train", posteriors["train"].gather())
        cut = surgery(split, rng=stream(0, "surgery"))
        return f"KL(qbar || p) {cut.hole}, I {cut.information}, of {cut.information.n:,} rows"
    fits = {kind: load_fit(folder / kind) for kind in FITS}
    audit = zprime.audit(fits, posteriors, settings=AuditSettings(), keep_duplicates=True, seed=0)
    (folder / "audit.json").write_text(json.dumps(str(audit)))
    cut = audit.surgery["train"]
    return f"KL(qbar || p) {cut.hole}, I {cut.information}"


STEPS = {
    "store": "written to disk, in shards",
    "gaussian": "`gaussian`, exact moments",
    "mixture": "`mixture`, $K = 100$",
    "density": "log-density of the aggregated posterior at 1,000 points, one pass",
    "sample": "1,000,000 draws of it",
    "surgery": "ELBO surgery, with rows of a sample under all components",
    "audit": "audit of both fits without a decoder: surgery, gains, latent side",
}


def alone(name: str, n: int, folder: Path) -> dict[str, object]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--step", name, "--size", str(n), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:300]}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run(name: str, n: int, folder: Path) -> None:
    """What a process of its own does."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    start, began = time.process_time(), time.monotonic()
    said = step(name, n, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out = {"cpu": time.process_time() - start, "wall": time.monotonic() - began, "peak": peak, "said": said}
    print(json.dumps(out))


def exponent(sizes: list[int], seconds: list[float]) -> str:
    """Of the power law through these sizes, by least squares of logs."""
    return f"{float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]):.2f}" if len(sizes) > 1 else ""


def table(found: dict[str, dict[str, dict[str, object]]]) -> str:
    """CPU seconds and peak memory of every step, and how they grow."""
    sizes = sorted((int(n) for n in found), key=int)
    lines = [
        "| | " + " | ".join(f"$N$ = {n:,}" for n in sizes) + " | exponent, all sizes | the last two |",
        "| --- |" + " --- |" * (len(sizes) + 2),
    ]
    for name, words in STEPS.items():
        cells, known, cpu = [], [], []
        for n in sizes:
            one = found[str(n)].get(name, {})
            if "cpu" in one:
                known.append(n)
                cpu.append(float(str(one["cpu"])))
                cells.append(f"{cpu[-1]:.1f} s, {float(str(one['peak'])) / 2**30:.2f} GiB")
            else:
                cells.append(str(one.get("failed", "not measured")))
        lines.append(
            f"| {words} | " + " | ".join([*cells, exponent(known, cpu), exponent(known[-2:], cpu[-2:])]) + " |"
        )
    return "\n".join(lines)


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def page(told: dict[str, object], found: dict[str, dict[str, dict[str, object]]]) -> None:
    """Put the table between the marks of docs/scale.md."""
    text = PAGE.read_text()
    start, end = "<!-- measured -->\n", "<!-- end -->"
    before, rest = text.split(start)
    after = rest.split(end)[1]
    of_step = {name: {str(found[n][name]["commit"]) for n in found if name in found[n]} for name in STEPS}
    of_all = {
        c: [STEPS[k] for k, those in of_step.items() if c in those] for c in sorted(set().union(*of_step.values()))
    }
    first = max(of_all, key=lambda c: len(of_all[c]))
    others = "".join(f"; at {c}: {', '.join(names)}" for c, names in of_all.items() if c != first)
    said = f"Measured at commit {first}{others}. {told['date']}, one thread of a machine with {told['cores']} cores:"
    PAGE.write_text(f"{before}{start}\n{said}\n\n{table(found)}\n\n{end}{after}")


def main() -> None:
    """Measure all sizes up to the largest that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument(
        "--only", nargs="+", choices=STEPS, help="measure these again, and keep what there is of others"
    )
    parser.add_argument("--page", action="store_true", help="write the page from the results there are")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--size", type=int)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.step:
        run(args.step, args.size, args.folder)
        return
    if args.page:
        kept = json.loads(STORE.read_text())
        page(kept["told"], kept["found"])
        return
    kept = json.loads(STORE.read_text()) if args.only else {"found": {}}
    found: dict[str, dict[str, dict[str, object]]] = kept["found"]
    told: dict[str, object] = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
    for n in (n for n in SIZES if n <= args.most):
        with tempfile.TemporaryDirectory() as folder:
            of_size = found.setdefault(str(n), {})
            for name in STEPS:
                if args.only and name != "store" and name not in args.only:
                    continue
                of_size[name] = alone(name, n, Path(folder)) | {"commit": commit()}
                print(f"{n:>11,} {name:9} {of_size[name]}", flush=True)
        STORE.write_text(json.dumps({"told": told, "found": found}, indent=1) + "\n")
    page(told, found)


if __name__ == "__main__":
    main()

"""Speed and memory against what people would use instead: python benchmarks/speed (`make bench`).

Ours and the peer take turns, in CPU seconds of one thread, and what is reported is the ratio of neighbours: other work
on the machine slows both. Peers that are slow get fewer points; per point their cost does not depend on how many.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import torch
from densities import accuracy, densities, expectation, low_rank, memory, peak, pruning, scores
from dimensions import LIMIT, dimensions
from growth import growth
from jobs import auditing, neighbours, reduction, sampling, training
from page import page, plots
from threadpoolctl import threadpool_limits
from timing import DOCS, FASHION, HERE, Row

import zprime
from zprime.kernels import compiled
from zprime.posteriors import MemoryPosteriors


def trained(folder: Path, seed: int = 0) -> tuple[MemoryPosteriors, MemoryPosteriors]:
    """Posteriors of Fashion-MNIST under a small network, trained for five epochs and kept in `folder`."""
    from zprime.posteriors import ShardedPosteriors

    if not (folder / "heldout").exists():
        data = zprime.load_data(zprime.DataSettings(str(FASHION)), seed=seed)
        vae = zprime.VAE.build(data.shape, zprime.VAESettings(latents=16, network="mlp"), seed=seed)
        rows = {split: data.rows(split) for split in ("train", "selection", "heldout")}
        zprime.train(vae, rows["train"], rows["selection"], zprime.TrainSettings(epochs=5), seed=seed)
        for split in ("train", "heldout"):
            zprime.encode(vae, rows[split], folder / split)
    return ShardedPosteriors(folder / "train").gather(), ShardedPosteriors(folder / "heldout").gather()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posteriors", type=Path, default=HERE.parent / "runs" / "bench", help="kept here, or made")
    parser.add_argument("--pythae", type=Path, help="Python of an environment with pythae and what zprime needs")
    parser.add_argument("--run", type=Path, help="a run of all kinds on Fashion-MNIST, whose audit is timed")
    parser.add_argument("--only", nargs="*", help="groups to measure again; the rest is taken from the last results")
    parser.add_argument("--page", action="store_true", help="write the page from the results there are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # scikit-learn's libraries have threads of their own, which wait in CPU time
    start = time.monotonic()
    posteriors = cache(partial(trained, args.posteriors))  # made by the first group that needs them
    store = HERE / "results" / "speed.json"
    groups: dict[str, Callable[[], object]] = {
        "densities": densities,
        "peak": lambda: peak(posteriors()[0]),
        "pruning": lambda: pruning(posteriors()[0]),
        "scores": lambda: scores(posteriors()[0]),
        "sampling": lambda: sampling(posteriors()[0]),
        "expectation": lambda: expectation(posteriors()[0]),
        "low rank": low_rank,
        "reduction": lambda: reduction(*posteriors()),
        "training": lambda: training(args.pythae) if args.pythae else [],
        "neighbours": lambda: neighbours(*posteriors()),
        "audit": lambda: auditing(args.run, args.pythae) if args.run and args.pythae else [],
        "accuracy": accuracy,
        "memory": memory,
        "dimensions": dimensions,
        "growth": lambda: growth(*posteriors()),
    }
    for name, measure in groups.items():
        if args.page or (args.only and name not in args.only):
            continue
        keep(store, name, measure())
    found = json.loads(store.read_text())
    if not args.page and not args.only:
        found["minutes"] = (time.monotonic() - start) / 60
        store.write_text(json.dumps(found, indent=1) + "\n")
    order = [name for name in groups if name in found["rows"]]
    rows = [Row(**r) for name in order for r in found["rows"][name]]
    if all(name in found for name in ("growth", "accuracy", "memory", "heldout")):
        plots(found, rows)
        text = page(found, rows)
        from pages import put

        put(DOCS / "performance.md", "speed", text)
    missed = [f"{r.job} against {r.against}: {r.ratio:.3g}" for r in rows if r.least is not None and r.ratio < r.least]
    missed += [f"{what}: {most:,.0f} MB" for what, (_, most) in found.get("dimensions", {}).items() if most > LIMIT]
    print(f"\nbelow what was to be reached: {missed or 'nothing'}")


def keep(store: Path, name: str, result: object) -> None:
    """Put what a group found into the results at once, beside those of other groups."""
    found: dict[str, object] = json.loads(store.read_text()) if store.exists() else {"rows": {}}
    kernel = "torch" if compiled.module is None else compiled.module.used()
    found["machine"] = f"{processor()}, one thread, torch {torch.__version__}, kernels: {kernel}"
    if name == "reduction":
        result, found["heldout"] = result
    if name in ("accuracy", "memory", "dimensions", "growth"):
        found[name] = result
    elif result:
        found["rows"][name] = [asdict(r) for r in result]
    store.write_text(json.dumps(found, indent=1) + "\n")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(": ")[1] for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    )
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


if __name__ == "__main__":
    main()

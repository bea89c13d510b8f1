"""Disturb zprime at every call, and see that nothing is lost, mixed or left: `make chaos`, `make chaos-short`.

A very small run is made again and again in processes forked from this one. Faults are printed, and then it exits 1.
"""

import argparse
import os
import pickle
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))

import pages
import torch
from damage import cuts, flips, swaps
from failures import Scene, Tally, disturb, prepare, scenes, undisturbed
from faults import Faults
from kills import kills, together, watch
from memory import allocations
from page import table
from stage import AUDIT, DATA, fresh, run, scratch, steady_clock, verb, warm
from stage import table as rows

REPLACING = ("fit --replace", "audit with other settings", "train --replace", "run --replace")


def share(work: Callable[[int, Path], Tally], top: Path, workers: int) -> Tally:
    """Let several processes do their share of something: what all of them counted."""
    children = []
    for i in range(workers):
        place = top / f"worker-{i}"
        place.mkdir(exist_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code = 1
            try:
                (place / "tally").write_bytes(pickle.dumps(work(i, place)))
                code = 0
            except BaseException as error:
                print(f"worker {i}: {error!r}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        children.append((child, place))
    try:
        codes = [os.waitpid(child, 0)[1] for child, _ in children]
    except BaseException:
        for child, _ in children:
            os.kill(child, signal.SIGKILL)
        raise
    if any(codes):
        raise SystemExit("a worker of the harness failed")
    tally = Tally()
    for _, place in children:
        tally.add(pickle.loads((place / "tally").read_bytes()))
    return tally


def step(scene: Scene, mode: str, *, short: bool) -> int:
    """Every how manieth call is made to fail: of those that change a new run all; some of others."""
    if mode == "read":
        return 211 if short else 37
    if scene.name == "run --replace":
        return 211 if short else 17
    if scene.name in REPLACING:
        return 67 if short else 5
    if short:
        return 41
    return 5 if mode == "full" else 1


def calls_of(scene: Scene, top: Path) -> Counter[str]:
    """The calls of an undisturbed command."""
    work = top / "work" / "w"
    prepare(scene, work)
    faults = Faults(work, "count")

    def act() -> int:
        code = scene.action(work)()
        (top / "counted").write_bytes(pickle.dumps(faults.calls))
        return code

    run(act, top / "log", faults)
    return pickle.loads((top / "counted").read_bytes())


def main() -> int:
    """Everything, in order."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--short", action="store_true", help="some of everything, in a few minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--only", nargs="*", default=(), help="calls, memory, kills, damage, together")
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    top, parent = scratch(), os.getpid()
    try:
        return disturbed(options, top)
    finally:
        if os.getpid() == parent:
            shutil.rmtree(top, ignore_errors=True)


def disturbed(options: argparse.Namespace, top: Path) -> int:
    """Make the run, disturb it, write the figures."""
    short, workers, began = options.short, options.workers, time.monotonic()
    data, folder = rows(top / "t.npz"), top / "warm" / "run"
    words = ("run", "--data", data, *DATA, *AUDIT, "--out", folder)
    warm(
        [verb(*words), verb("explain", folder), verb("sample", folder, "-n", "5"), verb("report", folder)], top / "log"
    )
    steady_clock()
    made = scenes(top, data)
    calls, other = Tally(), Tally()
    kinds = sum((calls_of(s, top) for s in made), Counter())

    def wanted(part: str) -> bool:
        return not options.only or part in options.only

    def told(what: str, tally: Tally) -> Tally:
        done = sum(tally.injected.values())
        print(f"{time.monotonic() - began:6.0f} s  {what}: {done:,} disturbed, {len(tally.faults)} faults", flush=True)
        for fault in tally.faults[:20]:
            print("         ", " ".join(fault.split()), flush=True)
        return tally

    if wanted("calls"):
        for scene in made:
            undisturbed(scene, top)
            for mode in ("error", "kill", "full", "read"):
                every = step(scene, mode, short=short)

                def some(i: int, place: Path, scene: Scene = scene, mode: str = mode, every: int = every) -> Tally:
                    numbers = range(1 + i * every, 100_000, every * workers)
                    return disturb(scene, mode, place, iter(numbers), read_every=1 if short else 2)

                calls.add(told(f"{scene.name}, {mode}", share(some, top, workers)))
    if wanted("memory"):
        times = 2 if short else 16
        picked = [s for s in made if s.name in ("train", "encode", "fit", "audit")]
        each = [told(f"{s.name}, no memory", allocations(s, top, times, options.seed)) for s in picked]
        for tally in each:
            calls.add(tally)
    done = next(s for s in made if s.name == "report").after / "run"
    newer = next(s for s in made if s.name == "run --replace").after / "run"
    if wanted("kills"):
        total = 6 if short else 200
        parts = share(lambda i, p: kills(data, p, range(i, total, workers), options.seed, replace=newer), top, workers)
        other.add(told("a whole run, killed", parts))
    if wanted("together"):
        other.add(told("two at once", together(data, top, 2 if short else 20, options.seed)))
        other.add(told("read while replaced", watch(data, top, 2 if short else 12)))
    if wanted("damage"):

        def damaged(i: int, place: Path) -> Tally:
            tally, copy = Tally(), fresh(place / "run", done)
            tally.add(flips(copy, options.seed, (i, workers), few=6 if short else 0))
            if i == 0:
                tally.add(cuts(copy, options.seed, each=3 if short else 40))
            if i == workers - 1:
                tally.add(swaps(copy, newer))
            return tally

        other.add(told("damaged files", share(damaged, top, workers)))
    faults = [*calls.faults, *other.faults]
    if not options.only:
        form = "make chaos-short" if short else "make chaos"
        text = table(calls, other, seed=options.seed, seconds=time.monotonic() - began, kinds=kinds, form=form)
        print(text)
        if not short:
            pages.put(pages.DOCS / "reliability.md", "chaos", text)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

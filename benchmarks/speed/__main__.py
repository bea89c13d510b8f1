"""Speed and memory against what people would use instead: python benchmarks/speed (`make bench`).

Ours and the peer take turns, in CPU seconds of one thread, and what is reported is the ratio of neighbours: other work
on the machine slows both. Peers that are slow get fewer points; per point their cost does not depend on how many.
Groups that were measured at this commit, without changes, are not measured again: an interrupted run goes on. A group
that fails loses no other; the command then ends with 1, and the page says which one.
"""

import argparse
import importlib.util
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache, partial

import torch
from densities import accuracy, densities, expectation, full, log_ratios, low_rank, memory, peak, pruning, scores
from dimensions import LIMIT, dimensions
from gpu import gpu
from growth import growth
from jobs import neighbours, reduction, sampling, training
from page import page, plots, rows_of
from runs import posteriors, run
from store import Results, told
from threadpoolctl import threadpool_limits
from timing import DOCS, HERE, Missing, cpu, keep_memory

from zprime.posteriors import MemoryPosteriors

RUN = HERE.parent / "runs" / "bench"


def groups(python: str) -> dict[str, Callable[[], object]]:
    """What is measured, in the order of the page; `python` is of an environment with pythae."""

    @cache
    def codes() -> tuple[MemoryPosteriors, MemoryPosteriors]:
        return posteriors(RUN)

    def trained() -> object:
        if not python:
            raise Missing("pythae is not installed")
        return training(python)

    return {
        "run": partial(run, RUN),
        "densities": densities,
        "peak": lambda: peak(codes()[0]),
        "pruning": lambda: pruning(codes()[0]),
        "scores": lambda: scores(codes()[0]),
        "sampling": lambda: sampling(codes()[0]),
        "expectation": lambda: expectation(codes()[0]),
        "ratios": lambda: log_ratios(codes()[0]),
        "low rank": low_rank,
        "full": full,
        "reduction": lambda: reduction(*codes()),
        "training": trained,
        "neighbours": lambda: neighbours(*codes()),
        "gpu": lambda: gpu(*codes()),
        "accuracy": accuracy,
        "memory": memory,
        "dimensions": dimensions,
        "growth": lambda: growth(*codes()),
    }


def measure(jobs: dict[str, Callable[[], object]], results: Results) -> list[str]:
    """Measure what is not done, group by group; the groups that failed."""
    failed = []
    for name, job in jobs.items():
        if results.done(name):
            print(f"{name}: measured at {results.now['commit']} before", flush=True)
            continue
        before, start = cpu(), time.monotonic()
        try:
            found = job()
        except Missing as e:
            results.fail(name, str(e), missing=True)
            print(f"{name}: not measured: {e}", flush=True)
        except (Exception, SystemExit) as e:  # whatever it is, the others go on
            traceback.print_exc()
            results.fail(name, f"{type(e).__name__}: {e}"[:300])
            failed.append(name)
        else:
            results.keep(name, found, cpu() - before)
            minutes = (time.monotonic() - start) / 60
            print(f"{name}: {cpu() - before:.0f} CPU s, {minutes:.1f} minutes\n", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = sys.executable if importlib.util.find_spec("pythae") else ""
    parser.add_argument("--pythae", default=here, help="Python of an environment with pythae and what zprime needs")
    parser.add_argument("--only", nargs="*", help="groups to try: what they find is printed, and not kept")
    parser.add_argument("--again", action="store_true", help="measure all groups, also those that are done")
    parser.add_argument("--page", action="store_true", help="write the page from the results there are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # scikit-learn's libraries have threads of their own, which wait in CPU time
    keep_memory()  # peers gain more by it than zprime
    jobs = groups(args.pythae)
    if args.only:
        for name in args.only:
            jobs[name]()
        return
    failed = []
    if args.page:
        results = Results.stored()
    else:
        results = Results(told())
        results.groups = {} if args.again else results.groups
        if results.done("run") and not (RUN / "posteriors").exists():
            del results.groups["run"]  # the others need it
        failed = measure(jobs, results)
    write(results, list(jobs))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the others are on the page. The same command tries these again.")


def write(results: Results, names: list[str]) -> None:
    """The page, its plot, and what was not reached."""
    plots(results)
    text = page(results, names)  # it makes the folder of pages.py importable
    from pages import put

    put(DOCS / "performance.md", "speed", text)
    rows = [r for name in names for r in rows_of(results, name)]
    missed = [f"{r.job} against {r.against}: {r.ratio:.3g}" for r in rows if r.least is not None and r.ratio < r.least]
    large = (results.found("dimensions") or {}).items()
    missed += [f"{what}: {most:,.0f} MB" for what, (_, most) in large if most > LIMIT]
    print(f"\nbelow what was to be reached: {missed or 'nothing'}")


if __name__ == "__main__":
    main()

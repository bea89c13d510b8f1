"""Coverage of intervals over simulated data sets: counts kept in JSON, so that groups can be run one at a time."""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from zprime.statistics.estimate import Estimate

Found = list[tuple[str, float, float, float]]
"""(measure, low, high, truth), one for each interval of a simulated data set."""

Kept = dict[str, list[Any]]
"""Name of a case -> what each of its seeds gave, as JSON has it."""

RESULTS = Path(__file__).parent / "results"
PAGES = Path(__file__).parents[1] / "docs" / "results"
LEVEL = 0.95
ALPHA = 0.05
NONE: Mapping[str, str] = {}


def row(name: str, e: Estimate, truth: float) -> tuple[str, float, float, float]:
    """An estimate's interval and what it should hold."""
    return name, e.low, e.high, truth


def p_value(name: str, p: float) -> tuple[str, float, float, float]:
    """Counted as held if it is 0.05 or more, so raises no alarm."""
    return name, 0.05, 1.0, p


def main(
    title: str,
    name: str,
    groups: Mapping[str, Callable[[int], Found]],
    notes: str,
    compared: Mapping[str, str] = NONE,
) -> None:
    """Run groups of measures over seeds 0, 1, ..., and write `docs/results/NAME.md` from all counts so far.

    `compared`: measures that stand there for comparison and may be short -> why.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=2000, help="simulated data sets, of seeds 0, 1, ...")
    parser.add_argument("--first", type=int, default=0, help="go on from this seed, and add to what is there")
    parser.add_argument("--only", nargs="*", choices=list(groups), default=list(groups))
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = RESULTS / f"{name}.json"
    counts: dict[str, dict[str, float]] = json.loads(store.read_text()) if store.exists() else {}
    for group in args.only:
        start = time.process_time()
        known = counts.get(groups[group](0)[0][0], {"n": 0})["n"]
        if args.first and known != args.first:
            parser.error(f"--first: expected {known:.0f}, the data sets that {group} has so far, got {args.first}")
        fresh: dict[str, dict[str, float]] = {}
        for seed in range(args.first, args.first + args.seeds):
            for measure, low, high, truth in groups[group](seed):
                c = fresh.setdefault(measure, {"n": 0, "held": 0, "below": 0, "above": 0, "width": 0.0})
                c["n"] += 1
                c["held"] += low <= truth <= high
                c["below"] += truth < low
                c["above"] += truth > high
                c["width"] += high - low if math.isfinite(high - low) else 0.0
        print(f"{group}: {args.seeds} data sets, {time.process_time() - start:.0f} CPU s")
        if args.first:
            fresh = {m: {k: v + counts[m][k] for k, v in c.items()} for m, c in fresh.items()}
        counts |= fresh
        RESULTS.mkdir(exist_ok=True)
        store.write_text(json.dumps(counts, indent=1) + "\n")
    page = table(title, counts, notes, compared)
    (PAGES / f"{name}.md").write_text(page)
    print(page)


def table(title: str, counts: Mapping[str, Mapping[str, float]], notes: str, compared: Mapping[str, str] = NONE) -> str:
    """The page: rates with their own 95 % interval, and a one-sided binomial test corrected for all measures.

    Measures in `compared` are not counted in the correction, and their verdict says why they are there.
    """
    tests = len(counts.keys() - compared.keys())
    lines = [
        f"# {title}",
        "",
        notes,
        "",
        f"An interval is called short if it holds the truth measurably less often than in {LEVEL:.0%} of data sets: "
        f"one-sided binomial test at {ALPHA} / {tests} (Bonferroni over the rows of the table"
        + (", without those that are shown for comparison)." if compared else ")."),
        "",
        "| interval of | data sets | holds the truth | 95 % interval | truth below | above | mean width | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, c in counts.items():
        test = binomtest(int(c["held"]), int(c["n"]), LEVEL, alternative="less")
        both = binomtest(int(c["held"]), int(c["n"])).proportion_ci(method="wilson")
        rate = c["held"] / c["n"]
        short = test.pvalue < ALPHA / tests
        said = f"**short: {rate:.1%}**" if short else ("wider than needed" if both.low > LEVEL else "holds")
        if name in compared:
            said = f"for comparison: {compared[name]}, {'short as expected' if short else 'not measurably short'}"
        width = f"{c['width'] / c['n']:.3g}" if c["width"] else "one-sided"
        lines.append(
            f"| {name} | {c['n']:.0f} | {rate:.2%} | {both.low:.2%} to {both.high:.2%} | {c['below'] / c['n']:.2%} | "
            f"{c['above'] / c['n']:.2%} | {width} | {said} |"
        )
    return "\n".join(lines) + "\n"


def by_seed(title: str, name: str, cases: Mapping[str, Callable[[int], object]], page: Callable[[Kept], str]) -> None:
    """Run cases over seeds, and write `docs/results/NAME.md` from all that there is."""
    text = page(runs(title, name, cases))
    (PAGES / f"{name}.md").write_text(text)
    print(text)


def runs(title: str, name: str, cases: Mapping[str, Callable[[int], object]]) -> Kept:
    """Run cases over seeds 0, 1, ..., and keep what each seed gave as JSON."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="go on from this seed, and add to what is there")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of the cases, from 0; none for the page alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = stored(name)
    for i, (called, case) in enumerate(cases.items()):
        if args.only is not None and i not in args.only:
            continue
        there = kept.get(called, [])
        if args.first and len(there) != args.first:
            parser.error(f"--first: expected {len(there)}, what there is of {called!r}, got {args.first}")
        start = time.process_time()
        fresh = [case(seed) for seed in range(args.first, args.first + args.seeds)]
        kept[called] = (there if args.first else []) + fresh
        print(f"{called}: {time.process_time() - start:.0f} CPU s", flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(kept) + "\n")
    return kept


def stored(name: str) -> Kept:
    """What earlier runs kept."""
    store = RESULTS / f"{name}.json"
    kept: Kept = json.loads(store.read_text()) if store.exists() else {}
    return kept


def before(name: str) -> Kept:
    """What the same cases gave under the code before its repairs (benchmarks/before.py)."""
    return {k.removeprefix(f"{name}: "): v for k, v in stored("before").items() if k.startswith(f"{name}: ")}

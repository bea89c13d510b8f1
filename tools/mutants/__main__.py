"""Do the tests notice a change of the code? `make mutants` makes a sample of mutants, one at a time, and runs tests.

    python tools/mutants [--sample 300] [--workers 2] [--cap 40] [--keep]

It copies the working tree once for each worker (build/mutants/worker-*), records which test runs which line (once for
each test file, and again only where the file or the code has changed), runs for each mutant the tests that run the
changed line, and writes docs/tests.md between its two markers. Results are appended to build/mutants/results.jsonl:
an interrupted command goes on from there. With --keep, what was noticed before other tests changed is not run again.

A mutant is noticed if a test fails, if the code cannot be imported, or if the tests take twice as long and 15
seconds more. Tests are chosen up to --cap seconds a mutant; what they do not notice has survived. Seconds are processor
time, which what else the machine does hardly changes.
"""

import argparse
import functools
import hashlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from choice import TestFile, choose
from clones import PLUGIN, ROOT, Clone, spread
from page import NOTICED, write
from places import Mutant, sample

BUILD = ROOT / "build" / "mutants"
SEED = 0


def digest(files: Iterable[Path]) -> str:
    """Of the names and texts of files."""
    parts = (f"{f.relative_to(ROOT)}\n{hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in sorted(files))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def tell(text: str) -> None:
    """One line of progress."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def record(clones: list[Clone]) -> list[TestFile]:
    """What every test file runs."""
    (BUILD / "lines").mkdir(parents=True, exist_ok=True)
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    helpers = set((ROOT / "tests").glob("*.py")) - set(tests)
    common = digest([*(ROOT / "src").rglob("*.py"), *helpers, PLUGIN])
    recorded = {f"tests/{t.name}": BUILD / "lines" / f"{t.stem}-{common}-{_with_helpers(t)}.json" for t in tests}
    missing = {test: into for test, into in recorded.items() if not into.exists()}

    def job(test: str, clone: Clone) -> None:
        passed = clone.record(test, missing[test])
        tell(f"lines of {test} recorded" + ("" if passed else "; its failed tests will not be used\n"))

    spread(clones, [functools.partial(job, test) for test in missing])
    return [TestFile.read(test, into) for test, into in recorded.items() if into.exists()]


def _with_helpers(test: Path) -> str:
    """Digest of a test file and of those that it takes helpers from."""
    names = re.findall(r"^from (test_\w+) import", test.read_text(), re.M)
    return digest([test, *(test.parent / f"{name}.py" for name in names)])


class Results:
    """What is known of the mutants of the sample, in results.jsonl too."""

    def __init__(self, mutants: list[Mutant], *, keep: bool) -> None:
        self.file, self.lock = BUILD / "results.jsonl", threading.Lock()
        self.tree = digest([*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").glob("*.py")])
        self.codes = {m.key: hashlib.sha256(m.code.encode()).hexdigest()[:16] for m in mutants}
        self.known: dict[str, dict[str, str]] = {}
        for line in self.file.read_text().splitlines() if self.file.exists() else []:
            one = json.loads(line)
            kept = keep and one["outcome"] in NOTICED and one["code"] == self.codes.get(one["key"])
            if one["key"] in self.codes and (one["tree"] == self.tree or kept):
                self.known[one["key"]] = one

    def add(self, mutant: Mutant, **facts: object) -> None:
        """Append one."""
        one = {"key": mutant.key, "tree": self.tree, "code": self.codes[mutant.key], "mutant": str(mutant)} | facts
        with self.lock, self.file.open("a") as file:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
            self.known[mutant.key] = one  # type: ignore[assignment]


def measure(clones: list[Clone], mutants: list[Mutant], files: list[TestFile], options: argparse.Namespace) -> Results:
    """Run the mutants of which nothing is known."""
    results = Results(mutants, keep=options.keep)
    began, before = time.monotonic(), len(results.known)

    def job(mutant: Mutant, clone: Clone) -> None:
        tests, seconds = choose(files, mutant, ROOT, options.cap)
        start = time.monotonic()
        outcome, by = clone.outcome(mutant, tests, seconds)
        took = round(time.monotonic() - start, 1)
        results.add(mutant, outcome=outcome, by=by, seconds=took, tests=len(tests), expected=round(seconds, 1))
        known = list(results.known.values())
        noticed = sum(o["outcome"] in NOTICED for o in known)
        left = (time.monotonic() - began) / (len(known) - before) * (len(mutants) - len(known)) / 60
        tell(f"{len(known)} of {len(mutants)} mutants, {noticed} noticed, {left:.0f} minutes left")

    spread(clones, [functools.partial(job, m) for m in mutants if m.key not in results.known])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=float, default=40.0)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mutants, places = sample(ROOT, options.sample, SEED)
    clones = [Clone.make(BUILD / f"worker-{i}") for i in range(options.workers)]
    results = measure(clones, mutants, record(clones), options)
    write(ROOT, mutants, results.known, f"{places} places, seed {SEED}")
    tell("docs/tests.md is written\n")


if __name__ == "__main__":
    main()

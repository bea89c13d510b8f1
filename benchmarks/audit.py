"""CPU seconds of an audit in two source trees, in turns: the default one and the quick one of the same runs.

    git worktree add ../before COMMIT
    python benchmarks/audit.py RUN [RUN ...] --before ../before [--rounds 3]

Every audit is `zprime audit RUN` in a process of its own with one thread, start and report included, on a copy of RUN
that no audit was in. Its verdicts are compared too.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from trees import Ran, Tree, pair, ratios

MADE = ("audit", "generator", "report.html")
"""What an audit adds to a run."""
MODES: dict[str, tuple[str, ...]] = {"default": (), "quick": ("--quick",)}


def audited(tree: Tree, folder: Path, options: tuple[str, ...]) -> tuple[Ran, dict[str, Any]]:
    """One audit of a copy of a run, which was not audited before; what it says as JSON."""
    for name in MADE:
        place = folder / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
    ran = tree.run("-m", "zprime", "--threads", "1", "--quiet", "--json", "audit", str(folder), *options)
    found: dict[str, Any] = json.loads(ran.out)
    return ran, found


def said(verdict: dict[str, Any] | None) -> str:
    """A verdict in a few words: what was decided, for which candidate, and by how much."""
    if verdict is None:
        return "no verdict"
    gain = verdict.get("heldout")
    much = f", {gain['value']:+.3f} ± {gain['stderr']:.3f}" if gain and gain.get("stderr") is not None else ""
    return f"{verdict['decision']}: {verdict['choice']}{much}"


def agree(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the verdicts of two audits differ in: decision or choice, by likelihood or for generation."""
    out = []
    for side in ("verdict", "generation"):
        b, n = before[side] or {}, now[side] or {}
        out += [f"{side}: {b.get(k)} -> {n.get(k)}" for k in ("decision", "choice") if b.get(k) != n.get(k)]
    return out


def compared(trees: tuple[Tree, Tree], run: Path, mode: str, rounds: int) -> list[str]:
    """The row of one run and mode; before goes first in each round."""
    spent: tuple[list[float], list[float]] = [], []
    last: list[dict[str, Any]] = [{}, {}]
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / name / run.name for name in ("before", "now")]
        for copy in copies:
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(*MADE))
        for _ in range(rounds):
            for i, (tree, copy) in enumerate(zip(trees, copies, strict=True)):
                ran, last[i] = audited(tree, copy, MODES[mode])
                spent[i].append(ran.cpu)
    differ = agree(*last)
    middle = [f"{statistics.median(s):.1f}" for s in spent]
    row = [run.name, mode, *middle, ratios(*spent), "the same" if not differ else "; ".join(differ)]
    print(" | ".join(row), flush=True)
    for side in ("verdict", "generation"):
        print(f"    {side}: before {said(last[0][side])}; now {said(last[1][side])}", flush=True)
    return row


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--before", type=Path, required=True, help="another checkout; its kernels are built if need be")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(MODES), help="one of the two audits")
    given = parser.parse_args()
    trees = pair(given.before)
    modes = [given.only] if given.only else list(MODES)
    rows = [compared(trees, run.resolve(), mode, given.rounds) for run in given.runs for mode in modes]
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from pages import table

    print("\n" + table(["run", "audit", "before, CPU s", "now, CPU s", "before / now (range)", "verdicts"], rows))
    print(f"\nbefore: {trees[0].commit()}; now: {trees[1].commit()}; {given.rounds} rounds, one thread")


if __name__ == "__main__":
    main()

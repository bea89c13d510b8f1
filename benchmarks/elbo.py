"""CPU seconds of trainings with the default settings, and the ELBO that they reach, in two source trees in turns.

    git worktree add ../before COMMIT
    python benchmarks/elbo.py CASE [CASE ...] --before ../before [--seeds 0 1 2]

A case is one of digits, table, fashion-mlp and fashion-conv, or SOURCE:NETWORK:LATENTS[:ROWS] with a source as `zprime
train --data` takes it. Without `--before` this tree is measured alone. Each training is a process of its own with one
thread; reading the data is not timed. The table gives the CPU seconds until the epoch that was best on the selection
split, and those after which this tree first had at least the best ELBO of the tree before.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from trees import HERE, Tree, pair

FASHION = "/usr/share/datasets/fashion-mnist"


class Case(NamedTuple):
    """What is trained on: a source of data, a network, the number of latents, and of rows (0 takes all)."""

    source: str
    network: str
    latents: int
    rows: int = 0


TABLE = "table"
CASES = {
    "digits": Case("digits", "mlp", 8),
    TABLE: Case(TABLE, "mlp", 4),
    "fashion-mlp": Case(FASHION, "mlp", 16, 20_000),
    "fashion-conv": Case(FASHION, "conv", 16),
}
ROWS, COLUMNS, FACTORS = 6_000, 16, 4  # of the table


class Trained(NamedTuple):
    """A training: CPU seconds in all, those until each epoch, the selection ELBO of each, and the held-out one."""

    cpu: float
    until: list[float]
    selection: list[float]
    heldout: float

    @property
    def best(self) -> int:
        """The best epoch, from 0."""
        return max(range(len(self.selection)), key=self.selection.__getitem__)

    def reached(self, elbo: float) -> float | None:
        """CPU seconds until the first epoch with at least this ELBO."""
        return next((t for t, found in zip(self.until, self.selection, strict=True) if found >= elbo), None)


def case_of(text: str) -> Case:
    """One of `CASES`, or what its parts say."""
    if text in CASES:
        return CASES[text]
    source, network, latents, *rows = text.split(":")
    return Case(source, network, int(latents), int(rows[0]) if rows else 0)


def write_table(file: Path) -> None:
    """Numbers that four factors decide, not linearly, with noise."""
    import torch

    rng = torch.Generator().manual_seed(0)
    factors = torch.randn(ROWS, FACTORS, generator=rng)
    first = torch.tanh(factors @ torch.randn(FACTORS, 32, generator=rng))
    x = first @ torch.randn(32, COLUMNS, generator=rng) / 32**0.5 + 0.1 * torch.randn(ROWS, COLUMNS, generator=rng)
    lines = [",".join(f"x{i}" for i in range(COLUMNS))]
    lines += [",".join(f"{v:.6f}" for v in row) for row in x.tolist()]
    file.write_text("\n".join(lines) + "\n")


def train_here(case: Case, seed: int) -> Trained:
    """One training with the zprime that is imported."""
    import torch

    from zprime import DataSettings, TrainSettings, VAESettings, load_data, train
    from zprime.train_stage import Start
    from zprime.training import evaluate

    torch.set_num_threads(1)
    data, settings = load_data(DataSettings(case.source, limit=case.rows), seed=seed), TrainSettings()
    network = VAESettings(latents=case.latents, network=case.network)
    vae = Start(data, network.resolve(data.shape), settings, seed).vae()
    rows, selection = data.rows("train"), data.rows("selection")
    until: list[float] = []
    start = time.process_time()

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and 0 < done != len(until):
            until.append(time.process_time() - start)

    found = train(vae, rows, selection, settings, seed=seed, progress=progress)
    spent = time.process_time() - start
    elbos = [epoch["selection"] for epoch in found.history]
    return Trained(spent, until[: len(elbos)], elbos, evaluate(found.vae, data.rows("heldout"), seed=seed))


def alone(tree: Tree, case: Case, seed: int) -> Trained:
    """The same in a process of its own, with this tree's zprime."""
    ran = tree.run(str(HERE / "elbo.py"), ":".join(map(str, case)), "--seeds", str(seed), "--here")
    return Trained(**json.loads(ran.out.splitlines()[-1]))


def row(name: str, seed: int, each: list[Trained]) -> list[str]:
    """Of one case and seed, before (if it was measured) and now."""
    before, now = each[0], each[-1]

    def both(what: list[str]) -> str:
        return " -> ".join(what)

    cells = [
        name,
        f"{seed}",
        both([f"{t.cpu:.1f}" for t in each]),
        both([f"{t.until[t.best]:.1f}" for t in each]),
    ]
    if len(each) > 1:
        target = before.selection[before.best]
        equal = now.reached(target)
        cells.append("not reached" if equal is None else f"{equal:.1f} ({before.until[before.best] / equal:.2f} x)")
    cells.append(both([f"{t.selection[t.best]:.2f}" for t in each]))
    cells.append(both([f"{t.heldout:.2f}" for t in each]))
    return cells


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE")
    parser.add_argument("--before", type=Path, help="another checkout; its kernels are built if need be")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--here", action="store_true", help="one training in this process, as JSON")
    given = parser.parse_args()
    if given.here:
        print(json.dumps(train_here(case_of(given.cases[0]), given.seeds[0])._asdict()))
        return
    trees = pair(given.before) if given.before else (Tree(HERE.parent),)
    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "table.csv")
        for name in given.cases:
            case = case_of(name)
            if case.source == TABLE:
                case = case._replace(source=str(Path(folder) / "table.csv"))
            for seed in given.seeds:
                each = [alone(tree, case, seed) for tree in trees]
                rows.append(row(name, seed, each))
                ratios.append(each[0].cpu / each[-1].cpu)
                print(" | ".join(rows[-1]), flush=True)
    sys.path.insert(0, str(HERE.parent / "examples"))
    from pages import table

    times = ["CPU s in all", "CPU s to the best epoch"]
    times += ["now, to the best ELBO before"] if given.before else []
    print("\n" + table(["data", "seed", *times, "ELBO selection", "ELBO held-out"], rows))
    if given.before:
        print(f"\nbefore -> now; all CPU seconds, before / now: {statistics.median(ratios):.2f} (median)")
        print(f"before: {trees[0].commit()}; now: {trees[1].commit()}")


if __name__ == "__main__":
    main()

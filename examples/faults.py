"""Which measure sees which fault: python examples/faults.py prints the table of docs/measures/fidelity.md

Four clumps in six dimensions; samples with planted faults, beside 500 real rows and 1,000 training rows.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from samples import clumps, junk, mixed
from zprime.measure.copying import TrainingSet, copying
from zprime.measure.fidelity import fidelity

N = 500


def main() -> None:
    """One line a fault; bold where the 95 % interval parts from that of an honest sample (for the test: p < 0.01)."""
    torch.set_num_threads(1)
    train, real = clumps(1000, 0), clumps(N, 1)
    data = TrainingSet(train, train[:, :2], yardstick=N)
    yardstick = data.neighbours(clumps(N, 2))
    rng = torch.Generator().manual_seed(0)
    copies = train[torch.randint(len(train), (N,), generator=rng)] + 0.05 * torch.randn(N, 6, generator=rng).double()
    honest = clumps(N, 3)
    samples = {
        "honest sample": honest,
        "copies of training rows": copies,
        "one row in ten a copy": mixed(honest, copies, 0.1, 0),
        "one of four modes dropped": clumps(N, 3, modes=3),
        "blur: half as wide": clumps(N, 3, blur=0.5),
        "1 % junk": mixed(honest, junk(N, 4), 0.01, 0),
        "10 % junk": mixed(honest, junk(N, 4), 0.1, 0),
        "50 % junk": mixed(honest, junk(N, 4), 0.5, 0),
        "99 % junk": mixed(honest, junk(N, 4), 0.99, 0),
        "half copies, half junk": mixed(copies, junk(N, 4), 0.5, 0),
    }
    names = ("frechet", "precision", "recall", "density", "coverage", "sliced")
    print("| fault | " + " | ".join(names) + " | told apart | nearer | near | singled | gate |")
    print("| --- " * (len(names) + 6) + "|")
    good = fidelity(real, honest, split="heldout").fidelity
    for name, x in samples.items():
        f = fidelity(real, x, split="heldout").fidelity
        c = copying(data.neighbours(x), yardstick)
        cells = []
        for m in names:
            e, g = getattr(f, m), getattr(good, m)
            text = f"{e.value:.2f}"
            cells.append(f"**{text}**" if e.low > g.high or e.high < g.low else text)
        test = f"{f.told_apart.accuracy.value:.2f}"
        cells.append(f"**{test}**" if f.told_apart.p_value < 0.01 else test)
        for e, null in ((c.within, 0.5), (c.near, 0.05), (c.singled, 0.05)):
            cells.append(f"**{e.value:.2f}**" if e.low > null or e.high < null else f"{e.value:.2f}")
        print(f"| {name} | " + " | ".join(cells) + f" | {c.status} |")


if __name__ == "__main__":
    main()

"""How often a sample with a share of copies is cleared of copying: `python benchmarks/clearing.py`.

Rows come from a linear-Gaussian model of 12 columns and 6 latents, with its exact posteriors. A sample consists of
decoder means at draws of the prior, and of copies: training rows as they are, or decoder means at draws of training
posteriors. Writes docs/results/clearing.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping

import torch
from harness import PAGES, RESULTS, stored
from pools import COLUMNS, KINDS, LATENTS, SHARES, SIZES, TRAIN, UNSEEN, VAR, Pools
from scipy.stats import binomtest

from zprime.measure.samples.known import KNOWN, SPREADS, Errors, Known, Reference

LIMIT = 0.1


class World(Pools):
    """With the reference that an audit judges by."""

    def reference(self, n: int, seed: int) -> Reference:
        """As an audit with n samples has it: as many known copies of each kind, and 1,000 at least."""
        n = max(n, KNOWN)
        at = torch.randint(TRAIN, (n,), generator=self.rng)
        known = Known(
            self.set.neighbours(self.set.plant(n, rng=self.rng)),
            tuple(self.find(self.at_codes(at, part)) for part in SPREADS),
            Errors(self.set, lambda rows: self.codes[rows] @ self.weight.T),
        )
        return Reference.of("selection", self.real, (self.unseen, None), known, limit=LIMIT, seed=seed)


def count(seeds: int) -> dict[str, int]:
    found: Counter[str] = Counter()
    for seed in range(seeds):
        world = World(seed)
        for n in SIZES:
            reference = world.reference(n, seed)
            found[f"spread {reference.spread:g} {n}"] += 1
            for kind in KINDS:
                for share in SHARES:
                    sample = world.sample(kind, share, n)
                    found[f"{kind} {share:g} {n} {reference.judge(sample).status}"] += 1
    return dict(found)


def page(found: dict[str, int], seeds: int) -> str:
    """The table: in which share of the runs a sample passes, and is called copies."""
    lines = [
        "# Copying that can clear: power",
        "",
        "In what percentage of runs a sample *passes* (the upper 95 % limit of its share of copies is below "
        f"{100 * LIMIT:g} %) and, after the stroke, is called *copies*; the rest is *untested*. Seeds 0 to "
        f"{seeds - 1}, each with a training set of its own: {TRAIN} training rows and {UNSEEN} unseen rows of a "
        f"linear-Gaussian model ({COLUMNS} columns, {LATENTS} latents, noise {VAR**0.5:g}), exact posteriors.",
        "",
        "Each of the n rows of a sample is a copy with the probability on the left, and otherwise a decoder mean at a "
        f"draw of the prior. A sample with 10 % of copies or more must pass in at most 5 % of runs ({most(seeds)} of "
        f"{seeds}, with the error of the count).",
        "",
    ]
    lines += tables(found, seeds)
    full = [found.get(f"spread 1 {n}", 0) / seeds for n in SIZES]
    lines += [
        "The second kind is measured beside draws with the full scale of the posteriors in "
        + ", ".join(f"{100 * x:.0f} %" for x in full)
        + " of the runs (n in the order of the columns), in the others beside draws with a tenth of it. There are as "
        f"many known copies as samples, and {KNOWN:,} at least.",
        "",
    ]
    earlier = stored("before").get("clearing", [])
    if earlier:
        old = Counter(f"{case} {status}" for one in earlier for case, status in one.items())
        lines += [
            "## Before",
            "",
            "The same samples under the code as it was before its repairs. It had no *untested* here: what was not "
            "called *copies* passed.",
            "",
            *tables(old, len(earlier)),
        ]
    lines += [
        f"*`python benchmarks/clearing.py --seeds {seeds}`; the tables *before* by `python benchmarks/before.py` in a "
        "checkout of commit b2fb11e, see its first lines*",
    ]
    return "\n".join(lines) + "\n"


def tables(found: Mapping[str, int], seeds: int) -> list[str]:
    """One for each kind of copies: percentages that pass, and that are called copies."""
    lines: list[str] = []
    for kind, words in KINDS.items():
        lines += [f"Copies are {words}:", "", "| copies | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |"]
        lines.append("| --- |" + " --- |" * len(SIZES))
        for share in SHARES:
            cells = []
            for n in SIZES:
                passes, copies = (found.get(f"{kind} {share:g} {n} {s}", 0) / seeds for s in ("passes", "copies"))
                cells.append(f"{100 * passes:.1f} / {100 * copies:.1f}")
            lines.append(f"| {100 * share:g} % | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def most(seeds: int) -> int:
    """Runs of these that an exact 5 % error exceeds with 2.5 % at most."""
    return next(k for k in range(seeds) if binomtest(k + 1, seeds, 0.05, alternative="greater").pvalue < 0.025)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--page", action="store_true", help="only write the page again, of what there is")
    args = parser.parse_args()
    seeds, store = args.seeds, RESULTS / "clearing.json"
    torch.set_num_threads(1)
    if not args.page:
        RESULTS.mkdir(exist_ok=True)
        store.write_text(json.dumps(count(seeds), indent=1) + "\n")
    found = json.loads(store.read_text())
    (PAGES / "clearing.md").write_text(page(found, seeds))
    print(page(found, seeds))


if __name__ == "__main__":
    main()

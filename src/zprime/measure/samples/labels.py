"""Coverage of labels: is every class generated as often as it should be?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.results.samples import Labels
from zprime.statistics.estimate import proportion
from zprime.statistics.resampling import GROUPS, About, group_of, leave_out


def label_coverage(
    real: Int[Tensor, " n"], fake: Int[Tensor, " m"], classes: Int[Tensor, " c"], *, split: str, seed: int | None
) -> Labels:
    """Compare labels given by one classifier to real and generated rows (in random order)."""
    n = len(fake)
    counts = (fake[:, None] == classes).sum(0)
    expected = (real[:, None] == classes).double().mean(0)
    names = [str(int(c)) for c in classes]
    proportions = {
        name: proportion(int(k), n, unit="proportion of rows", split=split, seed=seed)
        for name, k in zip(names, counts, strict=True)
    }
    missing = [c for c, e in zip(names, expected, strict=True) if proportions[c].high < float(e) / 2]
    groups = min(GROUPS, n // 2, len(real) // 2)
    tallies = [_tally(y, classes, groups) for y in (real, fake)]

    def variation(keep: Tensor) -> Float[Tensor, "b 1"]:
        parts = [keep.double() @ t for t in tallies]
        a, b = (p / p.sum(1, keepdim=True) for p in parts)
        return 0.5 * (a - b).abs().sum(1, keepdim=True)

    replicates = leave_out(variation, groups=groups, pairs=False)
    distance = replicates.estimate(0, About(n, split, seed), unit="total variation", scale="proportion")
    return Labels(proportions, dict(zip(names, expected.tolist(), strict=True)), distance, missing)


def _tally(labels: Tensor, classes: Tensor, groups: int) -> Float[Tensor, "g c"]:
    """Rows of each label in every group."""
    hot = (labels[:, None] == classes).double()
    tally = torch.zeros(groups, len(classes), dtype=torch.float64)
    return tally.index_add_(0, group_of(len(labels), groups), hot)

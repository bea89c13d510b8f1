"""Which share of a sample may be copies: counted beside copies that are known to be copies.

Two kinds are known. Planted copies are training rows with a little noise; their counterpart are real unseen rows. Where
the decoder can repeat training rows, their reconstructions are the other kind; the counterpart are reconstructions of
unseen rows. These are drawn from the training rows' posteriors, z ~ q(z|x). Where such draws cannot be told from new
rows one by one, because posteriors are wide, they are drawn with a tenth of the posteriors' scales.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.results.samples import CopiedRow, Copying
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate, clopper_pearson, proportion

LEVELS = 20
"""Thresholds that are tried: quantiles of the known copies, in steps of a twentieth."""
SPREADS = (1.0, 0.1)
"""Parts of the posteriors' scales with which reconstructions of training rows are drawn; the first that serves is
used."""
KNOWN = 1000
"""Known copies of each kind, at least."""
ERROR = 0.05
FLOOR = 0.1
"""Of a training row's isolation: the noise of planted copies."""
MOST = 10


@dataclass(frozen=True)
class Nearness:
    """How near copies of one kind are.

    Attributes:
        threshold: a row counts as near as copies are if its score is at most this.
        reached: proportion of the known copies that do, with its 95 % interval.
    """

    threshold: float
    reached: Estimate

    def near(self, score: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which rows are as near as copies are."""
        return score <= self.threshold


def share(near: Bool[Tensor, " n"], reached: Sequence[Estimate], *, split: str) -> Estimate:
    """The share of copies among rows, with 95 % limits, at most 1.

    If a share s of the rows are copies, of any of the kinds, at least s times the least of `reached` are near. So the
    proportion of near rows over that is at least s, whatever the other rows are. For the upper limit that of the
    proportion is divided by the least lower limit of `reached`; each of the two (Clopper & Pearson 1934) is exceeded
    with 2.5 %.

    Args:
        near: which rows are as near as copies of some kind.
        reached: of each kind, the proportion of known copies that are near.
        split: whose unseen rows the thresholds were chosen beside.
    """
    n, hits = len(near), int(near.sum())
    low, high = clopper_pearson(hits, n, ERROR)
    p = hits / n
    at, least = (max(min(values), 1e-9) for values in ([r.value for r in reached], [r.low for r in reached]))
    most = max(r.high for r in reached)
    return Estimate(
        min(1.0, p / at),
        math.sqrt(p * (1 - p) / n) / at,
        min(1.0, low / most),
        min(1.0, high / least),
        n,
        "proportion of rows",
        split,
        reached[0].seed,
    )


def nearness(copies: Float[Tensor, " n"], unseen: Float[Tensor, " m"], *, seed: int | None) -> Nearness:
    """Choose the threshold that clears honest rows best: few of `unseen`, many of `copies` at or below it.

    Half of the known copies choose it, the other half measure how many of them it holds. Of thresholds that are equally
    good the largest is taken.

    Args:
        copies: scores of known copies, two at least; the smaller, the nearer.
        unseen: scores of rows that the model has not seen.
        seed: kept with the numbers.
    """
    chooses, measures = copies[::2].double(), copies[1::2].double()
    levels = torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS
    tried = torch.quantile(chooses, levels, interpolation="higher").tolist()

    def limit(threshold: float) -> float:
        held = float((chooses <= threshold).double().mean())
        return clopper_pearson(int((unseen <= threshold).sum()), len(unseen), ERROR)[1] / held

    best = min(reversed(tried), key=limit)
    hits = int((measures <= best).sum())
    return Nearness(best, proportion(hits, len(measures), unit="proportion of rows", split="known copies", seed=seed))


class Errors:
    """Distances of training rows from what the decoder makes at their posterior means, each computed once and kept.

    Args:
        training: the rows, as they are compared.
        decode: positions of training rows -> their reconstructions.
    """

    def __init__(self, training: TrainingSet, decode: Callable[[Int[Tensor, " m"]], Float[Tensor, "m *datum"]]) -> None:
        self._training, self._decode = training, decode
        self._known = torch.full((len(training.x),), torch.nan, dtype=torch.float64)

    def __call__(self, rows: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """The distances at these positions."""
        new = torch.unique(rows[self._known[rows].isnan()])
        if len(new):
            made = self._training.entries.of(self._decode(new))
            self._known[new] = (made.double() - self._training.x[new].double()).norm(dim=1)
        return self._known[rows]


@dataclass(frozen=True)
class Known:
    """Known copies, searched in the training set.

    Attributes:
        planted: training rows with noise of a tenth of their isolation.
        reconstructed: reconstructions of training rows, for each of `SPREADS`.
        errors: positions of training rows -> distance of each from the decoder's mean at its own posterior mean.
    """

    planted: Neighbours
    reconstructed: tuple[Neighbours, ...]
    errors: Callable[[Int[Tensor, " m"]], Float[Tensor, " m"]]

    def own(self, found: Neighbours) -> Float[Tensor, " n"]:
        """Distance to the nearest training row over that of this row from its own reconstruction.

        It is about 1 for a copy that the decoder makes, and larger for what is only like the row.
        """
        scale = torch.maximum(self.errors(found.parent).double(), FLOOR * found.isolation)
        return (found.distance[:, 0] / scale).nan_to_num(1.0, posinf=math.inf)


@dataclass(frozen=True)
class Reference:
    """Unseen rows of one split beside known copies: what says whether samples copy.

    Attributes:
        split: whose rows they are.
        means: reconstructions of the rows, searched in the training set.
        draws: the same with the decoder's noise.
        known: the known copies.
        rows: how near planted copies are.
        real: share of the split's real rows that is as near as planted copies.
        decoded: how near reconstructions of training rows are; None where they are not called copies themselves: then
            the decoder cannot make any.
        spread: part of the posteriors' scales with which those were drawn; 0 without any.
        limit: a sample is cleared if the upper limit of its share of copies is below this.
        seed: kept with the numbers.
    """

    split: str
    means: Neighbours
    draws: Neighbours | None
    known: Known
    rows: Nearness
    real: Estimate
    decoded: Nearness | None
    spread: float
    limit: float
    seed: int | None = None

    @classmethod
    def of(
        cls,
        split: str,
        real: Neighbours,
        reconstructions: tuple[Neighbours, Neighbours | None],
        known: Known,
        *,
        limit: float,
        seed: int | None,
    ) -> "Reference":
        """Measure how near known copies are.

        Args:
            split: the name of the split.
            real: its real rows, searched in the training set.
            reconstructions: of its rows, decoder means and decoder draws.
            known: known copies.
            limit: of the share of copies.
            seed: kept with the numbers.
        """
        means, draws = reconstructions
        rows = nearness(known.planted.to_one, real.to_one, seed=seed)
        decoded: Nearness | None = None
        spread = 0.0
        for part, made in zip(SPREADS, known.reconstructed, strict=True):
            if copying(made, means, seed=seed).status != "copies":
                continue
            spread, decoded = part, nearness(known.own(made), known.own(means), seed=seed)
            if share(decoded.near(known.own(means)), [decoded.reached], split=split).high < limit:
                break  # unseen rows themselves would be cleared
        same = share(rows.near(real.to_one), [rows.reached], split=split)
        return cls(split, means, draws, known, rows, same, decoded, spread, limit, seed)

    @property
    def memorises(self) -> tuple[Estimate, Estimate] | None:
        """Shares of reconstructions and of real rows as near as planted copies, where the decoder memorises; or None.

        It does if the lower limit of the former is above 5 % and above the upper limit of the latter: even what it
        makes of unseen rows are training rows.
        """
        made = self.like_rows(self.means)
        return (made, self.real) if made.low > max(THRESHOLDS.near, self.real.high) else None

    def like_rows(self, found: Neighbours) -> Estimate:
        """The share of a sample that is as near to training rows as planted copies are."""
        return share(self.rows.near(found.to_one), [self.rows.reached], split=self.split)

    def near(self, found: Neighbours) -> Bool[Tensor, " n"]:
        """Which rows of a sample are as near as copies of either kind."""
        near = self.rows.near(found.to_one)
        return near if self.decoded is None else near | self.decoded.near(self.known.own(found))

    def judge(self, found: Neighbours) -> Copying:
        """The copying test of decoder means, with the share that may be copies.

        The status is `copies` by the rule of `copying`; or if the lower limit of the share as near as planted copies is
        above 0.1 and above the upper limit of the same share of real rows, which holds where the reference itself
        consists of copies because the decoder memorises. It is `passes` only if the upper limit of the share of copies,
        of both kinds, is below the limit, and `untested` between.
        """
        compared = copying(found, self.means, seed=self.seed)
        rows = self.like_rows(found)
        reached = [y.reached for y in (self.rows, self.decoded) if y is not None]
        both = share(self.near(found), reached, split=self.split)
        compared = replace(compared, like_rows=rows, share=both)
        if compared.status == "copies" or rows.low > max(THRESHOLDS.copies, self.real.high):
            return replace(compared, status="copies")
        if compared.most < self.limit:
            return compared
        return replace(compared, status="untested", because=f"cannot exclude {100 * compared.most:.2g} % of copies")

    def judge_draws(self, found: Neighbours) -> Copying | None:
        """The copying test of decoder draws: whether they copy, by the same references; None without a reference."""
        return None if self.draws is None else copying(found, self.draws, seed=self.seed)

    def copied(self, found: Neighbours, ids: Int[Tensor, " n"]) -> list[CopiedRow]:
        """The training rows that most rows are as near to as copies are; ten at most.

        Args:
            found: a sample, searched in the training set.
            ids: row ids of the training set.
        """
        parents, counts = torch.unique(found.parent[self.near(found)], return_counts=True)
        order = torch.argsort(counts, descending=True, stable=True)[:MOST]
        return [CopiedRow(int(ids[parents[i]]), int(counts[i])) for i in order.tolist()]

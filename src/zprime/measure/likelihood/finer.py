"""Means of log p(x) where gains were measured with few draws: corrected on some rows that are measured with all draws.

A gain is a difference in which most of the error of few draws cancels; log p(x) itself is not. Its mean over all rows
by few draws, plus the mean over some rows of what all draws change, has the small bias of all draws and the error of
all rows (a control variate; Owen 2013, "Monte Carlo theory, methods and examples", section 8.9).
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.measure.likelihood.gains import PRIOR, RowGains, moved
from zprime.results.names import CandidateId
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate, mean_estimate, widened

UNIT = "nats per row"
PART = 16  # one row of so many is measured with all draws
FEWEST = 64  # rows, or all where there are fewer


def some_rows(n: int) -> Int[Tensor, " m"]:
    """Which of n rows are measured with all draws: evenly spaced, for rows were drawn at random."""
    return torch.linspace(0, n - 1, min(n, max(FEWEST, n // PART))).long()


@dataclass(frozen=True, eq=False)
class Measured:
    """Gains of all rows, and those of some of them with more draws.

    Attributes:
        few: all rows.
        at: which rows of `few` were measured once more, shape [m]; None for none of them.
        many: these, with more draws; None likewise.
    """

    few: RowGains
    at: Int[Tensor, " m"] | None = None
    many: RowGains | None = None

    def mean(self, values: Float[Tensor, " n"], wanted: CandidateId, *, seed: int) -> Estimate:
        """Mean over all rows of log p_r(x), or of log p_r(x) less what does not depend on the number of draws.

        The correction is that of log p(x) under the prior, for every candidate: so log p_r(x) is the prior's and the
        gain. It is stable if log p_r(x) moved little from a quarter of the draws to all; on some rows, if the whole
        95 % interval of that move is little.

        Args:
            values: shape [n], by the draws of all rows.
            wanted: the candidate r.
            seed: of the draws.
        """
        few = self.few
        e = mean_estimate(values, unit=UNIT, split=few.split, seed=seed, design=few.design)
        if self.at is None or self.many is None:
            return moved(e, *few.log_prob(wanted), few.draws, few.design, limit=THRESHOLDS.drift)
        some = self.many
        mean = partial(mean_estimate, unit=UNIT, split=few.split, seed=seed, design=some.design)
        change = mean(some.log_prob(PRIOR)[0] - few.log_prob(PRIOR)[0][self.at])
        whole, quarter = some.log_prob(wanted)
        move = mean(whole - quarter)
        because = (
            f"{few.draws} draws a row, corrected by {some.draws} on {len(some.ids)} of the rows; there it moved {move} "
            f"nats from {some.draws // 4} to {some.draws} draws (limit {THRESHOLDS.drift:.3f})"
        )
        e = replace(
            e,
            value=e.value + change.value,
            low=e.low + change.value,
            high=e.high + change.value,
            stable=e.stable and max(-move.low, move.high) < THRESHOLDS.drift,
        )
        return widened(e, change.stderr or 0.0, because=because)

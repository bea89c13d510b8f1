"""Choices that a fit leaves to the selection split: by the code gain, with the same tie rule as the verdict's."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import standard_log_prob
from zprime.distribution import LatentDistribution
from zprime.errors import NumericalError
from zprime.posteriors import Posteriors
from zprime.rng import fork

SHARES = (0.0, 0.01, 0.05, 0.1)
"""Shares of the prior that every kind is tried with (theory page, section 3, heavy tails)."""

WORTH = 0.01
"""Nats that a share of the prior must earn to be mixed in at all."""

TIE = 0.05
"""Nats below which a difference is no difference."""


@dataclass(frozen=True)
class Codes:
    """Fresh codes of the selection split, and the prior's log-density at them: made once, shared by all candidates."""

    z: Float[Tensor, "m d"]
    prior: Float[Tensor, " m"]
    rows: int

    @classmethod
    def draw(cls, selection: Posteriors, *, rng: torch.Generator, points: int = 20_000) -> "Codes":
        """Some draws from the posterior of every row, `points` or more in all."""
        draws = max(1, min(16, -(-points // selection.n)))
        z = selection.draw(rng=fork(rng, "selection codes"), draws=draws)
        return cls(z, standard_log_prob(z), selection.n)

    def gain(self, log_prob: Float[Tensor, " m"], share: float = 0.0) -> Float[Tensor, " n"]:
        """Code gain log[(1-e) r + e p] - log p in nats, averaged over each row's draws."""
        gain = log_prob.double() - self.prior
        if share > 0:
            gain = torch.logaddexp(gain + math.log1p(-share), torch.full_like(gain, math.log(share)))
        return gain.reshape(-1, self.rows).mean(0)


def best_share(codes: Codes, r: LatentDistribution) -> tuple[float, Float[Tensor, " n"]]:
    """The prior's share with the best mean code gain (none where it earns less than 0.01 nats), and each row's gain.

    Raises:
        NumericalError: the density is NaN somewhere, so that no share can be called the best.
    """
    log_prob = r.log_prob(codes.z)
    bad = int(log_prob.isnan().sum())
    if bad:
        raise NumericalError(
            f"{r.label}: its log-density is NaN at {bad} of {len(log_prob)} codes of the selection split; "
            "this fit cannot be used: change its settings or leave it out"
        )
    gains = {e: codes.gain(log_prob, e) for e in SHARES}
    best = max(SHARES, key=lambda e: float(gains[e].mean()))
    if float(gains[best].mean() - gains[0.0].mean()) < WORTH:
        best = 0.0
    return best, gains[best]


def paired(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> tuple[float, float]:
    """Mean of a - b and its standard error."""
    gap = (a - b).double()
    return float(gap.mean()), float(gap.std() / math.sqrt(len(gap))) if len(gap) > 1 else math.inf


def smallest_of_best(gains: list[Float[Tensor, " n"]], sizes: list[int]) -> int:
    """Among those whose paired difference to the best is below max(1 s.e., 0.05 nats), the one that stores least."""
    best = max(range(len(gains)), key=lambda i: float(gains[i].mean()))
    tied = []
    for i, gain in enumerate(gains):
        mean, stderr = paired(gains[best], gain)
        if i == best or mean < max(TIE, 0.0 if math.isinf(stderr) else stderr):
            tied.append(i)
    return min(tied, key=lambda i: (sizes[i], -float(gains[i].mean())))

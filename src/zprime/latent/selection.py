"""Choices that a fit leaves to the selection split: by the ELBO gain, with the same tie rule as the verdict's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import in_proportion
from zprime.distribution import LatentDistribution
from zprime.errors import NumericalError
from zprime.posteriors import Posteriors
from zprime.results.facts import CurvePoint
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.design import Design

EPSILONS = (0.01, 0.05, 0.1)
"""Shares of the prior that a candidate may mix in (docs/theory.md, section 3): never 0, so no gain is below log e."""

WORTH = 0.01
"""Nats by which a larger share must raise the mean ELBO gain, or else the smaller one is taken."""

TIE = THRESHOLDS.tie
"""Nats: two mean gains that differ by less count as equal."""


@dataclass(frozen=True)
class RowScores:
    """A score of every row, in nats; its mean and error count rows by their weights.

    Attributes:
        value: one number a row.
        weight: shape [n], adding up to 1, or None for equal ones.
        groups: shape [n], integers: rows of one group are dependent; None where all are independent.
    """

    value: Float[Tensor, " n"]
    weight: Float[Tensor, " n"] | None = None
    groups: Int[Tensor, " n"] | None = None

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """Every row's weight, float64."""
        n = len(self.value)
        return torch.full_like(self.value, 1 / n).double() if self.weight is None else self.weight.double()

    @property
    def mean(self) -> float:
        """Over rows, weighted."""
        return float(self.weights @ self.value.double())

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean, of independent groups with fixed weights; None if one of them has all the weight.

        Where there are no groups, every row is one.
        """
        design, weights = Design(groups=self.groups), self.weights
        n = int((design.totals(weights) > 0).sum())
        if n < 2:
            return None
        gap = self.value.double() - self.mean
        return math.sqrt(float(design.totals(weights * gap).square().sum()) * n / (n - 1))

    def __sub__(self, other: "RowScores") -> "RowScores":
        """Row by row: the paired difference."""
        return RowScores(self.value - other.value, self.weight, self.groups)


@dataclass(frozen=True)
class Codes:
    """Draws z from the posteriors of some rows, on which the candidates of one fit are compared.

    Attributes:
        z: draw by draw, row i of a draw from the posterior of row i.
        log_prior: log p(z), nats.
        rows: how many.
        weight: of each row, adding up to 1, or None for equal ones.
        groups: rows of one group are dependent, as the components of one datum's posterior are; None where all are
            independent.
    """

    z: Float[Tensor, "m d"]
    log_prior: Float[Tensor, " m"]
    rows: int
    weight: Float[Tensor, " n"] | None = None
    groups: Int[Tensor, " n"] | None = None

    @classmethod
    def draw(
        cls, selection: Posteriors, prior: LatentDistribution, *, rng: torch.Generator, points: int = 20_000
    ) -> "Codes":
        """Draw from the posterior of every row, at most 16 times, so that there are `points` draws in all if possible.

        Above 1,024 dimensions there are fewer in proportion.

        Args:
            selection: the rows' posteriors.
            prior: p(z).
            rng: source of randomness.
            points: draws that are wanted.
        """
        draws = max(1, min(16, -(-in_proportion(points, selection.d) // selection.n)))
        z = selection.draw(rng=fork(rng, "selection codes"), draws=draws)
        return cls(z, prior.log_prob(z), selection.n, selection.weights, selection.datum)

    def gain(self, log_prob: Float[Tensor, " m"], epsilon: float = 0.0) -> RowScores:
        """ELBO gain log[(1-e) r + e p] - log p in nats, averaged over each row's draws."""
        gain = log_prob.double() - self.log_prior
        if epsilon > 0:
            gain = torch.logaddexp(gain + math.log1p(-epsilon), torch.full_like(gain, math.log(epsilon)))
        return RowScores(gain.reshape(-1, self.rows).mean(0), self.weight, self.groups)


def best_epsilon(codes: Codes, r: LatentDistribution) -> tuple[float, RowScores]:
    """The smallest epsilon whose mean ELBO gain is within 0.01 nats of the best one's, and each row's gain with it.

    Raises:
        NumericalError: the density is NaN somewhere, so that no epsilon can be called the best.
    """
    log_prob = r.log_prob(codes.z)
    bad = int(log_prob.isnan().sum())
    if bad:
        raise NumericalError(
            f"{r.label}: its log-density is NaN at {bad} of {len(log_prob)} codes of the selection split; "
            "this fit cannot be used: change its settings or leave it out"
        )
    return best_share({e: codes.gain(log_prob, e) for e in EPSILONS})


def best_share(gains: Mapping[float, RowScores]) -> tuple[float, RowScores]:
    """The smallest share of the prior whose mean gain is within 0.01 nats of the best one's, and its gains."""
    most = max(gain.mean for gain in gains.values())
    chosen = min(e for e in gains if most - gains[e].mean <= WORTH)
    return chosen, gains[chosen]


def point(setting: str, value: int | float, r: LatentDistribution, epsilon: float, gains: RowScores) -> CurvePoint:
    """One point of a fit's curve: a value that was tried, what it stores, and what it gained on the selection split."""
    return CurvePoint(setting, float(value), r.bytes, epsilon, gains.mean, gains.stderr)


def paired(a: RowScores, b: RowScores) -> tuple[float, float]:
    """Mean of a - b and its standard error; infinite of one row."""
    gap = a - b
    return gap.mean, math.inf if gap.stderr is None else gap.stderr


def near_best(gains: list[RowScores], tie: float = TIE) -> list[int]:
    """Where the best is, and those whose paired difference to it is below max(1 s.e., `tie`)."""
    best = max(range(len(gains)), key=lambda i: gains[i].mean)
    gaps = [gains[best] - gain for gain in gains]
    return [i for i, gap in enumerate(gaps) if i == best or gap.mean < max(tie, gap.stderr or 0.0)]


def smallest_of_best(gains: list[RowScores], sizes: list[int] | list[tuple[bool, int]]) -> int:
    """Of the best and those that tie with it, the one that stores least."""
    return min(near_best(gains), key=lambda i: (sizes[i], -gains[i].mean))

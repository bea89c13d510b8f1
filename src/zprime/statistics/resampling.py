"""Standard errors of statistics that have no formula for them: their spread at these sample sizes.

Smooth statistics (`Groups`): the grouped jackknife, with its second order. Statistics of nearest neighbours, where
jackknife and bootstrap both fail (`Halves`): random halves. Differences are taken replicate by replicate, so that what
two statistics share (the real rows) cancels.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.rng import stream
from zprime.statistics.estimate import Estimate, student95

GROUPS = 30
HALVES = 24

Scale = Literal["linear", "proportion", "distance"]
"""How the interval of a number is made: see `Replicates.estimate`."""

R = TypeVar("R", bound="Replicates")


@dataclass(frozen=True)
class About:
    """What goes with every number of a measure: rows in each sample, which rows, the seed."""

    n: int
    split: str
    seed: int | None


@dataclass(frozen=True)
class Replicates(ABC):
    """k numbers on all rows, and on many subsets of the rows."""

    whole: Float[Tensor, " k"]

    @property
    @abstractmethod
    def df(self) -> int:
        """Degrees of freedom of the standard errors."""

    @abstractmethod
    def stderr(self) -> Float[Tensor, " k"]:
        """Standard errors."""

    def __sub__(self: R, other: R) -> R:
        """The difference of two statistics whose replicates left out the same real rows."""
        names = [f.name for f in dataclasses.fields(self)]
        return type(self)(**{n: getattr(self, n) - getattr(other, n) for n in names})

    def estimate(self, column: int, about: About, *, unit: str, scale: Scale = "linear") -> Estimate:
        """Number `column` with its error and 95 % interval (Student's t).

        Args:
            column: which.
            about: what goes with the number.
            unit: of the number.
            scale: `linear`; `proportion` of rows, kept between 0 and 1, with an error no smaller than a binomial
                proportion's (Agresti & Coull 1998), since near 0 and 1 replicates hardly vary; `distance`, above 0,
                with the interval symmetric in its logarithm, since it is skew, up to twice the linear one above.
        """
        value, stderr = float(self.whole[column]), float(self.stderr()[column])
        half = student95(self.df) * stderr
        low, high = value - half, value + half
        if scale == "proportion":
            middle = (value * about.n + 2) / (about.n + 4)
            stderr = max(stderr, math.sqrt(middle * (1 - middle) / about.n))
            half = student95(self.df) * stderr
            low, high = max(0.0, value - half), min(1.0, value + half)
        elif scale == "distance":
            factor = math.exp(min(half / value, 50.0)) if value > 0 else math.inf
            low, high = max(0.0, value / factor), value + 2 * half  # where it is mostly error, the factor says nothing
            high = min(high, value * factor) if value > 0 else high
        return Estimate(value, stderr, low, high, about.n, unit, about.split, about.seed)


@final
@dataclass(frozen=True)
class Groups(Replicates):
    """With each group of rows left out (`single`), and each pair of groups (`double`)."""

    single: Float[Tensor, "g k"]
    double: Float[Tensor, "p k"]

    @property
    def df(self) -> int:
        """Groups less one."""
        return len(self.single) - 1

    def stderr(self) -> Float[Tensor, " k"]:
        """Of the jackknife, less what it counts twice.

        Its variance has the quadratic part of a statistic twice (Efron & Stein 1981, section 4). Between equal samples
        a Frechet distance is all quadratic, and the error would be 1.4 times too large. The quadratic part alone, which
        varies less from sample to sample, is the least that is left: a distance that came out small by chance would
        have an error too small as well.
        """
        g = len(self.single)
        var = (g - 1) / g * (self.single - self.single.mean(0)).square().sum(0)
        if len(self.double):
            a, b = torch.combinations(torch.arange(g)).T
            q = g * self.whole - (g - 1) * (self.single[a] + self.single[b]) + (g - 2) * self.double
            quadratic = 0.5 * q.var(0)
            var = torch.maximum(var - quadratic, quadratic)
        return var.sqrt()


@final
@dataclass(frozen=True)
class Halves(Replicates):
    """On random halves of either sample (`halves`)."""

    halves: Float[Tensor, "h k"]

    @property
    def df(self) -> int:
        """Halves less one."""
        return len(self.halves) - 1

    def stderr(self) -> Float[Tensor, " k"]:
        """Spread between halves: half the rows vary twice as much, and half of that is between them (Shao & Wu 1989).

        Up to a fifth too large for statistics of nearest neighbours: leaving rows out also moves the neighbours.
        """
        return self.halves.std(0)


def leave_out(
    statistic: Callable[[Bool[Tensor, "b g"]], Float[Tensor, "b k"]], *, groups: int = GROUPS, pairs: bool
) -> Groups:
    """Compute a statistic, given which groups to keep in each replicate: all, all but one, and all but two."""
    eye = torch.eye(groups, dtype=torch.bool)
    a, b = torch.combinations(torch.arange(groups)).T
    left_out = [torch.zeros(1, groups, dtype=torch.bool), eye] + ([eye[a] | eye[b]] if pairs else [])
    values = statistic(~torch.cat(left_out)).double()
    return Groups(values[0], values[1 : groups + 1], values[groups + 1 :])


def group_of(n: int, groups: int) -> Tensor:
    """The group of each of n rows in random order."""
    return torch.arange(n) % groups


def halve(statistic: Callable[[Bool[Tensor, " n"], Bool[Tensor, " m"]], Float[Tensor, " k"]], n: int, m: int) -> Halves:
    """Compute a statistic, given which rows to keep of either sample: all, then random halves, always the same."""
    rng = stream(0, "halves", n, m)
    values = [statistic(torch.ones(n, dtype=torch.bool), torch.ones(m, dtype=torch.bool))]
    for _ in range(HALVES):
        kept = [torch.randperm(size, generator=rng) < size // 2 for size in (n, m)]
        values.append(statistic(*kept))
    return Halves(values[0].double(), torch.stack(values[1:]).double())

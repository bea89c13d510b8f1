"""A number with its error, its interval and the result of its own check."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.statistics.format import signed

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A measured number with its error, interval, sample and check; no number is reported without these.

    Attributes:
        value: the estimate.
        stderr: its standard error; None where the value is exact for the stated sample.
        low, high: 95 % interval.
        n: number of independent rows behind it.
        unit: e.g. "nats per row".
        split: the rows it was computed on.
        seed: of the draws, None where there were none.
        stable: whether its own check was passed.
        because: what the check said.
    """

    value: float
    stderr: float | None
    low: float
    high: float
    n: int
    unit: str
    split: str
    seed: int | None
    stable: bool = True
    because: str = ""

    def __str__(self) -> str:
        """Value and standard error."""
        return signed(self)


def mean_estimate(values: Float[Tensor, " n"], *, unit: str, split: str, seed: int | None) -> Estimate:
    """Mean over rows with its standard error and 95 % interval.

    Student's interval, with the end that the rows are skewed towards pushed out by Johnson's (1978) correction: gains
    have a long tail of bad rows, and where the sample missed it Student's interval lies too high. (On the
    linear-Gaussian model, 60 rows: the truth lay below it in 5.7 % of 2,000 data sets, above it in 1.1 %.) It is never
    narrower.
    """
    values = values.double()
    n = len(values)
    mean = float(values.mean())
    if n < 2 or not math.isfinite(mean):
        because = "one row only: no error can be given" if n < 2 else "some rows are infinite"
        return Estimate(mean, math.inf, -math.inf, math.inf, n, unit, split, seed, stable=False, because=because)
    stderr = float(values.std() / math.sqrt(n))
    quantile = student95(n - 1)
    half, push = quantile * stderr, skewness(values) * (1 + 2 * quantile**2) / (6 * math.sqrt(n)) * stderr
    return Estimate(mean, stderr, mean - half + min(push, 0.0), mean + half + max(push, 0.0), n, unit, split, seed)


def skewness(values: Float[Tensor, " n"]) -> float:
    """Third moment over the cubed standard deviation; 0 where all values are the same."""
    gap = values - values.mean()
    spread = float(gap.square().mean().sqrt())
    return float((gap / spread).pow(3).mean()) if spread > 0 else 0.0


def finite_mean(values: Float[Tensor, " n"], *, unit: str, split: str, seed: int | None, because: str) -> Estimate:
    """Mean over the rows that are finite; where some are not, not stable, and `because` says what they are."""
    finite = values[torch.isfinite(values)]
    lost = len(values) - len(finite)
    if len(finite):
        e = mean_estimate(finite, unit=unit, split=split, seed=seed)
    else:
        e = Estimate(math.nan, math.inf, -math.inf, math.inf, 0, unit, split, seed)
    return replace(e, stable=False, because=f"{lost} rows {because}") if lost else e


def skew_checked(e: Estimate, values: Float[Tensor, " n"]) -> Estimate:
    """Not stable where a few rows decide: fewer rows than 25 times the squared skewness.

    (Cochran 1977, section 2.15.)
    """
    values = values[torch.isfinite(values)].double()
    gap = values - values.mean()
    var = float(gap.square().mean())
    if not e.stable or var <= 0:
        return e
    needed = 25 * float(gap.pow(3).mean()) ** 2 / var**3
    if len(values) >= needed:
        return e
    because = f"a few rows decide: {len(values)} of them, and a skewness that asks for {needed:.0f}"
    return replace(e, stable=False, because=f"{because}; the interval may be too short")


def proportion(hits: int, n: int, *, unit: str, split: str, seed: int | None) -> Estimate:
    """A proportion with its exact 95 % interval (Clopper & Pearson 1934) and its binomial standard error."""
    p = hits / n
    low, high = clopper_pearson(hits, n, 0.05)
    return Estimate(p, math.sqrt(p * (1 - p) / n), low, high, n, unit, split, seed)


def clopper_pearson(hits: int, n: int, error: float) -> tuple[float, float]:
    """Interval that holds a binomial proportion with probability 1 - `error` at least."""
    from scipy.stats import beta

    low = float(beta.ppf(error / 2, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - error / 2, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def exact(value: float, *, n: int, unit: str, split: str) -> Estimate:
    """A value without sampling error."""
    return Estimate(value, None, value, value, n, unit, split, None)


def student95(df: int) -> float:
    """97.5 % quantile of Student's t."""
    return student(df, 0.975)


def student(df: int, probability: float) -> float:
    """Quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(probability, df))

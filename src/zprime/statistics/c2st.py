"""Classifier two-sample test: can a classifier tell codes of held-out data from draws of r?

Lopez-Paz & Oquab 2017. The classifier is kernel logistic regression on random Fourier features (Rahimi & Recht 2007):
its optimum is unique, so nothing depends on how long it was trained, and it takes 0.2 s for 2 x 1,000 points.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.errors import UsageError
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, proportion
from zprime.statistics.logistic import fit_logistic, predict_logistic

WIDTHS = (0.35, 0.7, 1.4)  # of the median distance: three scales of structure
FEATURES = 100  # for each width
TYPICAL = 1000  # rows that the median distance is taken from, at most
RIDGE = 2e-3  # of either class's weights: 1e-3 of their difference


@dataclass(frozen=True)
class C2ST:
    """Accuracy on the halves of both samples that the classifier has not seen; 1/2 if it cannot tell them apart.

    Attributes:
        accuracy: with its exact binomial interval.
        p_value: of an accuracy this high or higher under one distribution for both, binomial.
    """

    accuracy: Estimate
    p_value: float


def c2st(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, split: str, seed: int) -> C2ST:
    """Train on one half of each sample, test on the other.

    Args:
        x: independent draws, e.g. one code of each held-out row.
        y: as many independent draws of the other distribution (with other sizes chance is not 1/2).
        split: which rows `x` belongs to.
        seed: of the halves and the features.

    Raises:
        UsageError: samples of different sizes, or fewer than 8 in each.
    """
    if len(x) != len(y) or len(x) < 8:
        raise UsageError(f"c2st: expected two samples of one size, at least 8, got {len(x)} and {len(y)}")
    rng = stream(seed, "c2st", split)
    half = len(x) // 2
    x, y = x.double()[torch.randperm(len(x), generator=rng)], y.double()[torch.randperm(len(y), generator=rng)]
    classifier = Classifier.fit(x[:half], y[:half], rng=rng)
    right = torch.cat([classifier(x[half:]), ~classifier(y[half:])])
    hits = int(right.sum())
    return C2ST(proportion(hits, len(right), unit="accuracy", split=split, seed=seed), binomial_p(hits, len(right)))


def binomial_p(hits: int, n: int) -> float:
    """P(B >= hits), B ~ Binomial(n, 1/2)."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, n, 0.5))


@dataclass(frozen=True)
class Features:
    """Each coordinate and its square, and cosines at random frequencies of three scales, all of order 1."""

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    frequency: Float[Tensor, "d f"]
    phase: Float[Tensor, " f"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], rng: torch.Generator) -> "Features":
        """Standardised by `x`, with frequencies in inverse proportion to the median distance of 1,000 rows at most."""
        centre, spread = x.mean(0), x.std(0).clamp(min=1e-12)
        some = x[:: max(1, -(-len(x) // TYPICAL))]
        typical = float(torch.pdist((some - centre) / spread).median())
        scales = [
            torch.randn(x.shape[1], FEATURES, generator=rng, dtype=torch.float64) / (w * max(typical, 1e-12))
            for w in WIDTHS
        ]
        phase = 2 * math.pi * torch.rand(len(WIDTHS) * FEATURES, generator=rng, dtype=torch.float64)
        return cls(centre, spread, torch.cat(scales, 1), phase)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """Features of the rows of `x`."""
        u = (x - self.centre) / self.spread
        waves = torch.cos(u @ self.frequency + self.phase) * math.sqrt(2 / len(WIDTHS))
        return torch.cat([u, u.square(), waves], 1)


@dataclass(frozen=True)
class Classifier:
    """Says of each point whether it looks like the first of two samples."""

    features: Features
    weight: Float[Tensor, "g 2"]

    @classmethod
    def fit(cls, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, rng: torch.Generator) -> "Classifier":
        """Logistic regression of `x` against `y`."""
        both = torch.cat([x, y])
        features = Features.of(both, rng)
        return cls(features, fit_logistic(features(both), (torch.arange(len(both)) < len(x)).long(), 2, ridge=RIDGE))

    def __call__(self, x: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Whether each point looks like the first sample."""
        return predict_logistic(self.weight, self.features(x)).bool()

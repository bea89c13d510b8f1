"""Classifier two-sample test: how well a classifier tells generated from real rows that it has not seen."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.measure.estimate import Z95, Estimate
from zprime.measure.logistic import fit_logistic, predict_logistic


@dataclass(frozen=True)
class ClassifierTest:
    """Result of the test.

    Attributes:
        accuracy: share of unseen rows that are told apart rightly; 0.5 where the two are alike.
        p: chance of this accuracy or more if they are alike (binomial).
    """

    accuracy: Estimate
    p: float


def classifier_test(
    real: Float[Tensor, "n f"], fake: Float[Tensor, "m f"], *, split: str, seed: int | None = None
) -> ClassifierTest:
    """C2ST (Lopez-Paz & Oquab 2017) by logistic regression on the features and their squares.

    It sees means and variances of the features. Trained on the first half of either sample, tested on the second; rows
    are expected in random order and equal in number. The interval is Wilson's, for this classifier.
    """
    half = min(len(real), len(fake)) // 2
    parts = [_expand(torch.cat([real[c], fake[c]])) for c in (slice(0, half), slice(half, 2 * half))]
    labels = torch.arange(2).repeat_interleave(half)
    mean, scale = parts[0].mean(0), parts[0].std(0).clamp(min=1e-12)
    train, test = ((p - mean) / scale for p in parts)
    right = predict_logistic(fit_logistic(train, labels, 2), test) == labels
    return ClassifierTest(share(right, unit="share of rows told apart", split=split, seed=seed), _binomial(right))


def share(hits: Bool[Tensor, " n"], *, unit: str, split: str, seed: int | None) -> Estimate:
    """A share with its binomial error and Wilson's 95 % interval (Wilson 1927)."""
    n = len(hits)
    p = float(hits.double().mean())
    centre, spread = (p + Z95**2 / (2 * n)), Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    factor = 1 / (1 + Z95**2 / n)
    low, high = max(0.0, factor * (centre - spread)), min(1.0, factor * (centre + spread))
    return Estimate(p, math.sqrt(p * (1 - p) / n), low, high, n, unit, split, seed)


def _binomial(right: Bool[Tensor, " n"]) -> float:
    """P(at least so many right of n at 1/2)."""
    from scipy.stats import binom

    return float(binom.sf(int(right.sum()) - 1, len(right), 0.5))


def _expand(x: Float[Tensor, "n f"]) -> Float[Tensor, "n g"]:
    x = x.double()
    return torch.cat([x, (x - x.mean(0)).square()], 1)

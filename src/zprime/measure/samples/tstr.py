"""Train on synthetic, test on real (TSTR): how accurate is a classifier trained on generated rows with real ones?"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.statistics.estimate import Estimate, proportion
from zprime.statistics.logistic import Axes, fit_logistic, predict_logistic

NEAR = 1e-4
"""Length of the gradient at which it stops: of ten fits to Fashion-MNIST, one labels 1 row of 8,000 otherwise then."""


def hits(
    x: Float[Tensor, "n *datum"],
    labels: Int[Tensor, " n"],
    tests: Mapping[str, tuple[Tensor, Tensor]],
    *,
    like: Axes | None = None,
) -> dict[str, Bool[Tensor, " m"]]:
    """Train a classifier on `x`; which real rows it labels rightly, for each (rows, labels) of `tests`.

    Multinomial logistic regression on the rows' entries (train on synthetic, test on real: Esteban et al. 2017). Labels
    that no generated row has are never predicted. `like`: axes of real rows, where they do for any (`Axes.whole`).
    """
    classes, y = torch.unique(labels, return_inverse=True)
    if len(classes) == 1:
        return {name: truth == classes[0] for name, (_, truth) in tests.items()}
    weight = fit_logistic(x.flatten(1), y, len(classes), tolerance=NEAR, like=like)
    return {name: classes[predict_logistic(weight, real.flatten(1))] == truth for name, (real, truth) in tests.items()}


def accuracy(right: Bool[Tensor, " m"], *, split: str, seed: int | None) -> Estimate:
    """Proportion of rows that are right."""
    return proportion(int(right.sum()), len(right), unit="proportion of rows", split=split, seed=seed)

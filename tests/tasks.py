"""A task for a kind's own `fit`, with what most tests leave as it is."""

import torch

from zprime.distribution import LatentDistribution, Prior
from zprime.latent.kind import Context, Task
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent


def task(
    train: Posteriors,
    *,
    selection: Posteriors | None = None,
    prior: LatentDistribution | None = None,
    context: Context | None = None,
    rng: torch.Generator,
    progress: Progress = silent,
) -> Task:
    return Task(train, selection or train, prior or Prior(train.d), rng, context, progress)

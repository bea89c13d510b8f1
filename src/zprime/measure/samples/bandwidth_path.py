"""Copying along a path of bandwidths: the same draws, from the training codes themselves to one Gaussian, as the bandwidth grows.

The aggregated posterior lies on it at h = 0, kind `exemplars` at the bandwidth that was chosen for it.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import choose
from zprime.latent.gaussian import moments
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.results.samples import CODES, BandwidthPath, PathPoint

BANDWIDTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ROWS = 1000
"""Rows at each point, at most: a search among 60,000 images takes 2.4 s of one core for 1,000."""


def path_draws(
    train: MemoryPosteriors, n: int, *, rng: torch.Generator
) -> Iterator[tuple[str, float, Float[Tensor, "n d"]]]:
    """Draws at every point: its name, its bandwidth h, and `m + a (mu + s e - m) + h S^1/2 e'`, `a = sqrt(1 - h^2)`.

    m and S are mean and covariance of the aggregated posterior, and those of the draws at every h (Liu & West 2001).
    Row, e and e' are the same at all points: nothing but the bandwidth changes.

    Args:
        train: posteriors of the training rows.
        n: number of draws.
        rng: decides them.
    """
    centre, covariance = moments(train)
    row = choose(train.log_weights, n, rng)
    noise, kernel = torch.randn(2, n, train.d, generator=rng, dtype=torch.float64)
    code = train.mean[row].double()
    draw = code + train.scale[row].double() * noise
    kernel = kernel @ torch.linalg.cholesky(covariance).T
    yield CODES, 0.0, code.to(train.mean.dtype)
    for h in BANDWIDTHS:
        z = centre + math.sqrt(1 - h * h) * (draw - centre) + h * kernel
        yield f"h = {h:g}", h, z.to(train.mean.dtype)


def bandwidth_path(
    train: MemoryPosteriors,
    decode: Callable[[Tensor], Tensor],
    training: TrainingSet,
    reference: Neighbours,
    beside: dict[str, Neighbours],
    *,
    samples: int,
    rng: torch.Generator,
    seed: int | None = None,
    progress: Progress = silent,
) -> BandwidthPath:
    """Measure copying at every point.

    Args:
        train: posteriors of the training rows.
        decode: latents -> decoder means.
        training: the training rows, searched for neighbours.
        reference: where reconstructions of held-out rows lie.
        beside: where the controls lie, at least as many rows of each as there are samples.
        samples: rows at each point; 1,000 at most are used.
        rng: decides the draws.
        seed: kept with the numbers.
        progress: called once a point.
    """
    n = min(samples, ROWS, *(len(b.parent) for b in beside.values()))
    points = []
    for i, (name, h, z) in enumerate(path_draws(train, n, rng=rng)):
        progress("copying, by bandwidth", i, len(BANDWIDTHS) + 1)
        points.append(PathPoint(name, h, copying(training.neighbours(decode(z)), reference, seed=seed)))
    progress("copying, by bandwidth", len(points), len(points))
    return BandwidthPath(n, points, {k: copying(b.take(slice(n)), reference, seed=seed) for k, b in beside.items()})

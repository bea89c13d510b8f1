"""Copying along a path of bandwidths: from the training codes themselves to one Gaussian, with the same draws.

The aggregated posterior is the point h = 0; kind `exemplars` lies at the bandwidth that was chosen for it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import times
from zprime.components import choose
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.study import Split
from zprime.progress import Progress, silent
from zprime.results.samples import CODES, BandwidthPath, PathPoint

BANDWIDTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ROWS = 1000
"""Rows at each point, at most: a search among 60,000 images takes 2.4 s of one core for 1,000."""


@dataclass(frozen=True)
class Surroundings:
    """What the points of the path are compared with.

    Attributes:
        training: the training rows, searched for neighbours.
        reference: where reconstructions of held-out rows lie.
        beside: name -> where the controls and samples of the prior lie.
    """

    training: TrainingSet
    reference: Neighbours
    beside: dict[str, Neighbours]


def path_draws(train: Split, n: int, *, rng: torch.Generator) -> Iterator[tuple[str, float, Float[Tensor, "n d"]]]:
    """Draws at every point: its name, its bandwidth h, and `m + a (mu + s e - m) + h S^1/2 e'`, `a = sqrt(1 - h^2)`.

    m and S are mean and covariance of the aggregated posterior, and those of the draws at every h (Liu & West 2001).
    Row, e and e' are the same at all points: nothing but the bandwidth changes.

    Args:
        train: posteriors of the training rows.
        n: number of draws.
        rng: decides them.
    """
    centre, covariance = train.moments
    p = train.posteriors
    row = choose(p.log_weights, n, rng)
    noise, kernel = torch.randn(2, n, p.d, generator=rng, dtype=torch.float64)
    code = p.mean[row].double()
    draw = code + times(p.scale[row].double(), noise)
    kernel = kernel @ torch.linalg.cholesky(covariance).T
    yield CODES, 0.0, code.to(p.mean.dtype)
    for h in BANDWIDTHS:
        z = centre + math.sqrt(1 - h * h) * (draw - centre) + h * kernel
        yield f"h = {h:g}", h, z.to(p.mean.dtype)


def bandwidth_path(
    train: Split,
    decode: Callable[[Tensor], Tensor],
    around: Surroundings,
    *,
    rng: torch.Generator,
    seed: int | None = None,
    progress: Progress = silent,
) -> BandwidthPath:
    """Measure copying at every point, on as many rows as the smallest control has, and 1,000 at most.

    Args:
        train: posteriors of the training rows.
        decode: latents -> decoder means.
        around: what copying is measured against.
        rng: decides the draws.
        seed: kept with the numbers.
        progress: called once a point.
    """
    n = min(ROWS, *(len(b.parent) for b in around.beside.values()))
    points = []
    for i, (name, h, z) in enumerate(path_draws(train, n, rng=rng)):
        progress("copying, by bandwidth", i, len(BANDWIDTHS) + 1)
        generated = around.training.neighbours(decode(z))
        points.append(PathPoint(name, h, copying(generated, around.reference, seed=seed)))
    progress("copying, by bandwidth", len(points), len(points))
    beside = {k: copying(b.take(slice(n)), around.reference, seed=seed) for k, b in around.beside.items()}
    return BandwidthPath(n, points, beside)

"""The copying road: the same draws, from the training codes themselves to one Gaussian, as the bandwidth grows.

The aggregated posterior lies on it at h = 0, kind `exemplars` at the bandwidth that was chosen for it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import choose
from zprime.distribution import Progress, silent
from zprime.latent.gaussian import moments
from zprime.measure.samples.copying import Copying, Neighbours, TrainingSet, copying
from zprime.posteriors import InMemory

BANDWIDTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
CODES = "training codes"
ROWS = 1000
"""Rows at each stop, at most: a search among 60,000 images takes 2.4 s of one core for 1,000."""


@dataclass(frozen=True)
class Stop:
    """Samples at one bandwidth.

    Attributes:
        name: `training codes`, or the bandwidth.
        bandwidth: h of Liu & West's kernel; 0 for the training codes too, which have not even their posteriors' noise.
        copying: of decoder means.
    """

    name: str
    bandwidth: float
    copying: Copying


@dataclass(frozen=True)
class Road:
    """How copies become samples, and samples leave the data, as the posteriors are smoothed.

    Attributes:
        rows: generated rows at each stop, and of each that stands beside it: Z_U and C_T grow with their number.
        stops: from the training codes over h = 0, the aggregated posterior, to h = 1, one Gaussian with its mean and
            covariance. All have the same rows and the same noise.
        beside: the same number of planted copies, of reconstructions, and of samples of the prior.
    """

    rows: int
    stops: list[Stop]
    beside: dict[str, Copying]

    @property
    def copies(self) -> list[Stop]:
        """Stops whose samples copy."""
        return [s for s in self.stops if s.copying.status == "copies"]

    @property
    def off(self) -> list[Stop]:
        """The stops at the end of the road that are measurably farther from the training set than unseen rows are."""
        out: list[Stop] = []
        for s in reversed(self.stops):
            if s.copying.within.high >= 0.5:
                break
            out.insert(0, s)
        return out


def walk(train: InMemory, n: int, *, rng: torch.Generator) -> Iterator[tuple[str, float, Float[Tensor, "n d"]]]:
    """Draws at every stop: its name, its bandwidth h, and `m + a (mu + s e - m) + h S^1/2 e'`, `a = sqrt(1 - h^2)`.

    m and S are mean and covariance of the aggregated posterior, and those of the draws at every h (Liu & West 2001).
    Row, e and e' are the same at all stops: nothing but the bandwidth changes.

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


def road(
    train: InMemory,
    decode: Callable[[Tensor], Tensor],
    training: TrainingSet,
    yardstick: Neighbours,
    beside: dict[str, Neighbours],
    *,
    samples: int,
    rng: torch.Generator,
    seed: int | None = None,
    progress: Progress = silent,
) -> Road:
    """Measure copying at every stop.

    Args:
        train: posteriors of the training rows.
        decode: latents -> decoder means.
        training: the training rows, searched for neighbours.
        yardstick: where reconstructions of held-out rows lie.
        beside: where the controls lie, at least as many rows of each as there are samples.
        samples: rows at each stop; 1,000 at most are used.
        rng: decides the draws.
        seed: kept with the numbers.
        progress: called once a stop.
    """
    n = min(samples, ROWS, *(len(b.parent) for b in beside.values()))
    stops = []
    for i, (name, h, z) in enumerate(walk(train, n, rng=rng)):
        progress("copying road", i, len(BANDWIDTHS) + 1)
        stops.append(Stop(name, h, copying(training.neighbours(decode(z)), yardstick, seed=seed)))
    progress("copying road", len(stops), len(stops))
    return Road(n, stops, {k: copying(b.take(slice(n)), yardstick, seed=seed) for k, b in beside.items()})

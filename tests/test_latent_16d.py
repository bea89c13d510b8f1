"""Normalisation in 16 dimensions, where no grid reaches: by bridge sampling, for every kind of the zoo."""

import functools
import math

import pytest
import torch

from tasks import task
from zoo import ZOO
from zprime.distribution import LatentDistribution
from zprime.latent import Mixture, MixtureSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

D = 16
POINTS = 2000
NAMES = [n for n in ZOO if n != "shared-nuts"]
"""All kinds that have a density."""
SLACK = {"exact": 0.0, "estimate": 0.05, "bound": 0.0}
"""An estimate's own error; a bound is on average over its noise no more than the density, and here well below it."""


@functools.cache
def r(name: str) -> LatentDistribution:
    return ZOO[name](D, torch.float64)


def mass(given: LatentDistribution, name: str) -> tuple[float, float]:
    """The integral of exp(log_prob) and its standard error, by bridge sampling (Meng & Wong 1996).

    With draws from r and from a normalised g near it, `E_g[r / (r + g)] / E_r[g / (r + g)]` is the integral of r: an
    importance-sampling estimate whose weights are bounded. So it also sees draws that do not follow r.
    """
    drawn = given.sample(2 * POINTS, rng=stream(0, "16", name)).double()
    fitting, fresh = (MemoryPosteriors(z, torch.ones_like(z)) for z in drawn.split(POINTS))
    settings = MixtureSettings(components=4, polish=0, codes="means", iterations=20)
    g = settings.fit(task(fitting, selection=fresh, rng=stream(0, "fit"))).distribution
    z = g.sample(POINTS, rng=stream(0, "bridge", name))
    above, below = ((given.log_prob(x) - g.log_prob(x)).sigmoid() for x in (z, fresh.mean))
    below = 1 - below
    total = float(above.mean() / below.mean())
    spread = math.sqrt(float(above.var() / above.mean() ** 2 + below.var() / below.mean() ** 2) / POINTS)
    return total, total * spread


@pytest.mark.parametrize("name", NAMES)
def test_density_adds_up_to_one_in_16_dimensions(name: str) -> None:
    given = r(name)
    total, stderr = mass(given, name)
    assert stderr < 0.06
    slack = SLACK[given.density] + 4.5 * stderr
    assert total < 1 + slack
    if given.density == "bound":
        assert total > 0.2
    else:
        assert total > 1 - slack


def test_a_density_a_tenth_of_a_nat_too_high_is_found() -> None:
    m = r("mixture")
    assert isinstance(m, Mixture)
    total, stderr = mass(Mixture(m.log_weight + 0.1, m.mean, m.scale_tril), "mixture")
    assert total > 1 + 4.5 * stderr

"""Which "average" of the posteriors? Each criterion's own minimiser, in closed form, and its distance from them all.

Theory page, section 1. `sum w_i KL(q_i||r)` spreads over the data; `sum w_i KL(r||q_i)` and `sum w_i W2^2(r, q_i)`
collapse to about one posterior's width. The product of all of them (section 5) is narrower still.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import gaussian_log_prob
from zprime.latent.barycentre import Barycentre, BarycentreSettings
from zprime.latent.gaussian import moments
from zprime.latent.log_pool import Pool, PoolSettings
from zprime.latent.product_of_experts import Shared, SharedSettings
from zprime.statistics.estimate import Estimate, exact, mean_estimate
from zprime.measure.latents.surgery import Surgery
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import generator

UNIT = "nats per row"
ROWS, DRAWS = 1000, 4
ORDER = ("prior", "aggregated posterior", "moment match", "pool", "barycentre", "shared")


@dataclass(frozen=True)
class Average:
    """One answer to "the distribution closest to every posterior".

    Attributes:
        name: `prior`, `aggregated posterior`, `moment match`, `pool`, `barycentre`, or `shared`.
        criterion: what it is the minimiser of, in words.
        forward: mean KL(q_i||r) over training rows; exact where r is one Gaussian.
        heldout: the same over held-out rows, which r has not seen; for the aggregated posterior over at most 1,000 of
            them, by four draws each.
        reverse: mean KL(r||q_i) over training rows, exact; None for the aggregated posterior.
        to_prior: KL(r||p).
        width: geometric mean of the standard deviations of r (the prior's is 1); of its moment match for a mixture.
        offset: length of the mean of r, over the square root of the latent dimension.
    """

    name: str
    criterion: str
    forward: Estimate
    heldout: Estimate
    reverse: Estimate | None
    to_prior: Estimate
    width: float
    offset: float


@dataclass(frozen=True)
class Averages:
    """All of them, and a typical posterior to hold them against.

    Attributes:
        members: name -> average.
        width: geometric mean of the standard deviations of all posteriors.
        shared_fails: why there is no posterior of one latent shared by all rows; empty where there is.
    """

    members: dict[str, Average]
    width: float
    shared_fails: str = ""


def averages(posteriors: Mapping[str, Posteriors], cut: Surgery, *, seed: int = 0) -> Averages:
    """Every average of the training posteriors.

    Args:
        posteriors: `train` and `heldout`.
        cut: ELBO surgery of the training split, for what has no closed form.
        seed: of the draws for the aggregated posterior on held-out rows.
    """
    train, heldout = posteriors["train"].gather(), posteriors["heldout"].gather()
    rng = torch.Generator()  # none of them draws anything
    pool = PoolSettings().fit(train, selection=train, context=None, rng=rng).distribution
    barycentre = BarycentreSettings().fit(train, selection=train, context=None, rng=rng).distribution
    shared = SharedSettings().fit(train, selection=train, context=None, rng=rng)
    mean, covariance = moments(train)
    eye = torch.eye(train.d, dtype=torch.float64)
    gaussians = {
        "prior": ("nothing: it was there before the data", torch.zeros(train.d, dtype=torch.float64), eye),
        "moment match": ("mean KL(q||r) over Gaussians r", mean, covariance),
        "pool": ("mean KL(r||q)", *_moments(pool)),
        "barycentre": ("mean squared Wasserstein-2 distance", *_moments(barycentre)),
    }
    if isinstance(shared.distribution, Shared):
        gaussians["shared"] = ("p(z|D) if all rows shared one z", *_moments(shared.distribution))
    members = {n: _gaussian(n, c, m, s, train, heldout) for n, (c, m, s) in gaussians.items()}
    match = members["moment match"]
    members["aggregated posterior"] = Average(
        "aggregated posterior",
        "mean KL(q||r) over all r",
        cut.information,
        _mixture(train, heldout, seed),
        None,
        cut.hole,
        match.width,
        match.offset,
    )
    members = {n: members[n] for n in ORDER if n in members}
    weights = train.log_weights.exp()
    width = math.exp(float(weights @ train.scale.double().log().mean(1)))
    return Averages(members, width, "" if shared.outcome.ok else shared.outcome.message)


def _mixture(train: InMemory, heldout: InMemory, seed: int) -> Estimate:
    """Mean of E_q[log q - log qbar] over held-out rows."""
    rng = generator(seed, "averages")
    some = heldout.take(torch.randperm(heldout.n, generator=rng)[:ROWS])
    z = some.draw(rng=rng, draws=DRAWS)
    own = gaussian_log_prob(z.double(), some.mean.repeat(DRAWS, 1).double(), some.scale.repeat(DRAWS, 1).double())
    values = (own - train.log_prob(z)).reshape(DRAWS, -1).mean(0)
    return mean_estimate(values, unit=UNIT, split="heldout", seed=seed)


def _moments(r: Pool | Barycentre | Shared) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of one diagonal Gaussian, float64."""
    return r.mean.double(), torch.diag(r.scale.double().square())


def _gaussian(
    name: str, criterion: str, mean: Tensor, covariance: Tensor, train: InMemory, heldout: InMemory
) -> Average:
    """The figures of one Gaussian."""
    n, d = train.n, train.d
    log_det = float(torch.logdet(covariance))
    weights = train.log_weights.exp()
    to_prior = 0.5 * float(covariance.trace() + mean @ mean - d - log_det)
    return Average(
        name,
        criterion,
        exact(float(weights @ forward_kl(train, mean, covariance)), n=n, unit=UNIT, split="train"),
        mean_estimate(forward_kl(heldout, mean, covariance), unit=UNIT, split="heldout", seed=None),
        exact(float(weights @ reverse_kl(train, mean, covariance)), n=n, unit=UNIT, split="train"),
        exact(to_prior, n=n, unit="nats", split="train"),
        math.exp(log_det / (2 * d)),
        float(mean.norm()) / math.sqrt(d),
    )


def forward_kl(
    posteriors: InMemory, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """KL(q_i || N(mean, covariance)) in nats, for every row, float64."""
    var = posteriors.scale.double().square()
    precision = torch.linalg.inv(covariance)
    gap = posteriors.mean.double() - mean
    trace = var @ precision.diagonal()
    out: Tensor = 0.5 * (
        trace + ((gap @ precision) * gap).sum(1) - posteriors.d + torch.logdet(covariance) - var.log().sum(1)
    )
    return out


def reverse_kl(
    posteriors: InMemory, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """KL(N(mean, covariance) || q_i) in nats, for every row, float64."""
    var = posteriors.scale.double().square()
    gap = (posteriors.mean.double() - mean).square() + covariance.diagonal()
    return 0.5 * ((gap / var).sum(1) - posteriors.d + var.log().sum(1) - torch.logdet(covariance))

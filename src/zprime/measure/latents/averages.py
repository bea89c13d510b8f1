"""Which "average" of the posteriors? The minimiser of each criterion, in closed form, and its distance from them.

docs/theory.md, section 1. `sum w_i KL(q_i||r)` spreads over the data; `sum w_i KL(r||q_i)` and `sum w_i W2^2(r, q_i)`
collapse to about one posterior's width. The product of all of them (section 5) is narrower still.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import gaussian_log_prob
from zprime.latent.barycentre import Barycentre, BarycentreSettings
from zprime.latent.kind import Task
from zprime.latent.log_pool import LogPool, LogPoolSettings
from zprime.latent.product_of_experts import ProductOfExperts, ProductOfExpertsSettings
from zprime.measure.prior import need_standard
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import Average, Averages, Surgery
from zprime.statistics.estimate import Estimate, exact, mean_estimate

UNIT = "nats per row"
ROWS, DRAWS = 1000, 4
ORDER = ("prior", "aggregated posterior", "moment match", "log-pool", "barycentre", "product-of-experts")


def averages(study: Study, cut: Surgery) -> Averages:
    """Every average of the training posteriors.

    Args:
        study: its training and held-out split, prior and seed.
        cut: ELBO surgery of the training split, for what has no closed form.

    Raises:
        UsageError: the prior is not N(0, I).
    """
    need_standard(study.prior, "averages of the posteriors")
    train = study.train.posteriors
    rng = torch.Generator()  # not used: these fits draw nothing
    task = Task(train, train, study.prior, rng)
    log_pool = LogPoolSettings().fit(task).distribution
    barycentre = BarycentreSettings().fit(task).distribution
    product = ProductOfExpertsSettings().fit(task)
    mean, covariance = study.train.moments
    eye = torch.eye(train.d, dtype=torch.float64)
    gaussians = {
        "prior": ("nothing: it does not depend on the data", torch.zeros(train.d, dtype=torch.float64), eye),
        "moment match": ("mean KL(q||r) over Gaussians r", mean, covariance),
        "log-pool": ("mean KL(r||q)", *_moments(log_pool)),
        "barycentre": ("mean squared Wasserstein-2 distance", *_moments(barycentre)),
    }
    if isinstance(product.distribution, ProductOfExperts):
        gaussians["product-of-experts"] = ("p(z|D) if all rows shared one z", *_moments(product.distribution))
    members = {n: _gaussian(n, c, m, s, study.train, study.heldout) for n, (c, m, s) in gaussians.items()}
    match = members["moment match"]
    members["aggregated posterior"] = Average(
        "aggregated posterior",
        "mean KL(q||r) over all r",
        cut.information,
        _mixture(train, study.heldout, study.stream("averages"), study.seed),
        None,
        cut.hole,
        match.width,
        match.offset,
    )
    members = {n: members[n] for n in ORDER if n in members}
    weights = train.log_weights.exp()
    width = math.exp(float(weights @ train.scale.double().log().mean(1)))
    return Averages(members, width, "" if product.outcome.ok else product.outcome.message)


def _mixture(train: MemoryPosteriors, heldout: Split, rng: torch.Generator, seed: int) -> Estimate:
    """Mean of E_q[log q - log qbar] over held-out rows."""
    taken = heldout.take(torch.randperm(heldout.n, generator=rng)[:ROWS])
    some = taken.posteriors
    z = some.draw(rng=rng, draws=DRAWS)
    own = gaussian_log_prob(z.double(), some.mean.repeat(DRAWS, 1).double(), some.scale.repeat(DRAWS, 1).double())
    values = (own - train.log_prob(z)).reshape(DRAWS, -1).mean(0)
    return mean_estimate(values, unit=UNIT, split="heldout", seed=seed, design=taken.design)


def _moments(r: LogPool | Barycentre | ProductOfExperts) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of one diagonal Gaussian, float64."""
    return r.mean.double(), torch.diag(r.scale.double().square())


def _gaussian(name: str, criterion: str, mean: Tensor, covariance: Tensor, fitted: Split, heldout: Split) -> Average:
    """The figures of one Gaussian."""
    train, n = fitted.posteriors, fitted.design.effective(fitted.n)
    d = train.d
    log_det = float(torch.logdet(covariance))
    weights = train.log_weights.exp()
    to_prior = 0.5 * float(covariance.trace() + mean @ mean - d - log_det)
    return Average(
        name,
        criterion,
        exact(float(weights @ forward_kl(train, mean, covariance)), n=n, unit=UNIT, split="train"),
        mean_estimate(
            forward_kl(heldout.posteriors, mean, covariance),
            unit=UNIT,
            split="heldout",
            seed=None,
            design=heldout.design,
        ),
        exact(float(weights @ reverse_kl(train, mean, covariance)), n=n, unit=UNIT, split="train"),
        exact(to_prior, n=n, unit="nats", split="train"),
        math.exp(log_det / (2 * d)),
        float(mean.norm()) / math.sqrt(d),
    )


def forward_kl(
    posteriors: MemoryPosteriors, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """KL(q_i || N(mean, covariance)) in nats, for every row, float64."""
    var = posteriors.scale.double().square()
    precision = torch.linalg.inv(covariance)
    gap = posteriors.mean.double() - mean
    trace = var @ precision.diagonal()
    kl: Tensor = 0.5 * (
        trace + ((gap @ precision) * gap).sum(1) - posteriors.d + torch.logdet(covariance) - var.log().sum(1)
    )
    return kl


def reverse_kl(
    posteriors: MemoryPosteriors, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """KL(N(mean, covariance) || q_i) in nats, for every row, float64."""
    var = posteriors.scale.double().square()
    gap = (posteriors.mean.double() - mean).square() + covariance.diagonal()
    return 0.5 * ((gap / var).sum(1) - posteriors.d + var.log().sum(1) - torch.logdet(covariance))

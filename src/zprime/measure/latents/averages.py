"""Which "average" of the posteriors? The minimiser of each criterion, in closed form, and its distance from them.

docs/theory.md, section 1. `sum w_i KL(q_i||r)` spreads over the data; `sum w_i KL(r||q_i)` and `sum w_i W2^2(r, q_i)`
collapse to about one posterior's width. The product of all of them (section 5) is narrower still.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import LOG_2PI, cholesky, covariances, is_full, log_volume, whitened
from zprime.latent.barycentre import Barycentre, BarycentreSettings
from zprime.latent.factors import DENSE, Matrix, Scatter, Variances
from zprime.latent.gaussian import gaussian_of
from zprime.latent.kind import Task
from zprime.latent.log_pool import LogPool, LogPoolSettings
from zprime.latent.product_of_experts import ProductOfExperts, ProductOfExpertsSettings
from zprime.measure.prior import closed, prior_kl, prior_log_prob
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors, Shard
from zprime.results.latents import Average, Averages, Surgery
from zprime.rng import fork
from zprime.statistics.estimate import Estimate, exact, mean_estimate

UNIT = "nats per row"
ROWS, DRAWS = 1000, 4
PRIOR_DRAWS = 10_000
OTHER_PRIOR = "its closed form is known for the prior N(0, I) only"
ORDER = ("prior", "aggregated posterior", "moment match", "log-pool", "barycentre", "product-of-experts")


def averages(study: Study, cut: Surgery) -> Averages:
    """Every average of the training posteriors.

    Args:
        study: its training and held-out split, prior and seed.
        cut: ELBO surgery of the training split, for what has no closed form.
    """
    train = study.train.posteriors
    rng = torch.Generator()  # not used: these fits draw nothing
    task = Task(train, train, study.prior, rng)
    mean, covariance = study.train.match
    gaussians = {"moment match": ("mean KL(q||r) over Gaussians r", mean, covariance)}
    fails, unmoved = OTHER_PRIOR, "nothing: it does not depend on the data"
    gaussians["log-pool"] = ("mean KL(r||q)", *_moments(LogPoolSettings().fit(task).distribution))
    barycentre = BarycentreSettings().fit(task).distribution
    gaussians["barycentre"] = ("mean squared Wasserstein-2 distance", *_moments(barycentre))
    if closed(study.prior):
        zero = torch.zeros(train.d, dtype=torch.float64)
        gaussians["prior"] = (unmoved, zero, _scatter(torch.ones_like(zero)))
        product = ProductOfExpertsSettings().fit(task)
        fails = "" if product.outcome.ok else product.outcome.message
        if isinstance(product.distribution, ProductOfExperts):
            gaussians["product-of-experts"] = ("p(z|D) if all rows shared one z", *_moments(product.distribution))
    members = {n: _gaussian(n, c, m, s, study) for n, (c, m, s) in gaussians.items()}
    if not closed(study.prior):
        members["prior"] = _prior(unmoved, cut, study)
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
    volume = sum(float(weights[s.rows] @ log_volume(s.mean, s.scale.double())) for s in train.shards())
    return Averages(members, math.exp(volume / train.d), fails)


def _prior(criterion: str, cut: Surgery, study: Study) -> Average:
    """The figures of a prior that is not N(0, I), by its draws."""
    p, train, rng = study.prior, study.train.posteriors, study.stream("averages", "prior")
    z = p.sample(PRIOR_DRAWS, rng=fork(rng, "p"))
    wide = z.double()
    log_q = _mean_log_prob(train, wide)
    heldout = prior_kl(p, study.heldout.posteriors, rng=fork(rng, "held-out"))
    return Average(
        "prior",
        criterion,
        cut.mean_kl,
        mean_estimate(heldout, unit=UNIT, split="heldout", seed=study.seed, design=study.heldout.design),
        mean_estimate(p.log_prob(z) - log_q, unit=UNIT, split="train", seed=study.seed),
        exact(0.0, n=study.train.design.effective(train.n), unit="nats", split="train"),
        math.exp(float(wide.std(0).log().mean())),
        float(wide.mean(0).norm()) / math.sqrt(p.d),
    )


def _mean_log_prob(train: MemoryPosteriors, z: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """The weighted mean of log q_i(z) over all rows, a quadratic form of z; float64."""
    weights, total = train.log_weights.exp(), torch.zeros(len(z), dtype=torch.float64)
    for s in train.shards():
        total = total + _weighted_log_prob(s, weights[s.rows], z)
    return total


def _weighted_log_prob(shard: Shard, weights: Float[Tensor, " n"], z: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """The sum of w_i log q_i(z) over the rows of a shard."""
    mu, d = shard.mean.double(), z.shape[1]
    if is_full(shard.mean, shard.scale):
        precision = torch.cholesky_inverse(shard.scale.double())
        pull = (precision @ mu[..., None])[..., 0]
        constant = (mu * pull).sum(1) + 2 * log_volume(mu, shard.scale.double()) + d * LOG_2PI
        square = torch.einsum("n,nij->ij", weights, precision)
        form: Tensor = ((z @ square) * z).sum(1) - 2 * z @ (weights @ pull) + weights @ constant
        return -0.5 * form
    precision = shard.scale.double() ** -2
    by_dimension, linear, constant = (
        (weights[:, None] * precision * v).sum(0)
        for v in (torch.ones_like(mu), mu, mu.square() + (LOG_2PI - precision.log()) / precision)
    )
    return -0.5 * (z.square() @ by_dimension - 2 * z @ linear + constant.sum())


def _mixture(train: MemoryPosteriors, heldout: Split, rng: torch.Generator, seed: int) -> Estimate:
    """Mean of E_q[log q - log qbar] over held-out rows."""
    taken = heldout.take(torch.randperm(heldout.n, generator=rng)[:ROWS])
    some = taken.posteriors
    z = some.draw(rng=rng, draws=DRAWS)
    values = (some.own_log_prob(z) - train.log_prob(z)).reshape(DRAWS, -1).mean(0)
    return mean_estimate(values, unit=UNIT, split="heldout", seed=seed, design=taken.design)


def _moments(r: LogPool | Barycentre | ProductOfExperts) -> tuple[Float[Tensor, " d"], Scatter]:
    """Mean and covariance of one Gaussian, float64."""
    if r.scale.ndim == 2:
        return r.mean.double(), Matrix(covariances(r.mean, r.scale))
    return r.mean.double(), _scatter(r.scale.double().square())


def _scatter(variance: Float[Tensor, " d"]) -> Scatter:
    """A diagonal covariance: as a matrix where that is small, with the numbers of other matrices."""
    return Matrix(torch.diag(variance)) if len(variance) <= DENSE else Variances(variance)


def _gaussian(name: str, criterion: str, mean: Tensor, covariance: Scatter, study: Study) -> Average:
    """The figures of one Gaussian."""
    heldout, train, n = study.heldout, study.train.posteriors, study.train.design.effective(study.train.n)
    d = train.d
    log_det = float(covariance.log_det)
    if closed(study.prior):
        to_prior = exact(0.5 * float(covariance.trace + mean @ mean - d - log_det), n=n, unit="nats", split="train")
    else:
        r = gaussian_of(mean, covariance, what=name)
        z = r.sample(PRIOR_DRAWS, rng=study.stream("averages", name))
        gap = r.log_prob(z) - prior_log_prob(study.prior, z)
        to_prior = mean_estimate(gap, unit="nats", split="train", seed=study.seed)
    return Average(
        name,
        criterion,
        exact(_mean_of(forward_kl, train, mean, covariance), n=n, unit=UNIT, split="train"),
        mean_estimate(
            forward_kl(heldout.posteriors, mean, covariance),
            unit=UNIT,
            split="heldout",
            seed=None,
            design=heldout.design,
        ),
        exact(_mean_of(reverse_kl, train, mean, covariance), n=n, unit=UNIT, split="train"),
        to_prior,
        math.exp(log_det / (2 * d)),
        float(mean.norm()) / math.sqrt(d),
    )


def _mean_of(
    kl: Callable[[Shard, Tensor, Scatter], Tensor],
    train: MemoryPosteriors,
    mean: Float[Tensor, " d"],
    covariance: Scatter,
) -> float:
    """Weighted mean of a divergence over all rows, shard by shard."""
    weights = train.log_weights.exp()
    return sum(float(weights[s.rows] @ kl(s, mean, covariance)) for s in train.shards())


def forward_kl(q: MemoryPosteriors | Shard, mean: Float[Tensor, " d"], covariance: Scatter) -> Float[Tensor, " n"]:
    """KL(q_i || N(mean, covariance)) in nats, for every row, float64."""
    gap, scale = q.mean.double() - mean, q.scale.double()
    if is_full(q.mean, q.scale):
        trace, log_det = covariance.traces(scale), 2 * log_volume(gap, scale)
    else:
        var = scale.square()
        trace, log_det = var @ covariance.precisions, var.log().sum(1)
    kl: Tensor = 0.5 * (trace + covariance.form(gap) - len(mean) + covariance.log_det - log_det)
    return kl


def reverse_kl(q: MemoryPosteriors | Shard, mean: Float[Tensor, " d"], covariance: Scatter) -> Float[Tensor, " n"]:
    """KL(N(mean, covariance) || q_i) in nats, for every row, float64."""
    if is_full(q.mean, q.scale):
        scale, factor = q.scale.double(), cholesky("moments", covariance.dense())
        inner = torch.linalg.solve_triangular(scale, factor.expand_as(scale), upper=False)
        away = whitened(q.mean.double() - mean, scale).square().sum(1)
        log_dets = 2 * log_volume(q.mean, scale) - covariance.log_det
        reverse: Tensor = 0.5 * (inner.square().sum((1, 2)) + away - len(mean) + log_dets)
        return reverse
    var = q.scale.double().square()
    gap = (q.mean.double() - mean).square() + covariance.diagonal
    return 0.5 * ((gap / var).sum(1) - len(mean) + var.log().sum(1) - covariance.log_det)

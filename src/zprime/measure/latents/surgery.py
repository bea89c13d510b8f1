"""ELBO surgery (Hoffman & Johnson 2016): what the KL term of the ELBO is made of, exactly and in blocks."""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import gaussian_log_prob, standard_kl
from zprime.errors import NumericalError
from zprime.latent.gaussian import moments
from zprime.statistics.estimate import Estimate, exact, mean_estimate, student95
from zprime.posteriors import Posteriors

POINTS = 60_000
ACTIVE = 0.01  # Burda et al. 2016: a unit is active if the variance of its mean over the data is above this


@dataclass(frozen=True)
class Surgery:
    """`mean KL(q_i||p) = I + KL(qbar||p)`, on the posteriors of one split and their own mixture qbar.

    Attributes:
        mean_kl: mean of KL(q_i||p), exact.
        information: I = mean of KL(q_i||qbar), the index-code mutual information; 0 <= I <= log N. Its error is that of
            the draws, for I is a number that belongs to these rows; with one draw a row (above 30,000 rows) the spread
            of the rows stands in for it, which is wider.
        hole: KL(qbar||p), by the identity.
        gaussian_part: KL of qbar's moment match from p: a lower bound of the hole, exact.
        log_n: log N, the cap of I.
        told_apart: exp(I), the number of data that the code tells apart, with its interval.
        dimension_kl: mean KL of each dimension, exact, shape [d].
        mean_variance: variance over the data of each dimension's posterior mean, shape [d].
        active: number of dimensions where that variance is above 0.01.
        posterior_variance: mean over the data of each dimension's posterior variance, shape [d]; with `mean_variance`
            it adds up to the variance of qbar. Empty in audits of earlier versions.
    """

    mean_kl: Estimate
    information: Estimate
    hole: Estimate
    gaussian_part: Estimate
    log_n: float
    told_apart: Estimate
    dimension_kl: list[float]
    mean_variance: list[float]
    active: int
    posterior_variance: list[float] = field(default_factory=list)


def surgery(posteriors: Posteriors, *, split: str, rng: torch.Generator) -> Surgery:
    """Measure I with the exact log-density of qbar at some draws of every row.

    Raises:
        NumericalError: a proven bound is broken (then a density is wrong).
    """
    data = posteriors.gather()
    n = data.n
    draws = max(1, min(8, POINTS // n))
    z = data.draw(rng=rng, draws=draws)
    repeat = (draws, 1)
    own = gaussian_log_prob(z.double(), data.mean.double().repeat(repeat), data.scale.double().repeat(repeat))
    gap = (own - data.log_prob(z)).reshape(draws, n)
    kl = standard_kl(data.mean.double(), data.scale.double())
    weights = data.log_weights.exp()
    seed = rng.initial_seed()
    information = _information(gap, weights, split=split, seed=seed)
    mean_kl = exact(float(weights @ kl.sum(1)), n=n, unit="nats per row", split=split)
    error = information.stderr if information.stderr is not None and math.isfinite(information.stderr) else 0.0
    hole = Estimate(
        mean_kl.value - information.value,
        information.stderr,
        mean_kl.value - information.high,
        mean_kl.value - information.low,
        n,
        "nats",
        split,
        seed,
    )
    mean, covariance = moments(data)
    gaussian = 0.5 * float(covariance.trace() + mean @ mean - data.d - torch.logdet(covariance))
    _check_bounds(gap, data.log_weights, information.value, hole.value, gaussian, error)
    variance = (weights @ (data.mean.double() - weights @ data.mean.double()).square()).tolist()
    return Surgery(
        mean_kl=mean_kl,
        information=information,
        hole=hole,
        gaussian_part=exact(gaussian, n=n, unit="nats", split=split),
        log_n=math.log(n),
        told_apart=_exp(information),
        dimension_kl=(weights @ kl).tolist(),
        mean_variance=variance,
        active=sum(v > ACTIVE for v in variance),
        posterior_variance=(weights @ data.scale.double().square()).tolist(),
    )


def _information(gap: Float[Tensor, "k n"], weights: Float[Tensor, " n"], *, split: str, seed: int) -> Estimate:
    """Weighted mean over rows of log q_i - log qbar, with the error of its draws."""
    draws, n = gap.shape
    # with weights, the rows' shares stand in for equal ones
    e = mean_estimate(gap.mean(0) * weights * n, unit="nats per row", split=split, seed=seed)
    if draws == 1 or not e.trusted:
        return e
    stderr = float((weights.square() * gap.var(0) / draws).sum().sqrt())
    half = student95(n * (draws - 1)) * stderr
    return replace(e, stderr=stderr, low=e.value - half, high=e.value + half)


def _check_bounds(
    gap: Float[Tensor, "k n"], log_weights: Tensor, information: float, hole: float, gaussian: float, stderr: float
) -> None:
    """Raise unless 0 <= I, log q_i - log qbar <= -log w_i at every draw, and the Gaussian part <= the hole."""
    slack = 1e-6 + 6 * stderr
    over = float((gap + log_weights).max())
    for holds, sentence in (
        (over <= 1e-6, f"log q_i(z) - log qbar(z) exceeds -log w_i by {over:.2g} nats at some draw"),
        (information >= -slack, f"I = {information:.4g} nats is below 0 by more than 6 standard errors"),
        (
            hole >= gaussian - slack,
            f"KL(qbar||p) = {hole:.4g} nats is below its Gaussian part {gaussian:.4g} by more than 6 standard errors",
        ),
    ):
        if not holds:
            raise NumericalError(
                f"surgery: {sentence}; this cannot be: a density is not accurate enough for these scales"
            )


def _exp(e: Estimate) -> Estimate:
    """Exp of an estimate, with its interval mapped (and the error by the delta method)."""
    value = math.exp(e.value)
    stderr = value * e.stderr if e.stderr is not None and math.isfinite(e.stderr) else math.inf
    return Estimate(
        value, stderr, math.exp(e.low), math.exp(min(e.high, 700.0)), e.n, "data told apart", e.split, e.seed
    )

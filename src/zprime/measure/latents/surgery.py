"""ELBO surgery (Hoffman & Johnson 2016): what the KL term of the ELBO is made of, exactly and in blocks."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import gaussian_log_prob
from zprime.distribution import LatentDistribution
from zprime.errors import NumericalError
from zprime.measure.prior import need_standard, prior_kl
from zprime.measure.study import Split
from zprime.results.latents import Surgery
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate, exact, mean_estimate, student95

POINTS = 60_000


def surgery(split: Split, *, rng: torch.Generator, prior: LatentDistribution | None = None) -> Surgery:
    """Measure I with the exact log-density of qbar at some draws of every row.

    Args:
        split: posteriors, whose mixture is qbar.
        rng: decides the draws.
        prior: p(z); None is N(0, I).

    Raises:
        NumericalError: a proven bound is broken (then a density is wrong).
        UsageError: another prior than N(0, I).
    """
    need_standard(prior, "ELBO surgery")
    data, name, n = split.posteriors, split.name, split.n
    draws = max(1, min(8, POINTS // n))
    z = data.draw(rng=rng, draws=draws)
    repeat = (draws, 1)
    own = gaussian_log_prob(z.double(), data.mean.double().repeat(repeat), data.scale.double().repeat(repeat))
    gap = (own - data.log_prob(z)).reshape(draws, n)
    kl = prior_kl(prior, data.mean, data.scale)
    weights = data.log_weights.exp()
    seed = rng.initial_seed()
    information = _information(gap, split, seed=seed)
    effective = split.design.effective(n)
    mean_kl = exact(float(weights @ kl.sum(1)), n=effective, unit="nats per row", split=name)
    error = information.stderr if information.stderr is not None and math.isfinite(information.stderr) else 0.0
    hole = Estimate(
        mean_kl.value - information.value,
        information.stderr,
        mean_kl.value - information.high,
        mean_kl.value - information.low,
        effective,
        "nats",
        name,
        seed,
    )
    mean, covariance = split.moments
    gaussian = 0.5 * float(covariance.trace() + mean @ mean - data.d - torch.logdet(covariance))
    _check_bounds(gap, data.log_weights, information.value, hole.value, gaussian, error)
    variance = (weights @ (data.mean.double() - weights @ data.mean.double()).square()).tolist()
    return Surgery(
        mean_kl=mean_kl,
        information=information,
        hole=hole,
        gaussian_part=exact(gaussian, n=effective, unit="nats", split=name),
        log_n=math.log(n),
        told_apart=_exp(information),
        dimension_kl=(weights @ kl).tolist(),
        mean_variance=variance,
        active=sum(v > THRESHOLDS.active for v in variance),
        posterior_variance=(weights @ data.scale.double().square()).tolist(),
    )


def _information(gap: Float[Tensor, "k n"], split: Split, *, seed: int) -> Estimate:
    """Weighted mean over rows of log q_i - log qbar, with the error of its draws."""
    draws, n = gap.shape
    e = mean_estimate(gap.mean(0), unit="nats per row", split=split.name, seed=seed, design=split.design)
    if draws == 1 or not e.stable:
        return e
    weights = split.posteriors.log_weights.exp()
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
                f"surgery: {sentence}, which is impossible: a density is not accurate enough for these scales"
            )


def _exp(e: Estimate) -> Estimate:
    """Exp of an estimate, with its interval mapped (and the error by the delta method)."""
    value = math.exp(e.value)
    stderr = value * e.stderr if e.stderr is not None and math.isfinite(e.stderr) else math.inf
    return Estimate(
        value, stderr, math.exp(e.low), math.exp(min(e.high, 700.0)), e.n, "data told apart", e.split, e.seed
    )

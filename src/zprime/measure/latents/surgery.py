"""ELBO surgery (Hoffman & Johnson 2016): what the KL term of the ELBO is made of.

Of up to 60,000 rows every row is scored under all, in blocks. Above that a random sample of them is, with its error:
the time is that of 60,000 rows, and grows with N from 3.6 million rows on.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import in_proportion, standard_kl, standard_kl_rows, variances
from zprime.distribution import LatentDistribution
from zprime.errors import NumericalError
from zprime.latent.gaussian import gaussian_of
from zprime.measure.prior import closed, prior_log_prob
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import Surgery
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.estimate import Estimate, exact, mean_estimate, student95

POINTS = 60_000
PAIRS = POINTS * POINTS
"""Draws times components: 3 s with 16 latents."""
LEAST = 1000
"""Rows of a sample, at least: the error of I is then a thirtieth of its spread between rows."""


def surgery(split: Split, *, rng: torch.Generator, prior: LatentDistribution | None = None) -> Surgery:
    """Measure I with the exact log-density of qbar at some draws of every row.

    Args:
        split: posteriors, whose mixture is qbar.
        rng: decides the draws.
        prior: p(z); None is N(0, I).

    Raises:
        NumericalError: a proven bound is broken (then a density is wrong).
    """
    data, name, n = split.posteriors, split.name, split.n
    draws = draws_of(n, data.d)
    picked = _picked(split, rng)
    some = split if picked is None else split.take(picked)
    z = some.posteriors.draw(rng=rng, draws=draws)
    own, mixed = some.posteriors.own_log_prob(z), data.log_prob(z)
    gap = (own - mixed).reshape(draws, some.n)
    weights = data.log_weights.exp()
    seed = rng.initial_seed()
    information = _over_draws(gap, some, seed=seed)
    effective = split.design.effective(n)
    of_data = weights.log() if data.datum is None else torch.bincount(data.datum, weights)[data.datum].log()
    of_data = of_data if picked is None else of_data[picked]
    if closed(prior) and data.datum is None:
        value, dimension_kl = _mean_kl(data, weights)
        mean_kl = exact(value, n=effective, unit="nats per row", split=name)
        hole = Estimate(
            mean_kl.value - information.value,
            information.stderr,
            mean_kl.value - information.high,
            mean_kl.value - information.low,
            effective if picked is None else information.n,
            "nats",
            name,
            seed,
        )
        gaussian = exact(_gaussian_part(split), n=effective, unit="nats", split=name)
    else:
        log_p = prior_log_prob(prior, z)
        match = gaussian_of(*split.match, what="moments of the posteriors").log_prob(z.double())
        mean_kl, hole, gaussian = (
            replace(_over_draws(v.reshape(draws, some.n), some, seed=seed), unit=unit)
            for v, unit in ((own - log_p, "nats per row"), (mixed - log_p, "nats"), (match - log_p, "nats"))
        )
        dimension_kl = []
    errors = [e.stderr for e in (information, hole, gaussian) if e.stderr is not None and math.isfinite(e.stderr)]
    _check_bounds(gap, of_data, information.value, hole.value, gaussian.value, max(errors, default=0.0))
    variance, within = _variances(data, weights)
    return Surgery(
        mean_kl=replace(mean_kl, n=effective if data.datum is None else data.data),
        information=information,
        hole=hole,
        gaussian_part=gaussian,
        log_n=math.log(data.data),
        told_apart=_exp(information),
        dimension_kl=dimension_kl,
        mean_variance=variance,
        active=sum(v > THRESHOLDS.active for v in variance),
        posterior_variance=within,
    )


def _mean_kl(data: MemoryPosteriors, weights: Float[Tensor, " n"]) -> tuple[float, list[float]]:
    """Weighted mean of KL(q_i||N(0, I)) over all rows; of each dimension too where dimensions are independent."""
    total, dimension = 0.0, torch.zeros(data.d, dtype=torch.float64)
    for s in data.shards():
        w = weights[s.rows]
        if data.form != "diagonal":
            total += float(w @ standard_kl_rows(s.mean, s.scale))
            continue
        kl = standard_kl(s.mean.double(), s.scale.double())
        total, dimension = total + float(w @ kl.sum(1)), dimension + w @ kl
    return total, dimension.tolist() if data.form == "diagonal" else []


def _variances(data: MemoryPosteriors, weights: Float[Tensor, " n"]) -> tuple[list[float], list[float]]:
    """Of every dimension the variance of the means of all data, and the mean of the variances of their posteriors."""
    centre, between, within = torch.zeros(3, data.d, dtype=torch.float64)
    means = [s.mean if data.datum is None else data.centres[s.rows] for s in data.shards()]
    for s, mean in zip(data.shards(), means, strict=True):
        centre = centre + weights[s.rows] @ mean.double()
    for s, mean in zip(data.shards(), means, strict=True):
        w, own = weights[s.rows], variances(s.mean, s.scale.double())
        between = between + w @ (mean.double() - centre).square()
        within = within + w @ (own if data.datum is None else own + (s.mean.double() - mean).square())
    return between.tolist(), within.tolist()


def draws_of(n: int, d: int) -> int:
    """Draws of each of n rows: 8 at most, and so many that they fit into memory."""
    return max(1, min(8, in_proportion(POINTS, d) // n))


def scored(n: int, d: int) -> int:
    """How many of n rows are scored: all, or as many as make `PAIRS` pairs, fewer above 1,024 dimensions."""
    pairs = in_proportion(PAIRS, d)
    return n if n * n <= pairs else min(n, max(LEAST, pairs // n))


def _picked(split: Split, rng: torch.Generator) -> Int[Tensor, " m"] | None:
    """Positions of the rows that are scored, all components of a datum or none; None for all rows."""
    data, n = split.posteriors, split.n
    most = scored(n, data.d)
    return None if most == n else data.pick(max(1, most * data.data // n), rng=fork(rng, "rows"))


def _gaussian_part(split: Split) -> float:
    """KL of the moment match from N(0, I), nats."""
    mean, covariance = split.match
    return 0.5 * float(covariance.trace + mean @ mean - len(mean) - covariance.log_det)


def _over_draws(gap: Float[Tensor, "k n"], split: Split, *, seed: int) -> Estimate:
    """Weighted mean over rows of what was measured at draws of each row, with the error of the draws."""
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

"""How often the 95 % intervals of the latent side hold the truth: `make bench-coverage`.

Posterior means come from two clumps in two dimensions and all posteriors have the same scales, so the population's
aggregated posterior is a mixture of two Gaussians. Truths are integrals by quadrature, closed forms, or, where neither
is known, means over many more draws.
"""

import functools
import math

import numpy as np
import torch
from harness import Found, main, p_value, row
from torch import Tensor

from zprime.arrays import standard_log_prob
from zprime.components import Diagonal
from zprime.distribution import LatentDistribution
from zprime.latent import Aggregated, Gaussian, Prior
from zprime.latent.gaussian import moments
from zprime.measure.candidates import Candidates
from zprime.measure.latents.hole import hole
from zprime.measure.latents.leave_one_out import (
    leave_one_out,
    masked_elbo_gain,
    masked_exact_posterior_gain,
    row_mixture,
)
from zprime.measure.latents.low_density import low_density
from zprime.measure.latents.minibatch import implied_information, log_weights, minibatch
from zprime.measure.latents.surgery import surgery
from zprime.measure.latents.total_correlation import total_correlation
from zprime.measure.likelihood.gains import RowGains, elbo_gain
from zprime.measure.study import Split, Study, gather
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.c2st import Classifier, c2st
from zprime.statistics.estimate import student
from zprime.statistics.mmd import mmd

DOUBLE = torch.float64
WEIGHT = torch.tensor([0.6, 0.4], dtype=DOUBLE)
CENTRE = torch.tensor([[0.9, 0.3], [-0.8, -0.7]], dtype=DOUBLE)
SPREAD = torch.tensor([[0.4, 0.6], [0.5, 0.3]], dtype=DOUBLE)
SCALE = torch.tensor([0.35, 0.45], dtype=DOUBLE)
NARROW = 0.1
"""Factor of the scales of posteriors that do not see each other."""
N = 60
POPULATION = Diagonal(WEIGHT.log(), CENTRE, (SPREAD.square() + SCALE.square()).sqrt())
NOTES = (
    "2,000 simulated data sets of seeds 0 to 1999, two latents, 60 rows a split (minibatch: 200, low density: 300 "
    "held-out rows). What the intervals should hold: for leave-one-out (200 of 2,000 training rows) the exact means "
    "over all rows, given their mixture; for the interval of the hole, that of the population; for the moment-matched "
    "Gaussian, the integral for the same Gaussian; for total correlation, quadrature for the mixture of the data "
    "set; for C2ST, the accuracy of the same classifier on 2 x 4,000 fresh points; for MMD, the closed form at that "
    "bandwidth. A p-value counts as held if it is 0.05 or more. `narrow q`: scales times 0.1. The interval of the hole "
    "and those of proportions of draws are wider than needed by construction. Leave-one-out gains are skewed: a few "
    "rows that lie apart decide the mean, and a sample of rows without them looks better than it is. Up to 5,000 "
    "training rows all are scored, so that only their draws are sampled; of more rows a sample is scored, and an "
    "estimate is not stable if the rows are fewer than 25 times the squared skewness."
)


def rows(n: int, seed: int, *names: str | int) -> MemoryPosteriors:
    """Posteriors of `n` fresh rows of the population."""
    rng = stream(seed, "latent coverage", *names)
    k = torch.multinomial(WEIGHT, n, replacement=True, generator=rng)
    mean = CENTRE[k] + SPREAD[k] * torch.randn(n, 2, generator=rng, dtype=DOUBLE)
    return MemoryPosteriors(mean, SCALE.expand(n, 2).contiguous())


def codes(n: int, seed: int, *names: str | int) -> Tensor:
    """One code of each of `n` fresh rows."""
    return POPULATION.sample(n, rng=stream(seed, "latent codes", *names))


@functools.cache
def nodes() -> tuple[Tensor, Tensor]:
    """Points and weights of expectations under the population."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(64))
    standard, weight = torch.cartesian_prod(x, x), torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    points = POPULATION.mean[:, None] + POPULATION.scale[:, None] * standard
    return points.reshape(-1, 2), (WEIGHT[:, None] * weight).reshape(-1)


def gain(r: LatentDistribution | Diagonal) -> float:
    """E[log r - log p] at codes of the population."""
    z, w = nodes()
    return float(w @ (r.log_prob(z) - standard_log_prob(z)))


@functools.cache
def memory(which: int, shrink: float) -> tuple[MemoryPosteriors, dict[str, float]]:
    """One of five training sets of 2,000 rows, and the exact means over all of its rows."""
    train = rows(2000, which, "memorised")
    train = MemoryPosteriors(train.mean, shrink * train.scale)
    m = row_mixture(Aggregated(train.mean, train.scale), train)
    assert m is not None
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(10))
    noise, weight = torch.cartesian_prod(x, x), torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    position = torch.arange(train.n)
    points = (train.mean + train.scale * noise[:, None]).reshape(-1, 2)
    elbo, exact_posterior = masked_elbo_gain(m, position, points), masked_exact_posterior_gain(m, position, train)
    one = torch.ones(1, dtype=DOUBLE)
    out = {}
    for gain, g, v in (("ELBO gain", elbo, weight), ("exact-posterior gain", exact_posterior, one)):
        out[f"{gain}, self-included"] = float((v @ g.with_own).mean())
        out[f"{gain}, leave-one-out"] = float((v @ g.others).mean())
        out[f"{gain}, memorised"] = out[f"{gain}, self-included"] - out[f"{gain}, leave-one-out"]
    return train, out


def memorised(seed: int) -> Found:
    """Leave-one-out and self-included gains of 200 of the 2,000 rows; of wide posteriors, and of narrow ones."""
    out = []
    for shrink, shown in ((1.0, "wide q"), (NARROW, "narrow q")):
        train, truth = memory(seed % 5, shrink)
        candidates = Candidates({"aggregated": Aggregated(train.mean, train.scale)})
        no_rows = RowGains("heldout", torch.arange(0))
        found = leave_one_out(candidates, Split("train", train), no_rows, seed=seed, rows=200)[
            CandidateId("aggregated")
        ]
        for gain, key, gains in (
            ("ELBO gain", Gain.ELBO, found.elbo),
            ("exact-posterior gain", Gain.EXACT_POSTERIOR, found.exact_posterior),
        ):
            estimates = {**gains, "memorised": found.memorised[key]}
            for k, e in estimates.items():
                exact, what = truth[f"{gain}, {k}"], f"{gain}, {k}, {shown}"
                out.append(row(what, e, exact))
                low, high = (e.low, e.high) if e.stable else (-math.inf, math.inf)
                out.append((f"{what}, or called not stable", low, high, exact))
    return out


def bracket(seed: int) -> Found:
    """The hole of the population."""
    p = {s: rows(N, seed, s) for s in ("train", "selection", "heldout")}
    mean, covariance = moments(p["train"])
    fitted = Gaussian(mean, torch.linalg.cholesky(covariance))
    right = _mixture(POPULATION)
    candidates = Candidates({"aggregated": Aggregated(p["train"].mean, p["train"].scale), "right": right})
    split_gains = {
        s: RowGains(s, p[s].row_ids, elbo_gain(candidates, p[s], rng=stream(seed, "code")))
        for s in ("selection", "heldout")
    }
    study = Study(*gather(p), prior=Prior(2), seed=seed)
    found = hole(study, split_gains, surgery(study.train, rng=stream(seed)))
    bounds = {b.name: b.estimate for b in found.bounds}
    truth = gain(POPULATION)
    below, above = bounds["leave-one-out"], bounds["self-included"]
    one_sided = student(N - 1, 0.95)
    assert below.stderr is not None
    assert above.stderr is not None
    return [
        ("hole: the bracket", found.low, found.high, truth),
        ("hole: leave-one-out, from below", below.value - one_sided * below.stderr, math.inf, truth),
        ("hole: self-included, from above", -math.inf, above.value + one_sided * above.stderr, truth),
        row("hole: moment-matched Gaussian, its own gain", bounds["moment-matched Gaussian"], gain(fitted)),
    ]


def _mixture(c: Diagonal) -> LatentDistribution:
    from zprime.latent import Mixture

    return Mixture(c.log_weight, c.mean, c.scale)


def correlation(seed: int) -> Found:
    """Total correlation and the holes of single dimensions of 40 posteriors, by quadrature on a grid."""
    p = rows(40, seed, "correlation")
    n, half = 121, 6.0
    axis = torch.linspace(-half, half, n, dtype=DOUBLE)
    step = float(axis[1] - axis[0])
    # one kernel a dimension: the joint density is a product of them, component by component
    bump = torch.exp(-0.5 * ((axis[:, None, None] - p.mean) / p.scale).square()) / (p.scale * math.sqrt(2 * math.pi))
    joint = bump[:, :, 0] @ bump[:, :, 1].T / 40
    single = [bump[:, :, j].mean(1) for j in range(2)]
    prior = torch.exp(-0.5 * axis.square()) / math.sqrt(2 * math.pi)
    total = float((joint * (joint / (single[0][:, None] * single[1])).clamp(min=1e-300).log()).sum() * step**2)
    holes = [float((q * (q / prior).clamp(min=1e-300).log()).sum() * step) for q in single]
    found = total_correlation(Split("train", p), seed=seed, points=200)
    return [
        row("total correlation", found.total, total),
        row("KL(q̄‖p) in single dimensions, sum", found.dimensions, sum(holes)),
        row("KL(q̄‖p) of dimension 1", found.dimension[0], holes[0]),
    ]


SHOWN = ("plug-in", "stratified")


@functools.cache
def fixed() -> tuple[MemoryPosteriors, dict[str, float]]:
    """200 posteriors, and what each estimator gives on average over 20,000 minibatches of 10."""
    p = rows(200, 0, "minibatch")
    rng = stream(0, "minibatch truth")
    order = torch.rand(20_000, 200, generator=rng).argsort(1)[:, :10]
    mean, scale = p.mean[order], p.scale[order]
    z = mean + scale * torch.randn(mean.shape, generator=rng, dtype=DOUBLE)
    u = (z[:, :, None] - mean[:, None]) / scale[:, None]
    pairs = -0.5 * u.square().sum(3) - scale.log().sum(2)[:, None]
    weights = log_weights(10, 200)
    return p, {k: float(implied_information(pairs, weights[k]).mean()) for k in SHOWN}


def batches(seed: int) -> Found:
    """Minibatch estimators against their own means, not against I: they are biased."""
    p, truth = fixed()
    found = minibatch(Split("train", p), seed=seed, batch=10).estimates
    return [row(f"minibatch: {k}, its own mean", found[k], truth[k]) for k in SHOWN]


@functools.cache
def shares() -> tuple[MemoryPosteriors, dict[str, float]]:
    """Training posteriors, and the shares of the prior's draws below the true quantiles, from 400,000 points."""
    train = rows(N, 0, "shares")
    at_codes = train.log_prob(codes(400_000, 0, "shares")).sort().values
    prior = torch.randn(400_000, 2, generator=stream(0, "shares"), dtype=DOUBLE)
    at_prior = train.log_prob(prior)
    levels = {"1 %": 0.01, "5 %": 0.05}
    return train, {k: float((at_prior < at_codes[int(v * 400_000)]).double().mean()) for k, v in levels.items()}


def low(seed: int) -> Found:
    """Prior draws in places of low density."""
    train, truth = shares()
    found = low_density(train, rows(300, seed, "low"), seed=seed, points=300)
    return [row(f"prior draws below the {k} quantile", e, truth[k]) for k, e in found.items()]


def tests(seed: int) -> Found:
    """Two-sample tests, on codes against N(0, I), and on codes against codes."""
    x, y = codes(N, seed, "x"), torch.randn(N, 2, generator=stream(seed, "y"), dtype=DOUBLE)
    told = c2st(x, y, split="heldout", seed=seed)
    # the same halves and the same features as c2st had
    rng = stream(seed, "c2st", "heldout")
    a, b = (v[torch.randperm(N, generator=rng)][: N // 2] for v in (x, y))
    classifier = Classifier.fit(a, b, rng=rng)
    fresh = torch.randn(4000, 2, generator=stream(seed, "fresh"), dtype=DOUBLE)
    right = torch.cat([classifier(codes(4000, seed, "fresh")), ~classifier(fresh)])
    same = codes(N, seed, "same")
    kernel = mmd(x, y, split="heldout", seed=seed, permutations=1)
    return [
        row("C2ST: accuracy", told.accuracy, float(right.double().mean())),
        p_value("C2ST: p-value under equality", c2st(x, same, split="heldout", seed=seed).p_value),
        row("MMD², codes against N(0, I)", kernel.squared, mmd_truth(kernel.bandwidth)),
        p_value("MMD: p-value under equality", mmd(x, same, split="heldout", seed=seed, permutations=99).p_value),
    ]


def mmd_truth(bandwidth: float) -> float:
    """MMD² of the population against N(0, I): sums of Gaussian integrals."""
    prior = Diagonal(torch.zeros(1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE))

    def between(a: Diagonal, b: Diagonal) -> float:
        var = bandwidth**2 + a.scale.square()[:, None] + b.scale.square()
        gap = a.mean[:, None] - b.mean
        kernel = (bandwidth / var.sqrt()).prod(2) * torch.exp(-0.5 * (gap.square() / var).sum(2))
        return float(a.log_weight.exp() @ kernel @ b.log_weight.exp())

    return between(POPULATION, POPULATION) + between(prior, prior) - 2 * between(POPULATION, prior)


GROUPS = {
    "memorised": memorised,
    "hole": bracket,
    "correlation": correlation,
    "minibatch": batches,
    "low-density": low,
    "two-sample": tests,
}

if __name__ == "__main__":
    main("Coverage of 95 % intervals: latent side", "coverage_latent", GROUPS, NOTES)

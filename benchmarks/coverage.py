"""How often the 95 % intervals of the likelihood and encoder side hold the truth: `make bench-coverage`.

Linear-Gaussian models here, where every truth is a closed form or an integral in two dimensions by Gauss-Hermite
quadrature; what is not linear, and hard nulls, in `hard.py`.
"""

import functools
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import hard
from harness import Found, main, p_value, row
from models import CENTRE, MIXTURE, SPREAD, R

from oracles import LinearGaussian, gaussian_kl, linear_gaussian
from zprime.arrays import gaussian_log_prob, standard_log_prob
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import Defensive, Gaussian, Prior
from zprime.latent.selection import RowScores, paired
from zprime.measure.candidates import Candidates
from zprime.measure.latents.surgery import surgery
from zprime.measure.likelihood.ais import AISSettings, Annealer, Target
from zprime.measure.likelihood.calibration import calibration
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.likelihood.scores import elbo_estimate, exact_posterior_estimate, likelihood_estimate
from zprime.measure.likelihood.simulation import Simulator, simulate
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.statistics.estimate import mean_estimate, student95

MODEL = linear_gaussian(D=4, d=2, var=0.4)
WRONG = 0.7
"""Factor of an encoder's scales that are wrong."""
N, DRAWS = 60, 200
NOTES = (
    "Simulated data sets of seeds 0, 1, ...; how many is in the table (2,000, or 500 where one takes longer). "
    "Linear-Gaussian models (two latents, four pixels), 60 rows, 200 draws a row, unless a row of the table says "
    "otherwise. Latents of the data are from neither the prior nor a candidate. The truth of a gain is its expectation "
    "over the true distribution of the data.\n\n"
    "- `hidden`: a Gaussian without its closed form, so that its exact-posterior gain is an importance estimate. "
    "`wrong q`: scales of the encoder times 0.7. The truth of surgery is the exact value for the posteriors of the "
    "data set, since its interval is about its draws alone. `AIS`: 8 temperatures, 2 chains, 30 rows.\n"
) + hard.NOTES


class Hidden(Gaussian):
    """A Gaussian without its closed form."""

    kind = "hidden"

    def tilt(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        return None


CANDIDATES: dict[str, LatentDistribution] = {
    "gaussian": R,
    "mixture": Defensive(MIXTURE, 0.1),
    "hidden": Hidden(R.mean, R.scale_tril),
}
AIS_ROWS = 30
GAUSSIAN, BOTH, BASE, OPEN = (
    CandidateId("gaussian"),
    CandidateId("mixture", 10.0),
    CandidateId("mixture"),
    CandidateId("hidden"),
)
SHOWN = {GAUSSIAN: "gaussian", BOTH: "mixture + 10 % p", BASE: "mixture", OPEN: "hidden"}


def data(seed: int, n: int = N) -> Tensor:
    rng = stream(seed, "coverage")
    z = CENTRE + torch.randn(n, 2, generator=rng, dtype=torch.float64) @ SPREAD.T
    noise = torch.randn(n, len(MODEL.bias), generator=rng, dtype=torch.float64)
    return z @ MODEL.weight.T + MODEL.bias + math.sqrt(MODEL.var) * noise


def nodes(mean: Tensor, covariance: Tensor, n: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite points and weights of a Gaussian in two dimensions."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    points = mean + torch.cartesian_prod(x, x) @ torch.linalg.cholesky(covariance).T
    return points, torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)


@functools.cache
def codes() -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance over the data of the posterior mean, and the posterior's scales."""
    shrink = MODEL.gram / (MODEL.gram + MODEL.var)
    total = SPREAD @ SPREAD.T + torch.diag(MODEL.var / MODEL.gram)
    scale = (MODEL.var / (MODEL.gram + MODEL.var)).sqrt()
    return shrink * CENTRE, shrink[:, None] * total * shrink, scale


@functools.cache
def truth_elbo(wanted: CandidateId, widen: float = 1.0) -> float:
    """E_x E_q[log r - log p]."""
    mean, covariance, scale = codes()
    z, w = nodes(mean, covariance + torch.diag((widen * scale).square()))
    return float(w @ (Candidates(CANDIDATES).log_probs(z)[wanted] - standard_log_prob(z)))


@functools.cache
def truth_gain(wanted: CandidateId) -> float:
    """E_x[log p_r(x) - log p_p(x)]: by the posterior's mean alone, which is all that x says of z."""
    mean, covariance, scale = codes()
    mu, w = nodes(mean, covariance)
    r = MIXTURE if wanted == BASE else R if wanted == OPEN else CANDIDATES[wanted.name]
    tilted = r.tilt(mu, scale.expand_as(mu).contiguous(), draws=0, rng=stream(0))
    assert tilted is not None
    return float(w @ tilted.log_ratio)


@functools.cache
def truth_log_prob() -> float:
    """E_x log p(x) under the prior."""
    marginal = MODEL.weight @ MODEL.weight.T + MODEL.var * torch.eye(4, dtype=torch.float64)
    gap = MODEL.weight @ CENTRE
    total = MODEL.weight @ SPREAD @ SPREAD.T @ MODEL.weight.T + MODEL.var * torch.eye(4, dtype=torch.float64)
    inverse = marginal.inverse()
    quadratic = float((inverse @ (total + torch.outer(gap, gap))).trace())
    return -0.5 * (4 * math.log(2 * math.pi) + float(torch.logdet(marginal)) + quadratic)


def row_gains(seed: int, widen: float) -> RowGains:
    x = data(seed)
    mean, scale = MODEL.posterior(x)
    return measure_gains(
        Candidates(CANDIDATES),
        Split("heldout", MemoryPosteriors(mean, widen * scale), Rows("heldout", x, torch.arange(N))),
        rng=stream(seed, "ladder"),
        model=MODEL.vae(),
        draws=DRAWS,
    )


def gains(seed: int) -> Found:
    """All three gains, log p(x), and a paired difference as the verdict uses it, with an exact encoder."""
    found = row_gains(seed, 1.0)
    out = []
    for i, shown in SHOWN.items():
        out.append(row(f"ELBO gain, {shown}", elbo_estimate(found, i, seed), truth_elbo(i)))
        out.append(row(f"exact-posterior gain, {shown}", exact_posterior_estimate(found, i, seed), truth_gain(i)))
        out.append(row(f"likelihood gain, {shown}", likelihood_estimate(found, i, seed), truth_gain(i)))
    gap = inference_gap(Measured(found), seed=seed)
    out.append(row("log p(x) under the prior", gap.log_prob, truth_log_prob()))
    behind, stderr = paired(*(RowScores(found.likelihood[i]) for i in (BOTH, GAUSSIAN)))
    half = student95(N - 1) * stderr
    truth = truth_gain(BOTH) - truth_gain(GAUSSIAN)
    out.append(("likelihood gain, paired difference of two candidates", behind - half, behind + half, truth))
    return out


def wrong(seed: int) -> Found:
    """Likelihood gain and inference gap with an encoder whose scales are wrong."""
    found = row_gains(seed, WRONG)
    out = [
        row(f"likelihood gain, {shown}, wrong q", likelihood_estimate(found, i, seed), truth_gain(i))
        for i, shown in SHOWN.items()
    ]
    truth = 2 * (0.5 * (WRONG**2 - 1) - math.log(WRONG))
    return [*out, row("inference gap, wrong q", inference_gap(Measured(found), seed=seed).gap, truth)]


def cut(seed: int) -> Found:
    """ELBO surgery of 40 posteriors against quadrature."""
    mean, scale = MODEL.posterior(data(seed, 40))
    # scales that differ, so that rows differ
    scale = scale * torch.linspace(0.5, 1.3, 40, dtype=torch.float64)[:, None]
    p = MemoryPosteriors(mean, scale)
    s = surgery(Split("train", p), rng=stream(seed, "surgery"))
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
    points = mean[:, None] + scale[:, None] * torch.cartesian_prod(x, x)
    weights = torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    own = gaussian_log_prob(points, mean[:, None], scale[:, None])
    together = p.log_prob(points.reshape(-1, 2)).reshape(40, -1)
    information = float(((own - together) @ weights).mean())
    kl = float(gaussian_kl(mean, torch.diag_embed(scale.square())).mean())
    return [
        ("surgery: mean KL(q‖p), exact", s.mean_kl.low - 1e-9, s.mean_kl.high + 1e-9, kl),
        row("surgery: I", s.information, information),
        row("surgery: KL(q̄‖p)", s.hole, kl - information),
        row("surgery: exp I", s.told_apart, math.exp(information)),
    ]


@functools.cache
def truth_spread(widen: float) -> float:
    """Variance of the rank of a Gaussian among draws of one `widen` times as wide, over that of a uniform rank."""
    z = torch.linspace(-10, 10, 40001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    u = torch.special.ndtr(z / widen)
    # of 99 draws, and of the random number within a rank: (rank + U)/100
    var = float((density * (u - 0.5).square()).sum())
    binomial = float((density * u * (1 - u)).sum())
    return 12 * (99**2 * var + 99 * binomial + 1 / 12) / 100**2


def ranks(seed: int) -> Found:
    """Calibration of an exact encoder under a mixture, and of one with wrong scales under the prior."""
    out = []
    for widen, r, shown in ((1.0, MIXTURE, "exact q under a mixture"), (WRONG, Prior(2), "wrong q under the prior")):
        model = MODEL.vae(widen=widen)
        c = calibration(Simulator("", r, model, torch.float64), rng=stream(seed, "ranks", shown), rows=100)
        assert c is not None
        out.append(row(f"calibration: bias, {shown}", c.bias[0], 0.0))
        out.append(row(f"calibration: spread, {shown}", c.spread[0], truth_spread(widen)))
        if widen == 1:
            out.append(p_value(f"calibration: p-value, {shown}", c.p_value))
    return out


def annealed(seed: int) -> Found:
    """The two bounds of AIS on simulated rows."""
    r = Prior(2)
    z, rows = simulate(r, MODEL.vae(), AIS_ROWS, dtype=torch.float64, rng=stream(seed, "ais data"))
    start = MemoryPosteriors(*(v.contiguous() for v in MODEL.vae(widen=WRONG).encode(rows.x)))
    chains = Annealer(Target(r, MODEL.vae(), rows.x), AISSettings(8, 2, 2), rng=stream(seed, "ais"), start=start)
    low, high = (mean_estimate(v.log_prob, unit="", split="", seed=seed) for v in (chains.forward(), chains.reverse(z)))
    truth = simulated_log_prob(MODEL)
    return [
        ("AIS: from the lower bound up", low.low, math.inf, truth),
        ("AIS: from the upper bound down", -math.inf, high.high, truth),
        ("AIS: from one bound to the other", low.low, high.high, truth),
    ]


@functools.cache
def simulated_log_prob(model: LinearGaussian) -> float:
    """E log p(x) over the model's own x: minus the entropy of a Gaussian."""
    marginal = model.weight @ model.weight.T + model.var * torch.eye(4, dtype=torch.float64)
    return -0.5 * (4 * math.log(2 * math.pi) + float(torch.logdet(marginal)) + 4)


GROUPS = {"gains": gains, "wrong": wrong, "surgery": cut, "calibration": ranks, "ais": annealed, **hard.GROUPS}

if __name__ == "__main__":
    main("Coverage of 95 % intervals: likelihood and encoder", "coverage", GROUPS, NOTES, hard.COMPARED)

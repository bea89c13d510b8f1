"""The hole between bounds: how far this encoder's aggregated posterior is from the prior, from below and from above.

Two targets that must not be mixed (docs/theory.md, section 4). The *empirical* hole is KL(qbar||p) of the mixture of
N given posteriors: a number without error, and where posteriors are narrow mostly an artefact of N. The *population*
hole is that of `E_{x~data} q(z|x)` over the distribution of the data. It is not known; these bound it in expectation:

- from below: `E[log r(z) - log p(z)]` at codes of fresh rows, for any r fixed beforehand (that is the ELBO gain), and
  for r the mixture of all other fresh rows (leave-one-out; without the row's group, where rows come in groups);
- from above: the same for the mixture with the row itself in it, since KL is convex.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.gaussian import gaussian_of
from zprime.measure.latents.leave_one_out import RowMixture, masked_elbo_gain
from zprime.measure.likelihood.density_error import with_density_error
from zprime.measure.likelihood.gains import ELBO_DRAWS, RowGains
from zprime.measure.prior import closed, prior_kl, prior_log_prob
from zprime.measure.study import Split, Study
from zprime.results.latents import Bound, Hole, Surgery
from zprime.results.names import Gain
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, mean_estimate, student

ROWS = 2000
DRAWS = 2
CLOSE = 0.5  # nats below log N: where I is nearer to it, the bound from above says little
UNIT = "nats"


def hole(study: Study, split_gains: Mapping[str, RowGains], surgery: Surgery, *, rows: int = ROWS) -> Hole:
    """Bound the population hole on held-out rows, and put the empirical hole of the training rows beside it.

    Args:
        study: its training and held-out split, prior and seed.
        split_gains: of `selection`, where the candidate with the best ELBO gain is chosen, and of `heldout`, where
            its gain is a bound.
        surgery: of the training split.
        rows: held-out rows at whose codes the mixture of all held-out rows is evaluated, at most.

    Raises:
        UsageError: fewer than three held-out rows.
    """
    held, prior = study.heldout.posteriors, study.prior
    if held.n < 3:
        raise UsageError(f"hole: expected at least 3 held-out rows, got {held.n}")
    gaussian = gaussian_bound(study.train, study.heldout, seed=study.seed, prior=prior)
    below = [
        Bound("moment-matched Gaussian", "population", "below", gaussian),
        best_elbo_gain(split_gains["selection"], split_gains["heldout"], study.seed),
    ]
    others, own, information = own_mixture(study.heldout, seed=study.seed, rows=rows, prior=prior)
    below.append(Bound("leave-one-out", "population", "below", others))
    above = Bound("self-included", "population", "above", own)
    n = study.train.n
    empirical = [
        Bound(f"Gaussian part, {n} training rows", "empirical", "below", surgery.gaussian_part),
        Bound(f"KL(qbar||p), {n} training rows", "empirical", "equal", surgery.hole),
    ]
    low = max(_lower_end(b.estimate, 0.025 / len(below)) for b in below)
    log_n = math.log(held.data)
    kl = study.heldout.design.mean(prior_kl(prior, held, rng=stream(study.seed, "hole kl")))
    return Hole(
        [*below, above, *empirical],
        max(0.0, low),
        own.high,
        information,
        log_n,
        kl - log_n,
        information.value > log_n - CLOSE,
    )


def gaussian_bound(train: Split, heldout: Split, *, seed: int, prior: LatentDistribution | None = None) -> Estimate:
    """ELBO gain of the training posteriors' moment match on held-out rows: in closed form where p is N(0, I)."""
    mean, covariance = train.match
    held = heldout.posteriors
    if not closed(prior):
        z = held.draw(rng=stream(seed, "bound by the moment match"), draws=ELBO_DRAWS)
        match = gaussian_of(mean, covariance, what="moments of the posteriors")
        gain = (match.log_prob(z.double()) - prior_log_prob(prior, z)).reshape(ELBO_DRAWS, -1).mean(0)
        return mean_estimate(gain, unit=UNIT, split="heldout", seed=seed, design=heldout.design)
    mu, var = held.mean.double(), held.variance
    trace = covariance.traces(held.scale.double()) if held.form == "full" else var @ covariance.precisions
    under_r = covariance.log_det + covariance.form(mu - mean) + trace
    under_p = (mu.square() + var).sum(1)
    return mean_estimate(0.5 * (under_p - under_r), unit=UNIT, split="heldout", seed=None, design=heldout.design)


def best_elbo_gain(selection: RowGains, heldout: RowGains, seed: int) -> Bound:
    """Held-out ELBO gain of the candidate that is best on the selection split."""
    best = max(selection.elbo, key=lambda i: selection.design.mean(selection.elbo[i]))
    gain = mean_estimate(heldout.elbo[best], unit=UNIT, split=heldout.split, seed=seed, design=heldout.design)
    return Bound(f"ELBO gain of {best}", "population", "below", with_density_error(gain, heldout, Gain.ELBO, best))


def own_mixture(
    heldout: Split, *, seed: int, rows: int = ROWS, prior: LatentDistribution | None = None
) -> tuple[Estimate, Estimate, Estimate]:
    """Bounds from some rows and the mixture of the same rows: leave-one-out (below), self-included (above), and I.

    In the bound from above only I is sampled where `KL(q_i||p)` is exact, under N(0, I).
    """
    rng, held = stream(seed, "hole"), heldout.posteriors
    picked = held.pick(max(1, rows * held.data // held.n), rng=rng)
    taken = heldout.take(picked)
    some = taken.posteriors
    z = some.draw(rng=rng, draws=DRAWS)
    form = Full if held.form == "full" else Diagonal
    mixture = RowMixture(form(held.log_weights, held.mean, held.scale), list(range(held.d)))
    gains = masked_elbo_gain(mixture, picked, z, prior=prior, groups=heldout.groups)
    ratio = (some.own_log_prob(z) - prior_log_prob(prior, z)).reshape(DRAWS, -1)
    information = (ratio - gains.with_own).mean(0)
    kl = prior_kl(prior, some, rng=stream(seed, "hole kl", "some"))

    def estimate(values: Tensor) -> Estimate:
        return mean_estimate(values, unit=UNIT, split="heldout", seed=seed, design=taken.design)

    return estimate(gains.others.mean(0)), estimate(kl - information), estimate(information)


def _lower_end(e: Estimate, error: float) -> float:
    """One-sided lower confidence limit of a mean."""
    if e.stderr is None or not math.isfinite(e.stderr):
        return e.low
    return e.value - student(max(1, e.independent - 1), 1 - error) * e.stderr

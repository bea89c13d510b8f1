"""The inference gap: what the encoder loses, log p(x) - ELBO = KL(q(z|x) || p(z|x)) (Cremer et al. 2018)."""

from dataclasses import dataclass

from zprime.arrays import standard_kl
from zprime.errors import ArrayError
from zprime.measure.estimate import Estimate, exact, mean_estimate
from zprime.measure.ladder import Ladder, moved
from zprime.posteriors import InMemory

UNIT = "nats per row"


@dataclass(frozen=True)
class InferenceGap:
    """`log p(x) = reconstruction - rate + gap` on the rows of one split, under the prior.

    Attributes:
        log_prob: mean log p(x), rung (c) under the prior: a lower bound in expectation.
        elbo: mean ELBO.
        reconstruction: mean of E_q[log p(x|z)].
        rate: mean KL(q||p), exact.
        gap: mean of log p(x) - ELBO, paired over rows: KL(q(z|x) || p(z|x)); a lower bound in expectation, as log p(x)
            is. Trusted if it moved by less than max(1 s.e., 0.05 nats) from a quarter of the draws to all.
    """

    log_prob: Estimate
    elbo: Estimate
    reconstruction: Estimate
    rate: Estimate
    gap: Estimate


def inference_gap(ladder: Ladder, posteriors: InMemory, *, seed: int) -> InferenceGap:
    """From what rung (c) has computed on its way: nothing is decoded for it.

    Args:
        ladder: climbed with a decoder.
        posteriors: the rows that it was climbed on.
        seed: of its draws.

    Raises:
        ArrayError: the ladder was climbed without a decoder, or on other rows.
    """
    if ladder.log_prior is None or ladder.log_prior_quarter is None or ladder.reconstruction is None:
        raise ArrayError("ladder: expected one that was climbed with a decoder, got none of rung (c)")
    if len(ladder.log_prior) != posteriors.n:
        raise ArrayError(f"posteriors: expected the {len(ladder.log_prior)} rows of the ladder, got {posteriors.n}")
    rate = standard_kl(posteriors.mean.double(), posteriors.scale.double()).sum(1)
    elbo = ladder.reconstruction - rate
    kind = {"unit": UNIT, "split": ladder.split, "seed": seed}
    gap, log_prob = (
        moved(mean_estimate(v, **kind), ladder.log_prior, ladder.log_prior_quarter, ladder.draws)
        for v in (ladder.log_prior - elbo, ladder.log_prior)
    )
    return InferenceGap(
        log_prob=log_prob,
        elbo=mean_estimate(elbo, **kind),
        reconstruction=mean_estimate(ladder.reconstruction, **kind),
        rate=exact(float(rate.mean()), n=posteriors.n, unit=UNIT, split=ladder.split),
        gap=gap,
    )

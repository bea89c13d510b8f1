"""The inference gap: what the encoder loses, log p(x) - ELBO = KL(q(z|x) || p(z|x)) (Cremer et al. 2018)."""

from dataclasses import dataclass
from functools import partial

from zprime.errors import UsageError
from zprime.statistics.estimate import Estimate, exact, mean_estimate
from zprime.measure.likelihood.gains import BARE, Ladder, moved

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


def inference_gap(ladder: Ladder, *, seed: int) -> InferenceGap:
    """From what rung (c) has computed on its way: nothing is decoded for it.

    Args:
        ladder: climbed with a decoder.
        seed: of its draws.

    Raises:
        UsageError: the ladder was climbed without a decoder.
    """
    whole, quarter = ladder.log_prob("prior")
    if ladder.rate is None or ladder.reconstruction is None:
        raise UsageError(BARE)
    elbo = ladder.reconstruction - ladder.rate
    mean = partial(mean_estimate, unit=UNIT, split=ladder.split, seed=seed)
    gap, log_prob = (moved(mean(v), whole, quarter, ladder.draws) for v in (whole - elbo, whole))
    return InferenceGap(
        log_prob=log_prob,
        elbo=mean(elbo),
        reconstruction=mean(ladder.reconstruction),
        rate=exact(float(ladder.rate.mean()), n=len(ladder.rate), unit=UNIT, split=ladder.split),
        gap=gap,
    )

"""The inference gap: what the encoder loses, log p(x) - ELBO = KL(q(z|x) || p(z|x)) (Cremer et al. 2018)."""

from functools import partial

from zprime.errors import UsageError
from zprime.measure.likelihood.gains import BARE, RowGains, moved
from zprime.results.likelihood import InferenceGap
from zprime.statistics.estimate import exact, mean_estimate

UNIT = "nats per row"


def inference_gap(ladder: RowGains, *, seed: int) -> InferenceGap:
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

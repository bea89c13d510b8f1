"""The inference gap: what the encoder loses, log p(x) - ELBO = KL(q(z|x) || p(z|x)) (Cremer et al. 2018)."""

from functools import partial

from zprime.errors import UsageError
from zprime.measure.likelihood.finer import UNIT, Measured
from zprime.measure.likelihood.gains import BARE, PRIOR
from zprime.results.likelihood import InferenceGap
from zprime.statistics.estimate import exact, mean_estimate


def inference_gap(measured: Measured, *, seed: int) -> InferenceGap:
    """Compute the gap from by-products of the likelihood gain: nothing more is decoded.

    Args:
        measured: with a decoder.
        seed: of its draws.

    Raises:
        UsageError: the gains were measured without a decoder.
    """
    row_gains = measured.few
    whole, _ = row_gains.log_prob(PRIOR)
    if row_gains.kl is None or row_gains.reconstruction is None:
        raise UsageError(BARE)
    elbo = row_gains.reconstruction - row_gains.kl
    design = row_gains.design
    mean = partial(mean_estimate, unit=UNIT, split=row_gains.split, seed=seed, design=design)
    gap, log_prob = (measured.mean(v, PRIOR, seed=seed) for v in (whole - elbo, whole))
    kl = exact(design.mean(row_gains.kl), n=design.effective(len(row_gains.kl)), unit=UNIT, split=row_gains.split)
    return InferenceGap(
        log_prob=log_prob,
        elbo=mean(elbo),
        reconstruction=mean(row_gains.reconstruction),
        kl=mean(row_gains.kl) if row_gains.brought else kl,
        gap=gap,
    )

"""The table of an audit: one entry for every candidate, with its gains, its size and what its fit says."""

import time
from collections.abc import Mapping

from zprime.arrays import in_proportion
from zprime.distribution import LatentDistribution
from zprime.latent import Active, Defensive
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.likelihood.scores import scores
from zprime.measure.prior import closed
from zprime.posteriors import Posteriors
from zprime.results.audit import Entry
from zprime.results.facts import Chosen
from zprime.results.names import PRIOR, CandidateId
from zprime.rng import stream


def entry(
    candidates: Candidates,
    wanted: CandidateId,
    fit: Fit[LatentDistribution] | None,
    split_gains: Mapping[str, RowGains],
    seed: int,
) -> Entry:
    """What the table shows of one candidate.

    Args:
        candidates: the candidates.
        wanted: which of them.
        fit: the fit that it comes from; None for the prior.
        split_gains: split -> gains.
        seed: of the draws behind the gains.
    """
    r = candidates.distribution(wanted)
    leading = wanted in candidates.leading
    return Entry(
        id=wanted,
        kind=kind_of(r),
        label=r.label if wanted.name != PRIOR or closed(r) else f"prior: {r.label}",
        gloss=r.gloss,
        epsilon=candidates.blends[wanted].epsilon,
        bytes=r.bytes,
        holds_rows=r.holds_rows,
        density=r.density,
        scores={split: scores(row_gains, wanted, seed) for split, row_gains in split_gains.items()},
        outcome="" if fit is None else fit.outcome.message,
        settings={} if fit is None else fit.settings,
        chosen=fit.chosen if fit is not None and leading else Chosen(),
        curve=list(fit.curve) if fit is not None and leading else [],
        draws_per_second=draws_per_second(r, seed=seed),
        seconds=None if fit is None else fit.seconds,
        least_rows=r.least_rows,
    )


def kind_of(r: LatentDistribution) -> str:
    """The kind of a latent distribution: of its base, where the prior is mixed in or some dimensions are inactive."""
    while isinstance(r, Defensive | Active):
        r = r.base
    return r.kind


def draws_per_second(r: LatentDistribution | Posteriors, *, seed: int, n: int = 10_000) -> float:
    """Draws z' per CPU second of this process, at one call: n, and fewer in proportion above 1,024 dimensions."""
    n = max(1, in_proportion(n, r.d))
    start = time.process_time()
    r.sample(n, rng=stream(seed, "rate"))
    return n / max(time.process_time() - start, 1e-9)

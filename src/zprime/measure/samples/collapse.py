"""Posterior collapse: whether the decoder ignores z."""

import torch

from zprime.data.blocks import blocks, is_large
from zprime.measure.samples.features import Entries
from zprime.measure.study import Study
from zprime.results.thresholds import THRESHOLDS

ROWS = 500


@torch.no_grad()
def ignores_z(study: Study, *, rng: torch.Generator) -> str:
    """How it is seen that the decoder ignores z, in words; empty where it does not.

    It does if no latent is active (Burda et al. 2016), or if the variance of decoder means, summed over a row's
    entries, is below 1 % of that of real rows of the selection split: both over the prior and over posteriors of that
    split. Counts are compared by log(1 + count).
    """
    active = int((study.train.posteriors.centres.var(0) > THRESHOLDS.active).sum())
    if active == 0 and study.train.posteriors.form != "points":  # the scale of codes alone says nothing
        return "no latent is active"
    if study.selection.rows is None:
        return ""
    x, p = study.selection.rows.x, study.selection.posteriors
    entries = Entries.fitting(x)

    def spread(rows: torch.Tensor) -> float:
        shape = tuple(rows.shape[1:])
        if not is_large(len(rows), shape):
            return float(entries.of(rows).double().var(0).sum())
        parts = [entries.of(rows[b]).double().sum(0) for b in blocks(len(rows), shape)]
        centre = torch.stack(parts).sum(0) / len(rows)
        apart = (entries.of(rows[b]).double() - centre for b in blocks(len(rows), shape))
        return sum(float(part.square().sum()) for part in apart) / (len(rows) - 1)

    some = p.take(torch.randperm(p.n, generator=rng)[:ROWS])
    latents = (study.prior.sample(ROWS, rng=rng), some.draw(rng=rng))
    varies = max(spread(study.decode(z, noise="mean", rng=rng)) for z in latents) / max(spread(x), 1e-300)
    if varies >= THRESHOLDS.ignores:
        return ""
    return f"the variance of its means over z is {100 * varies:.2g} % of that of the data"

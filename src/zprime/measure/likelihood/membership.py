"""Membership: can training rows be told from held-out rows by how likely the model, or a candidate, finds them?"""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.encoding import is_flow
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.gains import PRIOR, RowGains, measure_gains
from zprime.measure.likelihood.modes import searched
from zprime.measure.likelihood.simulation import redrawn
from zprime.measure.study import Split, Study
from zprime.results.likelihood import Attack, Membership
from zprime.results.names import CandidateId, Gain
from zprime.results.settings import ENOUGH
from zprime.rng import fork
from zprime.statistics.auc import above_quantile, auc

FALSE = 0.01  # false positives at which the rate of true ones is told
BOTH = "training and held-out rows"


def membership(study: Study, candidates: Candidates, heldout: RowGains) -> Membership | None:
    """Attack the model by log p(x) under the prior, and every candidate by its gain over the prior.

    A loss attack (Yeom et al. 2018) in the form of Carlini et al. (2022): the true-positive rate at few false ones.
    What the model itself gives away is in log p(x) under any candidate; the gain subtracts it (docs/theory.md,
    section 15). Training rows are scored as held-out rows were: by the same estimator with as many draws a row.
    Where rows come in groups or have weights, independent rows of the weighted population are compared.

    Args:
        study: what the audit works on; `settings.members` rows of its training split are scored, and at most
            `settings.repair` where modes are searched for, as of held-out rows.
        candidates: the candidates.
        heldout: gains of held-out rows, which are taken as they are; unless draws that are stored differ in number and
            cannot be made anew: then the first ones count, of both kinds of rows.

    Returns:
        None where it is switched off, or one of the two has fewer than two rows.
    """
    rng = study.stream("audit", "members")
    most = min(study.settings.members, study.settings.repair) if study.search else study.settings.members
    picked = study.train.posteriors.pick(most, rng=rng)
    if len(picked) < 2:
        return None
    taken = study.train.take(picked)
    joined = taken.posteriors.datum is not None and taken.posteriors.log_q is not None  # gains are then by datum
    if joined and taken.rows is not None and is_flow(study.model):  # of training rows fewer draws are stored
        taken = redrawn(taken, study.model, heldout.draws)
    elif joined:
        taken, heldout = _as_many(study, candidates, taken, heldout)
    kept = heldout.design.independent(len(heldout.ids), fork(rng, "independent", "heldout"))
    some = taken if joined else taken.independent(fork(rng, "independent"))
    if min(some.n, len(kept)) < 2:
        return None
    some = searched(study, candidates, some, rng=fork(rng, "modes"), progress=study.progress)
    train = measure_gains(
        candidates,
        some,
        rng=rng,
        model=study.model if heldout.likelihood else None,
        draws=study.settings.draws,
        progress=study.progress,
    )
    # of a datum with several parts one is taken, so that a gain of the whole is not to be had
    gain = _score(train, heldout) if joined or study.train.posteriors.datum is None else Gain.ELBO
    chosen = train.design.independent(len(train.ids), fork(rng, "data")) if joined else torch.arange(some.n)
    if len(chosen) < 2:
        return None
    inside, outside = ({i: v[at] for i, v in g.of(gain).items()} for g, at in ((train, chosen), (heldout, kept)))
    model = None
    if train.log_prior is not None and heldout.log_prior is not None:
        model = attack(train.log_prior[chosen], heldout.log_prior[kept], seed=study.seed)
    attacks = {i: attack(inside[i], outside[i], seed=study.seed) for i in inside if i != PRIOR}
    return Membership(len(chosen), len(kept), gain, model, attacks)


def _as_many(study: Study, candidates: Candidates, train: Split, heldout: RowGains) -> tuple[Split, RowGains]:
    """Both with as many draws of each datum: the first ones, as many as each has.

    The log of a mean over draws is too small in expectation, by the more the fewer they are. So scores from different
    numbers of draws tell the two kinds of rows apart though nothing was seen.
    """
    other = study.heldout.take(torch.isin(study.heldout.posteriors.row_ids, heldout.ids).nonzero().flatten())
    counts = torch.cat([ByDatum.of(s.posteriors).count for s in (train, other)])
    few = int(counts.min())
    if few == int(counts.max()):
        return train, heldout
    again = measure_gains(
        candidates,
        ByDatum.fewer(other, few),
        rng=study.stream("audit", "members", "heldout"),
        model=study.model if heldout.likelihood else None,
        draws=study.settings.draws,
    )
    return ByDatum.fewer(train, few), again


def _score(train: RowGains, heldout: RowGains) -> Gain:
    """The surest gain that both kinds of rows have of every candidate."""

    def measured(rows: RowGains, gain: Gain) -> set[CandidateId]:
        return set(rows.of(gain))

    both = [g for g in Gain if measured(train, g) == measured(heldout, g) == set(train.elbo)]
    return both[-1]


def attack(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"], *, seed: int | None) -> Attack:
    """How well a score tells training rows (`inside`) from held-out rows: higher is taken for training."""
    area = auc(inside, outside, split=BOTH, seed=seed)
    if len(outside) < ENOUGH:
        return Attack(area, None)
    return Attack(area, above_quantile(inside, outside, FALSE, split=BOTH, seed=seed))

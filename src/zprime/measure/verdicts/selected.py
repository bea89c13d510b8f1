"""What is measured before the held-out split is opened: gains on the selection split, the choice, its check."""

import math
from dataclasses import dataclass, replace

from zprime.latent.selection import TIE, RowScores, paired, smallest_of_best
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.exchange import uncheckable
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.likelihood.modes import unsearchable
from zprime.measure.likelihood.scores import elbo_estimate, likelihood_estimate
from zprime.measure.likelihood.side import check_choice, measure_splits
from zprime.measure.study import Study
from zprime.measure.verdicts.draws import more_wanted, steps
from zprime.results.likelihood import Exchange
from zprime.results.names import Gain
from zprime.results.verdicts import Choice, Ranking


@dataclass(frozen=True, eq=False)
class Selected:
    """What was measured before the held-out split is opened.

    Attributes:
        study: with the number of draws that were taken.
        gains: of the selection split; of the held-out split where another thread measured them meanwhile. By fewer
            draws where the check failed and modes are to be searched for: then they are measured again.
        chosen: the choice.
        checked: its exchange check.
    """

    study: Study
    gains: dict[str, RowGains]
    chosen: Choice
    checked: Exchange | None

    @property
    def failed(self) -> Exchange | None:
        """The check, if it failed."""
        return self.checked if self.checked is not None and self.checked.failed else None


def adaptive(study: Study, candidates: Candidates) -> Selected:
    """First with few draws a row; with more where the selection split or the exchange check asks for them.

    Whether they do depends on no held-out row, and the verdict is made once: what it says of those is as sure as with
    a number of draws that was set before. Where the check of few draws failed, and modes could be searched for but
    were not, it is made with all draws before any gain is: if it fails again, the gains would be thrown away.
    """
    few, *more = steps(study, candidates)
    found = selected(_with(study, few), candidates)
    for draws in more:
        selection = found.gains["selection"]
        quarter = choose(candidates, replace(selection, likelihood=selection.quarter), seed=study.seed)
        if not more_wanted(found.chosen, quarter, found.checked):
            break
        taken, checked = _with(study, draws), None
        last = draws == study.settings.draws and not study.search
        if found.failed is not None and last and _repairable(study, candidates):
            checked = check_choice(taken, candidates, found.chosen)
            found = replace(found, study=taken, checked=checked)
            if found.failed is not None:
                break
        found = selected(taken, candidates, checked)
    return found


def _with(study: Study, draws: int) -> Study:
    return replace(study, settings=replace(study.settings, draws=draws))


def _repairable(study: Study, candidates: Candidates) -> bool:
    return bool(study.settings.repair) and not unsearchable(study, candidates)


def selected(study: Study, candidates: Candidates, known: Exchange | None = None) -> Selected:
    """Gains on the selection split, the choice and its exchange check, unless it is known.

    Held-out rows are measured beside the selection split only by another thread: many of these gains are thrown away.
    """
    names = ("selection", "heldout") if study.workers > 1 else ("selection",)
    split_gains = measure_splits(study, candidates, names)
    chosen = choose(candidates, split_gains["selection"], seed=study.seed)
    chosen = replace(chosen, unchecked="" if study.model is None else uncheckable(study))
    if known is None or known.name != chosen.best or not known.informative:
        known = check_choice(study, candidates, chosen)
    return Selected(study, split_gains, chosen, known)


def choose(candidates: Candidates, selection: RowGains, *, seed: int) -> Choice:
    """Step 1: every candidate beside the best on the selection split, and the smallest of those that tie with it."""
    ids = candidates.eligible
    measured = all(i in selection.likelihood for i in ids)
    gain, estimate = (Gain.LIKELIHOOD, likelihood_estimate) if measured else (Gain.ELBO, elbo_estimate)
    weights, groups = selection.weights, selection.groups
    shares = None if weights is None else selection.design.shares(len(weights))
    values = {i: RowScores(selection.of(gain)[i], shares, groups) for i in ids}
    sizes = {i: candidates.distribution(i).bytes for i in ids}
    # of those that tie, one that stores single training rows comes last, however small
    costs = [(candidates.distribution(i).holds_rows, sizes[i]) for i in ids]
    best = ids[smallest_of_best([values[i] for i in ids], costs)]
    top = max(ids, key=lambda i: values[i].mean)
    ranking = []
    for i in ids:
        behind, stderr = paired(values[top], values[i])
        limit = max(TIE, stderr if math.isfinite(stderr) else 0.0)
        tied = i == top or behind < limit
        ranking.append(Ranking(str(i), sizes[i], estimate(selection, i, seed), behind, stderr, limit, tied))
    return Choice(str(best), gain, estimate(selection, best, seed), ranking)

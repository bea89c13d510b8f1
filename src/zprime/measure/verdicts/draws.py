"""How many draws a row the gains take: few, and more only where more could change a decision or an error shown.

A gain is decided by how rows differ: on trained encoders its standard error with 50 draws a row is that with 400.
"""

from zprime.latent.selection import TIE
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.proposal import MODES, least_draws
from zprime.measure.study import Study
from zprime.results.likelihood import Exchange
from zprime.results.names import Gain
from zprime.results.verdicts import Choice

TIMES = 8  # as many draws in every step as in the one before
LEFT = 3.0  # the bias of a log of a mean falls as 1/K: a third of the move from K/4 to K draws is left of it
SMALL = 0.5  # standard errors that this bias may be


def steps(study: Study, candidates: Candidates) -> list[int]:
    """Numbers of draws a row to measure with, one after the other until one is enough; the last is what was asked for.

    Without a decoder there is nothing to save; draws that were brought are taken as they are; and of posteriors with
    several components only all draws are taken.
    """
    draws, codes = study.settings.draws, study.selection.posteriors
    if study.model is None or study.selection.rows is None or codes.form == "points" or codes.datum is not None:
        return [draws]
    least = least_draws(len(candidates.bases)) + (4 * MODES if study.search else 0)
    few, found = max(study.settings.first_draws, least), []
    while few < draws / 2:
        found.append(few)
        few *= TIMES
    return [*found, draws]


def more_wanted(chosen: Choice, quarter: Choice, checked: Exchange | None) -> bool:
    """Whether more draws a row could change the choice, the exchange check or an error shown.

    Args:
        chosen: on the selection split, with all draws.
        quarter: the same with the first quarter of the draws.
        checked: the exchange check of what was chosen, with as many draws; None where none was made.
    """
    if chosen.gain is not Gain.LIKELIHOOD:
        return False
    if quarter.best != chosen.best:
        return True
    before = {ranked.name: ranked.gain for ranked in quarter.ranking}
    for ranked in chosen.ranking:
        gain = ranked.gain
        left = abs(gain.value - before[ranked.name].value) / LEFT
        if not gain.stable or left > max(TIE, SMALL * (gain.stderr or 0.0)):
            return True
    if checked is None:
        return False
    return not checked.passed or chosen.selection.value - checked.allowance <= TIE

"""The verdict by likelihood: chosen on the selection split, checked on simulated rows, confirmed on the held-out split.

The rule of docs/theory.md, section 3, step by step:

1. On the selection split take the best; among the candidates whose paired difference to the best is below
   max(1 s.e. of that difference, 0.05 nats) take the one that stores least (`Ranking`; the prior stores nothing), and
   one that stores no single rows before one that does.
2. The likelihood gain decides for all candidates, and no other gain ever does. It may be used if the chosen candidate
   does not fail the exchange check (`exchange_check`), which is made before the held-out split is opened, and if its
   move from K/4 to K draws is below its distance from 0.05 nats (or 0.05 nats). Else the verdict is undecided. It is
   so too where the prior looks best but a candidate whose estimate drifts may be better.
3. Open the held-out split once, for that one. Leave the prior only if a test by betting says at the 5 % level that its
   gain is above 0 (`bet`: no assumption on its tails), and if the mean gain, less the allowance of the exchange check,
   exceeds 0.05 nats. Where only the check stands in the way (the allowance takes too much, or its error is above half
   the gain), the verdict is undecided.
"""

import math
from dataclasses import replace

from zprime.latent.selection import TIE
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import PRIOR, RowGains
from zprime.measure.likelihood.modes import unsearchable
from zprime.measure.likelihood.scores import elbo_estimate, likelihood_estimate
from zprime.measure.likelihood.side import measure_splits
from zprime.measure.study import Study
from zprime.measure.verdicts.selected import Selected, adaptive
from zprime.results.likelihood import Exchange
from zprime.results.names import CandidateId, Gain
from zprime.results.thresholds import THRESHOLDS
from zprime.results.verdicts import Choice, Verdict
from zprime.statistics.betting import Bet, bet
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import unsigned

WHOLE_FIRST = "First run the whole audit, which measures more: without --quick (in Python without quick=True)"
MORE = "More rows would settle it"
MORE_DRAWS = "More draws a row (--draws) would settle it, or an encoder nearer to the model's posteriors"
MORE_ROWS = "More simulated rows (--exchange) or more draws a row (--draws) would settle it"
BETTER_ENCODER = "A better encoder would settle it; by how much this one is wrong, annealing measures (--ais 20)"
NO_DECODER = (
    "The decoder, the rows and draws of them (--draws) would settle it: ELBO gain and exact-posterior gain do not "
    "count as two votes"
)


REPAIRED = (
    "so the gains were measured again on fewer rows, with proposals around modes that annealed chains from the prior "
    "found"
)


def by_likelihood(study: Study, candidates: Candidates) -> tuple[Study, dict[str, RowGains], Verdict]:
    """Gains on both splits, the choice, its exchange check and the verdict.

    Where the check fails all is done once more on fewer rows, with modes that chains from the prior find: first with
    few draws again.

    Returns:
        The study, which says whether modes were searched for; gains by split; the verdict.
    """
    first = adaptive(study, candidates)
    failed, why_not = first.failed, ""
    if failed is not None and study.settings.repair:
        why_not = unsearchable(study, candidates)
        if not why_not:
            again = adaptive(replace(study, search=True), candidates)
            split_gains, verdict = _opened(again, candidates)
            why = [f"{told(failed)}; {REPAIRED}", *verdict.why]
            return again.study, split_gains, replace(verdict, repaired=True, why=why)
    split_gains, verdict = _opened(first, candidates)
    why = [f"the gains were not measured again: {why_not}"] if why_not else []
    return first.study, split_gains, replace(verdict, why=[*verdict.why, *why])


def _opened(found: Selected, candidates: Candidates) -> tuple[dict[str, RowGains], Verdict]:
    """With gains of held-out rows by as many draws, and the verdict."""
    missing = [name for name in ("selection", "heldout") if name not in found.gains]
    split_gains = found.gains | measure_splits(found.study, candidates, missing)
    verdict = _decided(found.study, candidates, split_gains["heldout"], found.chosen, found.checked)
    return split_gains, verdict


def _decided(
    study: Study, candidates: Candidates, heldout: RowGains, chosen: Choice, checked: Exchange | None
) -> Verdict:
    most = largest_group(study, heldout)
    verdict = decide(candidates, chosen, heldout, checked, seed=study.seed, most=most)
    return whole_first(verdict) if study.settings.quick else verdict


def whole_first(verdict: Verdict) -> Verdict:
    """The verdict of a quick audit: where it is undecided, the whole audit comes before all else that would settle it.

    Without a decoder no audit settles it.
    """
    sentence = verdict.sentence
    for way in (MORE, MORE_DRAWS, MORE_ROWS, BETTER_ENCODER):
        sentence = sentence.replace(way, f"{WHOLE_FIRST}. {way}")
    return replace(verdict, sentence=sentence)


def decide(
    candidates: Candidates,
    chosen: Choice,
    heldout: RowGains,
    exchange: Exchange | None,
    *,
    seed: int,
    most: float = 1.0,
) -> Verdict:
    """Steps 2 and 3.

    Args:
        candidates: the prior, and all that may be chosen.
        chosen: on the selection split.
        heldout: gains on the held-out split, which confirm the choice or not.
        exchange: the check of the chosen candidate; None where there was none.
        seed: of the draws behind the gains.
        most: rows that a group counts for at most in the bet; see `largest_group`.
    """
    best = CandidateId.parse(chosen.best)
    label = candidates.distribution(best).label
    doubt = _doubt(chosen, exchange, label)
    if chosen.gain is not Gain.LIKELIHOOD:
        return _without_decoder(_undecided(doubt, chosen, exchange, label), candidates, heldout, seed, most)
    if doubt:
        return _undecided(doubt, chosen, exchange, label)
    if best == PRIOR or exchange is None:
        return Verdict(
            "keep the prior",
            "prior",
            "Keep the prior: nothing tried here is measurably better than it.",
            ["on the selection split no candidate's likelihood gain is above the prior's by max(1 s.e., 0.05 nats)"],
            chosen=chosen,
        )
    gain, betted = likelihood_estimate(heldout, best, seed), _bet(candidates, best, heldout, Gain.LIKELIHOOD, most)
    sure = gain.value - exchange.allowance
    why = [
        *_why(chosen, exchange, label),
        f"held-out split, opened once: likelihood gain of {label} {gain} nats per row over {gain.n} rows, 95 % "
        f"interval {gain.low:+.2f} to {gain.high:+.2f}; {100 * (1 - betted.level):g} % lower limit by betting, "
        f"whatever the tails: {betted.low:+.2f} ({_bets(betted, heldout)}); after the allowance {sure:+.2f}, needed "
        f"more than {TIE:.2f}",
    ]
    verdict = Verdict("undecided", "prior", "", why, chosen=chosen, exchange=exchange, heldout=gain, bet=betted)
    if not gain.stable:
        sentence = f"Undecided: {_unstable('held-out split', label, gain)}. Until then keep the prior."
        return replace(verdict, sentence=sentence)
    if not betted.passed or gain.value <= TIE:
        sentence = (
            f"Keep the prior: {label} looked best on the selection split, but held-out data do not confirm it "
            f"({unsigned(gain)} nats per row)."
        )
        return replace(verdict, decision="keep the prior", sentence=sentence)
    more = f"held-out data are {unsigned(gain)} nats per row more likely under it"
    if not exchange.informative:
        sentence = (
            f"Undecided: {label} looked best, and {more}, but the exchange check knows its shift only to within "
            f"{exchange.delta.stderr:.2f} nats. {MORE_ROWS}. Until then keep the prior."
        )
        return replace(verdict, sentence=sentence)
    if sure <= TIE:
        sentence = (
            f"Undecided: {label} looked best, and {more}, but by the exchange check up to {exchange.allowance:.2f} of "
            f"that may be an error of the estimate. {MORE_ROWS}. Until then keep the prior."
        )
        return replace(verdict, sentence=sentence)
    sentence = f"Draw z' from {label}, not from the prior: {more}."
    return replace(verdict, decision="leave the prior", choice=chosen.best, sentence=sentence)


def largest_group(study: Study, heldout: RowGains) -> float:
    """Rows that a group of the held-out split counts for at most in the bet: as many as the largest of the other two.

    Weights count as rows of mean weight. Where not all held-out rows were measured, in proportion. It depends on no
    held-out row, as `bet` asks.
    """
    if heldout.design.plain:
        return 1.0
    measured = len(heldout.ids) / study.heldout.n
    return max(1.0, measured * max(s.design.largest(s.n) for s in (study.train, study.selection)))


def _bets(betted: Bet, heldout: RowGains) -> str:
    """How many bets, and the most that one of them is about."""
    if heldout.design.plain:
        return f"{betted.n} bets"
    what = "group" if heldout.groups is not None else "row"
    unit = "rows" if heldout.weights is None else "rows of mean weight"
    return (
        f"{betted.n} bets, where no {what} counts for more than {betted.most:.3g} {unit}, the most in the training and "
        "selection splits"
    )


def _bet(candidates: Candidates, best: CandidateId, heldout: RowGains, gain: Gain, most: float) -> Bet:
    """Bet on a gain of held-out rows: with a share e of the prior no row's gain is below log e."""
    share = candidates.blends[best].epsilon
    bound = -math.log(share) if share > 0 else math.inf
    values, design = heldout.of(gain)[best], heldout.design
    return bet(values, heldout.ids, bound=bound, level=THRESHOLDS.bet, design=design, most=most)


def _without_decoder(verdict: Verdict, candidates: Candidates, heldout: RowGains, seed: int, most: float) -> Verdict:
    """What held-out codes say without a decoder: how much better they are coded, and not how likely the data are."""
    best = CandidateId.parse(verdict.best)
    if best == PRIOR:
        return verdict
    gain, betted = elbo_estimate(heldout, best, seed), _bet(candidates, best, heldout, Gain.ELBO, most)
    why = (
        f"held-out split: ELBO gain {gain} nats per row over {gain.n} rows, 95 % lower limit by betting "
        f"{betted.low:+.2f}; it is what coding gains with this encoder, and decides nothing"
    )
    return replace(verdict, heldout=gain, bet=betted, why=[*verdict.why, why])


def _doubt(chosen: Choice, exchange: Exchange | None, label: str) -> str:
    """Why the likelihood gain may not be used, and what would settle it; empty where it may."""
    if chosen.gain is not Gain.LIKELIHOOD:
        return f"the likelihood gain was not measured. {NO_DECODER}"
    if chosen.best == str(PRIOR):
        unsure = [r for r in chosen.ranking if not r.gain.stable and r.gain.high > chosen.selection.value]
        if not unsure:
            return ""
        worst = max(unsure, key=lambda r: r.gain.high)
        return _unstable("selection split", worst.name, worst.gain)
    if not chosen.selection.stable:
        return _unstable("selection split", label, chosen.selection)
    if exchange is None and chosen.unchecked:
        return (
            f"{label} looked best, but the exchange check cannot be made: {chosen.unchecked}. No likelihood gain is "
            "used without it"
        )
    if exchange is None:
        return "the exchange check was left out, and no likelihood gain is used without it. Ask for it (--exchange)"
    if exchange.failed:
        return (
            f"{label} looked best, but the likelihood gain fails the exchange check: on rows that the model made it is "
            f"overstated by {-exchange.delta.value:.2f} ± {exchange.delta.stderr:.2f} nats. {BETTER_ENCODER}"
        )
    return ""


def _unstable(split: str, label: str, gain: Estimate) -> str:
    """What an estimate that failed its own check says, and what would settle it."""
    if gain.stderr is None or not math.isfinite(gain.stderr):
        return f"on the {split} the gain of {label} cannot be judged ({gain.because}). {MORE}"
    return f"on the {split} the likelihood gain of {label} {gain.because}. {MORE_DRAWS}"


def _undecided(doubt: str, chosen: Choice, exchange: Exchange | None, label: str) -> Verdict:
    sentence = f"Undecided: {doubt}. Until then keep the prior."
    return Verdict("undecided", "prior", sentence, _why(chosen, exchange, label), chosen=chosen, exchange=exchange)


def _why(chosen: Choice, exchange: Exchange | None, label: str) -> list[str]:
    """What was found before the held-out split was opened."""
    why = [
        f"selection split: {label} chosen by its {chosen.gain.words}, {chosen.selection} nats per row over "
        f"{chosen.selection.n} rows"
    ]
    if exchange is not None:
        why.append(told(exchange))
    return why


def told(exchange: Exchange) -> str:
    """The exchange check in one line."""
    state = "passed" if exchange.passed else "failed" if exchange.failed else "too inaccurate"
    if exchange.understated:
        state += " (the gain is understated)"
    through = f", over {exchange.bridges} bridges" if exchange.bridges else ""
    return (
        f"exchange check {state}: shift {exchange.delta} nats on {exchange.rows} rows simulated from each{through}; "
        f"allowance {exchange.allowance:.2f}; mean gain {exchange.on_prior} on rows from the prior (at most 0 if "
        f"exact), {exchange.on_candidate} on rows from the candidate (at least 0)"
    )

"""The verdict by likelihood: chosen on the selection split, confirmed once on the held-out split.

The rule of docs/theory.md, section 3, step by step:

1. On the selection split take the best; among the candidates whose paired difference to the best is below
   max(1 s.e. of that difference, 0.05 nats) take the one that stores least (`Ranking`; the prior stores nothing).
2. Open the held-out split once, for that one: leave the prior only if its gain exceeds max(2 s.e., 0.05 nats).
3. One gain serves all candidates: the likelihood gain, where it is stable for all of them on the selection split.
   It is stable if its mean moves by less than max(1 s.e., 0.05 nats) from K/4 to K draws.
4. If it is not stable, leave the prior only if both ELBO gain and exact-posterior gain say so; else the verdict is
   undecided.
"""

import math
from dataclasses import replace

from zprime.latent.selection import TIE, RowScores, paired, smallest_of_best
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import PRIOR, RowGains
from zprime.measure.likelihood.scores import elbo_estimate, exact_posterior_estimate, likelihood_estimate
from zprime.measure.verdicts.decision import needed
from zprime.results.names import CandidateId, Gain
from zprime.results.verdicts import Ranking, Verdict
from zprime.statistics.estimate import Estimate

BOTH = [Gain.ELBO, Gain.EXACT_POSTERIOR]


def decide(candidates: Candidates, selection: RowGains, heldout: RowGains, *, seed: int) -> Verdict:
    """Apply the rule.

    Args:
        candidates: the prior, and all that may be chosen.
        selection: gains on the selection split, which the choice is made from.
        heldout: gains on the held-out split, which confirm it or not.
        seed: of the draws behind the gains.
    """
    measured = all(i in selection.likelihood for i in candidates.eligible)
    likelihoods = {i: likelihood_estimate(selection, i, seed) for i in candidates.eligible} if measured else {}
    stable = measured and all(e.stable for e in likelihoods.values())
    # where the likelihood gain is not stable, the ELBO gain chooses: the stricter of the two that are left
    ranking, best = _rank(candidates, selection, likelihoods, seed, gain=Gain.LIKELIHOOD if stable else Gain.ELBO)
    label = candidates.distribution(best).label
    doubt = "" if stable else _doubt(likelihoods)
    if stable and best == PRIOR:
        verdict = _nothing_better()
    elif stable:
        confirmed = likelihood_estimate(heldout, best, seed)
        if confirmed.stable:
            verdict = _by_likelihood(str(best), label, likelihoods[best], confirmed)
        else:
            doubt = f"on the held-out split the likelihood gain of {best} {confirmed.because}"
            verdict = _by_both(best, label, heldout, doubt, seed)
    elif best == PRIOR:
        verdict = _undecided_for_prior(doubt)
    else:
        verdict = _by_both(best, label, heldout, doubt, seed)
    return replace(verdict, ranking=ranking)


def _rank(
    candidates: Candidates, selection: RowGains, likelihoods: dict[CandidateId, Estimate], seed: int, *, gain: Gain
) -> tuple[list[Ranking], CandidateId]:
    """Every candidate beside the best on the selection split, and the smallest of those that tie with it."""
    ids = candidates.eligible
    values = {i: selection.of(gain)[i] for i in ids}
    sizes = {i: candidates.distribution(i).bytes for i in ids}
    chosen = ids[smallest_of_best([RowScores(values[i]) for i in ids], [sizes[i] for i in ids])]
    top = max(ids, key=lambda i: float(values[i].mean()))
    ranking = []
    for i in ids:
        behind, stderr = paired(values[top], values[i])
        limit = max(TIE, stderr if math.isfinite(stderr) else 0.0)
        estimate = likelihoods[i] if gain is Gain.LIKELIHOOD else elbo_estimate(selection, i, seed)
        tied = i == top or behind < limit
        ranking.append(Ranking(str(i), sizes[i], estimate, behind, stderr, limit, tied, likelihoods.get(i)))
    return ranking, chosen


def _doubt(likelihoods: dict[CandidateId, Estimate]) -> str:
    if not likelihoods:
        return "the likelihood gain was not measured (no decoder)"
    bad = [f"{i} {e.because}" for i, e in likelihoods.items() if not e.stable]
    return "the likelihood gain is not stable on the selection split: " + "; ".join(bad)


def _nothing_better() -> Verdict:
    return Verdict(
        "keep the prior",
        "prior",
        "Keep the prior: nothing tried here is measurably better than N(0, I).",
        ["on the selection split no candidate's likelihood gain is above the prior's by more than its own error"],
        best="prior",
        gains=[Gain.LIKELIHOOD],
    )


def _undecided_for_prior(doubt: str) -> Verdict:
    return Verdict(
        "undecided",
        "prior",
        "Undecided: no candidate's ELBO gain is measurably above the prior's, and there is no stable likelihood gain. "
        "A narrow r can be better than the prior although its ELBO gain is not. Keep the prior until more draws, or a "
        "decoder, settle it.",
        [doubt, "on the selection split no candidate's ELBO gain is above the prior's by more than its own error"],
        best="prior",
        gains=BOTH,
    )


def _by_likelihood(best: str, label: str, chosen: Estimate, confirmed: Estimate) -> Verdict:
    least = needed(confirmed, TIE)
    why = [
        f"selection split: {label} gains {chosen} nats per row over the prior, {chosen.n} rows; "
        "the best, or tied with it and smaller",
        f"held-out split, opened once: {confirmed} nats per row, {confirmed.n} rows; needed more than {least:.2f}",
        confirmed.because,
    ]
    if confirmed.value > least:
        decision, choice = "leave the prior", best
        sentence = (
            f"Draw z' from {label}, not from the prior: held-out data are {confirmed.value:.2f} ± "
            f"{confirmed.stderr:.2f} nats per row more likely under it."
        )
    else:
        decision, choice = "keep the prior", "prior"
        sentence = f"Keep the prior: {label} looked best on the selection split, but held-out data do not confirm it."
    return Verdict(
        decision,
        choice,
        sentence,
        why,
        best=best,
        gains=[Gain.LIKELIHOOD],
        numbers={"selection": chosen, "heldout": confirmed},
        needed={"heldout": least},
    )


def _by_both(best: CandidateId, label: str, heldout: RowGains, doubt: str, seed: int) -> Verdict:
    numbers = {Gain.ELBO.words: elbo_estimate(heldout, best, seed)}
    if best in heldout.exact_posterior:
        numbers[Gain.EXACT_POSTERIOR.words] = exact_posterior_estimate(heldout, best, seed)
    least = {n: needed(e, TIE) for n, e in numbers.items()}
    why = [doubt] + [
        f"held-out split: {n} of {label} is {e} nats per row, {e.n} rows; needed more than {least[n]:.2f}"
        + (f" ({e.because})" if not e.stable else "")
        for n, e in numbers.items()
    ]
    if len(numbers) == 2 and all(e.stable and e.value > least[n] for n, e in numbers.items()):
        decision, choice = "leave the prior", str(best)
        sentence = (
            f"Draw z' from {label}, not from the prior: its ELBO gain and its exact-posterior gain on held-out data "
            "agree."
        )
    else:
        decision, choice = "undecided", "prior"
        sentence = (
            f"Undecided: {label} looked best, but the likelihood gain is not stable here, and ELBO gain and "
            "exact-posterior gain do not agree. Until more draws or rows settle it, keep the prior."
        )
    return Verdict(decision, choice, sentence, why, best=str(best), gains=BOTH, numbers=numbers, needed=least)

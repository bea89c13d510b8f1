"""The verdict by likelihood: chosen on the selection split, confirmed once on the held-out split.

The rule of docs/theory.md, section 3, sentence by sentence:

1. On the selection split take the best; among the candidates whose paired difference to the best is below
   max(1 s.e. of that difference, 0.05 nats) take the one that stores least (`Ranking`; the prior stores nothing).
2. Open the held-out split once, for that one: leave the prior only if its gain exceeds max(2 s.e., 0.05 nats).
3. One rung serves all candidates: the likelihood gain, where it is stable for all of them on the selection split.
   It is stable when its mean moves by less than max(1 s.e., 0.05 nats) from K/4 to K draws.
4. If it is not stable, leave the prior only if ELBO gain and exact-posterior gain both say so; else the verdict is undecided.
"""

import math
from dataclasses import replace

from zprime.latent.selection import TIE, RowScores, paired, smallest_of_best
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import DIVERGE, RowGains, moved
from zprime.measure.verdicts.decision import needed
from zprime.results.verdicts import Ranking, Verdict
from zprime.statistics.estimate import Estimate, finite_mean, mean_estimate

UNIT = "nats per row"
BOTH = "ELBO and exact-posterior gain"


def likelihood_estimate(ladder: RowGains, name: str, seed: int) -> Estimate:
    """Rung (c) of one blend, stable if its mean moved by less than max(1 s.e., 0.05 nats) from K/4 to K draws."""
    e = mean_estimate(ladder.likelihood[name], unit=UNIT, split=ladder.split, seed=seed)
    if name == "prior":
        return e
    return moved(e, ladder.likelihood[name], ladder.quarter[name], ladder.draws)


def exact_posterior_estimate(ladder: RowGains, name: str, seed: int) -> Estimate:
    """Rung (b) of one blend over the rows where it is finite; stable if it is so on all of them.

    Where it is an importance estimate, it has to stand still from K/4 to K draws too.
    """
    values = ladder.evidence[name]
    sampled = name in ladder.exact_posterior_quarter
    e = finite_mean(values, unit=UNIT, split=ladder.split, seed=seed if sampled else None, because=DIVERGE)
    if not sampled or not e.stable:
        return e
    e = moved(e, values, ladder.exact_posterior_quarter[name], ladder.draws)
    return replace(e, because=f"no closed form, by importance sampling: {e.because}")


def decide(candidates: Candidates, selection: RowGains, heldout: RowGains, *, seed: int) -> Verdict:
    """Apply the rule."""
    climbed = all(n in selection.likelihood for n in candidates.eligible)
    likelihoods = {n: likelihood_estimate(selection, n, seed) for n in candidates.eligible} if climbed else {}
    stable = climbed and all(e.stable for e in likelihoods.values())
    # where the likelihood gain is not stable, the ELBO gain chooses: the stricter of the two that are left
    ranking, best = _stand(candidates, selection, likelihoods, seed, rung="likelihood" if stable else "code")
    label = candidates.distributions[best].label
    doubt = "" if stable else _doubt(likelihoods)
    if stable and best == "prior":
        found = _nothing_better()
    elif stable:
        confirmed = likelihood_estimate(heldout, best, seed)
        if confirmed.stable:
            found = _by_likelihood(best, label, likelihoods[best], confirmed)
        else:
            doubt = f"on the held-out split the likelihood gain of {best} {confirmed.because}"
            found = _by_both(best, label, heldout, doubt, seed)
    elif best == "prior":
        found = _undecided_for_prior(doubt)
    else:
        found = _by_both(best, label, heldout, doubt, seed)
    return replace(found, ranking=ranking)


def _stand(
    candidates: Candidates, selection: RowGains, likelihoods: dict[str, Estimate], seed: int, *, rung: str
) -> tuple[list[Ranking], str]:
    """Every candidate beside the best on the selection split, and the smallest of those that tie with it."""
    names = candidates.eligible
    values = {n: getattr(selection, rung)[n] for n in names}
    sizes = {n: candidates.distributions[n].bytes for n in names}
    chosen = names[smallest_of_best([RowScores(values[n]) for n in names], [sizes[n] for n in names])]
    top = max(names, key=lambda n: float(values[n].mean()))
    out = []
    for n in names:
        behind, stderr = paired(values[top], values[n])
        limit = max(TIE, stderr if math.isfinite(stderr) else 0.0)
        gain = likelihoods[n] if rung == "likelihood" else _mean(selection, rung, n, seed)
        tied = n == top or behind < limit
        out.append(Ranking(n, sizes[n], gain, behind, stderr, limit, tied, likelihoods.get(n)))
    return out, chosen


def _mean(ladder: RowGains, rung: str, name: str, seed: int) -> Estimate:
    return mean_estimate(getattr(ladder, rung)[name], unit=UNIT, split=ladder.split, seed=seed)


def _doubt(likelihoods: dict[str, Estimate]) -> str:
    if not likelihoods:
        return "the likelihood gain was not measured (no decoder)"
    bad = [f"{n} {e.because}" for n, e in likelihoods.items() if not e.stable]
    return "the likelihood gain is not stable on the selection split: " + "; ".join(bad)


def _nothing_better() -> Verdict:
    return Verdict(
        "keep the prior",
        "prior",
        "Keep the prior: nothing tried here is measurably better than N(0, I).",
        ["on the selection split no candidate's likelihood gain is above the prior's by more than its own error"],
        best="prior",
        rung="likelihood gain",
    )


def _undecided_for_prior(doubt: str) -> Verdict:
    return Verdict(
        "undecided",
        "prior",
        "Undecided: no candidate's ELBO gain is measurably above the prior's, which a sharp r can fail at and still be "
        "better, and there is no likelihood gain to trust. Until more draws, or a decoder, settle it, keep the prior.",
        [doubt, "on the selection split no candidate's ELBO gain is above the prior's by more than its own error"],
        best="prior",
        rung=BOTH,
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
        rung="likelihood gain",
        evidence={"selection": chosen, "heldout": confirmed},
        needed={"heldout": least},
    )


def _by_both(best: str, label: str, heldout: RowGains, doubt: str, seed: int) -> Verdict:
    numbers = {"ELBO gain": _mean(heldout, "code", best, seed)}
    if best in heldout.evidence:
        numbers["exact-posterior gain"] = exact_posterior_estimate(heldout, best, seed)
    least = {n: needed(e, TIE) for n, e in numbers.items()}
    why = [doubt] + [
        f"held-out split: {n} of {label} is {e} nats per row, {e.n} rows; needed more than {least[n]:.2f}"
        + (f" ({e.because})" if not e.stable else "")
        for n, e in numbers.items()
    ]
    if len(numbers) == 2 and all(e.stable and e.value > least[n] for n, e in numbers.items()):
        decision, choice = "leave the prior", best
        sentence = f"Draw z' from {label}, not from the prior: its ELBO gain and its exact-posterior gain on held-out data agree."
    else:
        decision, choice = "undecided", "prior"
        sentence = (
            f"Undecided: {label} looked best, but the likelihood gain cannot be stable here and the code and evidence "
            "gains do not agree. Until more draws or rows settle it, keep the prior."
        )
    return Verdict(decision, choice, sentence, why, best=best, rung=BOTH, evidence=numbers, needed=least)

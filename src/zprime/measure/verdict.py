"""The verdict by likelihood: chosen on the selection split, confirmed once on the held-out split.

The rule of the theory page, section 3: on the selection split take the best; among the candidates whose paired
difference to the best is below max(1 s.e., 0.05 nats) take the one that stores least; open the held-out split for that
one, and leave the prior only if its gain exceeds max(2 s.e., 0.05 nats). One rung serves all candidates: the
likelihood gain where it is trusted for all of them, else the code and evidence gains, which must both say so.
"""

from dataclasses import dataclass, field

from torch import Tensor

from zprime.latent.choose import TIE, smallest_of_best
from zprime.measure.estimate import Estimate, mean_estimate
from zprime.measure.ladder import Ladder
from zprime.measure.panel import Panel

UNIT = "nats per row"


@dataclass(frozen=True)
class Verdict:
    """What to draw z' from, by likelihood.

    Attributes:
        decision: `leave the prior`, `keep the prior` or `undecided`.
        choice: name of the latent distribution to use; `prior` unless the decision is to leave it.
        best: the candidate chosen on the selection split, which the held-out split was opened for.
        rung: `likelihood gain`, or `code and evidence gain` where the former is not trusted.
        sentence: the verdict in words, to act on.
        why: the numbers it rests on, in words.
        evidence: those numbers.
    """

    decision: str
    choice: str
    best: str
    rung: str
    sentence: str
    why: list[str] = field(default_factory=list)
    evidence: dict[str, Estimate] = field(default_factory=dict)


def likelihood_estimate(ladder: Ladder, name: str, seed: int) -> Estimate:
    """Rung (c) of one view, trusted if its mean moved by less than max(1 s.e., 0.05 nats) from K/4 to K draws."""
    e = mean_estimate(ladder.likelihood[name], unit=UNIT, split=ladder.split, seed=seed)
    if name == "prior":
        return e
    moved = float(ladder.likelihood[name].mean() - ladder.quarter[name].mean())
    limit = max(e.stderr or 0.0, TIE)
    because = f"moved {moved:+.3f} nats from {ladder.draws // 4} to {ladder.draws} draws (limit {limit:.3f})"
    trusted = e.trusted and abs(moved) < limit
    return Estimate(e.value, e.stderr, e.low, e.high, e.n, e.unit, e.split, e.seed, trusted, because)


def decide(panel: Panel, selection: Ladder, heldout: Ladder, *, seed: int) -> Verdict:
    """Apply the rule."""
    names = panel.eligible
    sizes = [panel.candidates[n].bytes for n in names]
    climbed = all(n in selection.likelihood for n in names)
    trusted = climbed and all(likelihood_estimate(selection, n, seed).trusted for n in names)
    if trusted:
        scores = [selection.likelihood[n] for n in names]
    else:
        # the code gain is the stricter of the two that are left
        scores = [selection.code[n] for n in names]
    best = names[smallest_of_best(scores, sizes)]
    doubt = "" if trusted else _doubt(panel, selection, seed, climbed=climbed)
    if trusted and best != "prior":
        confirmed = likelihood_estimate(heldout, best, seed)
        if confirmed.trusted:
            return _by_likelihood(best, panel.candidates[best].label, selection, confirmed, seed)
        doubt = f"on the held-out split the likelihood gain of {best} {confirmed.because}"
    if best == "prior":
        rung = "likelihood gain" if trusted else "code gain"
        why = [f"on the selection split no candidate's {rung} is above the prior's by more than its own error"] + (
            [doubt] if doubt else []
        )
        return Verdict(
            "keep the prior",
            "prior",
            "prior",
            rung,
            "Keep the prior: nothing tried here is measurably better than N(0, I).",
            why,
        )
    return _by_both(best, panel.candidates[best].label, heldout, doubt, seed)


def _doubt(panel: Panel, ladder: Ladder, seed: int, *, climbed: bool) -> str:
    if not climbed:
        return "the likelihood gain was not measured (no decoder)"
    bad = {
        n: likelihood_estimate(ladder, n, seed).because
        for n in panel.eligible
        if not likelihood_estimate(ladder, n, seed).trusted
    }
    return "the likelihood gain is not trusted on the selection split: " + "; ".join(f"{n} {b}" for n, b in bad.items())


def _limit(e: Estimate) -> float:
    return max(2 * (e.stderr or 0.0), TIE)


def _by_likelihood(best: str, label: str, selection: Ladder, confirmed: Estimate, seed: int) -> Verdict:
    chosen = likelihood_estimate(selection, best, seed)
    why = [
        f"selection split: {label} gains {chosen} nats per row over the prior, {chosen.n} rows; "
        "the best, or tied with it and smaller",
        f"held-out split, opened once: {confirmed} nats per row, {confirmed.n} rows; "
        f"needed more than {_limit(confirmed):.2f}",
        confirmed.because,
    ]
    evidence = {"selection": chosen, "heldout": confirmed}
    if confirmed.value > _limit(confirmed):
        sentence = (
            f"Draw z' from {label}, not from the prior: held-out data are {confirmed.value:.2f} ± "
            f"{confirmed.stderr:.2f} nats per row more likely under it."
        )
        return Verdict("leave the prior", best, best, "likelihood gain", sentence, why, evidence)
    sentence = f"Keep the prior: {label} looked best on the selection split, but held-out data do not confirm it."
    return Verdict("keep the prior", "prior", best, "likelihood gain", sentence, why, evidence)


def _by_both(best: str, label: str, heldout: Ladder, doubt: str, seed: int) -> Verdict:
    def estimate(values: dict[str, Tensor]) -> Estimate | None:
        return mean_estimate(values[best], unit=UNIT, split=heldout.split, seed=seed) if best in values else None

    code, evidence = estimate(heldout.code), estimate(heldout.evidence)
    said = [(n, e) for n, e in (("code gain", code), ("evidence gain", evidence)) if e is not None]
    why = [doubt] + [
        f"held-out split: {n} of {label} is {e} nats per row, {e.n} rows; needed more than {_limit(e):.2f}"
        for n, e in said
    ]
    numbers = dict(said)
    rung = "code and evidence gain"
    if evidence is not None and all(e.trusted and e.value > _limit(e) for _, e in said):
        sentence = (
            f"Draw z' from {label}, not from the prior: its code gain and its evidence gain on held-out data agree."
        )
        return Verdict("leave the prior", best, best, rung, sentence, why, numbers)
    sentence = (
        f"Undecided: {label} looked best, but the likelihood gain cannot be trusted here and the code and evidence "
        "gains do not agree. Until more draws or rows settle it, keep the prior."
    )
    return Verdict("undecided", "prior", best, rung, sentence, why, numbers)

"""The verdict for generation, beside the verdict by likelihood: where to draw z' from to generate x'.

1. A candidate whose samples copy is dropped (`copying`). If the controls of the copying test fail, the verdict is
   undecided.
2. On the selection split: a candidate that covers measurably less of the data than the prior is dropped (coverage lower
   by more than 2 s.e., or a label missing that the prior's samples have). Of the rest, take the smallest Frechet
   distance; candidates whose paired difference to it is below max(1 s.e., 2 % of the prior's distance) tie with it. Of
   these, a candidate is dropped if its coverage is below the largest of them by more than 2 s.e. (or it lacks a label
   that the other has): blurred samples can have the right moments.
3. Among ties: the best accuracy of train-on-synthetic, test-on-real (TSTR) where there are labels; accuracies within
   max(1 s.e., 1 point) of it tie again. Then the candidate that stores least; the prior stores nothing.
4. Open the held-out split once, with fresh draws: leave the prior only if the Frechet distance falls by more than max(2
   s.e., 2 % of the prior's) and the coverage does not fall by more than 2 s.e.
5. If the choice of z' closes less than a quarter of what separates reconstructions from real rows, none of these is the
   answer: encoder or decoder is the problem.
"""

from collections.abc import Callable
from dataclasses import replace

from zprime.latent.selection import RowScores, near_best
from zprime.measure.samples.contender import Contender, Controls
from zprime.measure.samples.fidelity import Compared
from zprime.measure.samples.manifold import NAMES
from zprime.measure.verdicts.decision import needed
from zprime.results.thresholds import THRESHOLDS
from zprime.results.verdicts import GenerationVerdict
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import unsigned
from zprime.statistics.resampling import About

COVERAGE = NAMES.index("coverage")


def decide_generation(
    contenders: list[Contender], confirm: Callable[[str], Compared], controls: Controls, *, space: str, seed: int
) -> GenerationVerdict:
    """Apply the rule.

    Args:
        contenders: the prior, called `prior`, and all that may be chosen.
        confirm: fresh draws of a candidate beside held-out rows.
        controls: reconstructions and real rows beside held-out rows, and whether the copying test may be relied on.
        space: name of the feature space, for the sentences.
        seed: for the estimates.
    """
    prior = next(r for r in contenders if r.name == "prior")
    ranking = _rank(contenders, prior)
    best = _pick([r for r in contenders if ranking[r.name] in ("best", "tied")])
    first, chosen = confirm("prior"), confirm(best.name)
    about = About(first.fidelity.frechet.n, "heldout", seed)
    unit = "squared feature units"
    numbers = {
        "prior": first.fidelity.frechet,
        "choice": chosen.fidelity.frechet,
        "reconstructions": controls.reconstructions.fidelity.frechet,
        "real rows": controls.real.fidelity.frechet,
        "gain": (first.frechet - chosen.frechet).estimate(0, about, unit=unit),
        "coverage gain": (chosen.manifold - first.manifold).estimate(COVERAGE, about, unit="proportion of rows"),
        "decoder": (controls.reconstructions.frechet - controls.real.frechet).estimate(0, about, unit=unit),
    }
    verdict = _judge(best, numbers, tested=controls.tested, space=space)
    return replace(verdict, why=[*_why(contenders, ranking, best), *verdict.why], ranking=ranking, numbers=numbers)


def _rank(contenders: list[Contender], prior: Contender) -> dict[str, str]:
    """Steps 1 and 2."""
    ranking: dict[str, str] = {}
    left: list[Contender] = []
    for r in contenders:
        if r.copies == "copies" and r is not prior:
            ranking[r.name] = "copies"
        elif r is not prior and _loses(r, prior):
            ranking[r.name] = "loses modes"
        else:
            left.append(r)
    nearest = min(left, key=_distance)
    tied = [nearest]
    for r in left:
        behind = r.compared.frechet - nearest.compared.frechet
        limit = max(float(behind.stderr()[0]), THRESHOLDS.frechet * _distance(prior))
        if r is not nearest and float(behind.whole[0]) < limit:
            tied.append(r)
    widest = max(tied, key=lambda r: float(r.compared.manifold.whole[COVERAGE]))
    kept = [r for r in tied if not _loses(r, widest)]
    best = min(kept, key=_distance)
    for r in left:
        ranking[r.name] = "best" if r is best else "tied" if r in kept else "covers less" if r in tied else "behind"
    return {r.name: ranking[r.name] for r in contenders}


def _distance(r: Contender) -> float:
    """Frechet distance to rows of the selection split."""
    return float(r.compared.frechet.whole[0])


def _loses(r: Contender, other: Contender) -> bool:
    """Whether it covers measurably less than another does."""
    lost = other.compared.manifold - r.compared.manifold
    fewer = float(lost.whole[COVERAGE]) > THRESHOLDS.errors * float(lost.stderr()[COVERAGE])
    return fewer or bool(set(r.missing) - set(other.missing))


def _pick(tied: list[Contender]) -> Contender:
    """Step 3."""
    labelled = [r for r in tied if r.right is not None]
    if labelled:
        scores = [RowScores(r.right.double()) for r in labelled if r.right is not None]
        tied = [labelled[i] for i in near_best(scores, THRESHOLDS.accuracy)]
    return min(tied, key=lambda r: (r.bytes, _distance(r)))


def _judge(best: Contender, numbers: dict[str, Estimate], *, tested: bool, space: str) -> GenerationVerdict:
    """Steps 4 and 5."""
    gain, decoder, lost = numbers["gain"], numbers["decoder"], numbers["coverage gain"]
    least = needed(gain, THRESHOLDS.frechet * numbers["prior"].value)
    distance = f"Frechet distance to held-out rows ({space} features)"
    of = {name: unsigned(e) for name, e in numbers.items()}
    chosen = "" if best.name == "prior" else f"{best.label} {of['choice']}, "
    why = [
        f"{distance}: prior {of['prior']}, {chosen}reconstructions {of['reconstructions']}, real rows "
        f"{of['real rows']}; {numbers['prior'].n} rows in each sample"
    ]
    if not tested:
        sentence = (
            "Undecided: the controls of the copying test gave the wrong answer, so that no candidate can be cleared of "
            "copying. More held-out rows would settle it; until then keep the prior."
        )
        return GenerationVerdict("undecided", "prior", sentence, why)
    confirmed = best.name != "prior" and gain.value > least
    covers = lost.value >= -THRESHOLDS.errors * (lost.stderr or 0.0)  # equal coverage without error is no loss
    choice = best.name if confirmed and covers else "prior"
    if best.name != "prior":
        why.append(
            f"held-out split, opened once, with fresh draws: the distance falls by {of['gain']} (needed more than "
            f"{least:.3g}), coverage changes by {lost}"
        )
    if decoder.low > 0 and max(gain.value, 0.0) < THRESHOLDS.closes * decoder.value:
        sentence = (
            f"None of these: your encoder or decoder is the problem. Reconstructions of rows it has not seen are "
            f"{of['decoder']} farther from held-out rows than real rows are, and the choice of z' changes {of['gain']} "
            f"of that at best. Train for longer, with more latents or a larger network; of what there is, "
            f"{'keep the prior' if choice == 'prior' else f'{best.label} is the best'}."
        )
        return GenerationVerdict("none of these", choice, sentence, why)
    if choice != "prior":
        sentence = (
            f"Generate from {best.label}, not from the prior: its samples do not copy, and their Frechet distance to "
            f"held-out data ({space} features) is {of['choice']} where the prior's is {of['prior']} (a difference of "
            f"{of['gain']})."
        )
        return GenerationVerdict("leave the prior", choice, sentence, why)
    if confirmed:
        sentence = (
            f"Undecided: samples of {best.label} are nearer to held-out data than the prior's, but cover less of them. "
            "Until more rows settle it, keep the prior."
        )
        return GenerationVerdict("undecided", "prior", sentence, why)
    if best.name == "prior":
        sentence = "Keep the prior: no candidate that neither copies nor loses modes makes measurably better samples."
    else:
        sentence = f"Keep the prior: {best.label} looked best on the selection split; held-out data do not confirm it."
    return GenerationVerdict("keep the prior", "prior", sentence, why)


def _why(contenders: list[Contender], ranking: dict[str, str], best: Contender) -> list[str]:
    """Which candidates are dropped, and how the choice among the rest was made."""
    labels = {r.name: r.label for r in contenders}
    why = []
    for state, words in (
        ("copies", "copies training rows"),
        ("loses modes", "loses part of the data"),
        ("covers less", "is as near to the data as the best, but covers less of them"),
    ):
        why += [f"{labels[n]} {words}, and is dropped" for n, s in ranking.items() if s == state]
    ties = [labels[n] for n, s in ranking.items() if s in ("best", "tied")]
    if len(ties) > 1:
        by = "the best by TSTR, or tied with it and smallest" if best.right is not None else "the smallest of them"
        why.append(f"tied on the selection split: {', '.join(ties)}; {best.label} is {by}")
    return why

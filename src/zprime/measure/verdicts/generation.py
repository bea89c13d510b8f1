"""The verdict for generation, beside the verdict by likelihood: where to draw z' from to generate x'.

1. A candidate whose samples copy is dropped (`copying`), and one that is not cleared: copies above the limit cannot be
   excluded. If the controls of the copying test fail, the verdict is undecided.
2. On the selection split: a candidate that covers measurably less of the data than the prior is dropped (coverage lower
   by more than 2 s.e., or a label missing that the prior's samples have). Of the rest, take the smallest Frechet
   distance; candidates whose paired difference to it is below max(1 s.e., 2 % of the prior's distance) tie with it. Of
   these, a candidate is dropped if its coverage is below the largest of them by more than 2 s.e. (or it lacks a label
   that the other has): blurred samples can have the right moments.
3. Among ties: the best accuracy of train-on-synthetic, test-on-real (TSTR) where there are labels; accuracies within
   max(1 s.e., 1 point) of it tie again. Then one that stores no single rows before one that does, and of those
   the candidate that stores least; the prior stores nothing.
4. Open the held-out split once, with fresh draws of the prior and of the chosen candidate: leave the prior only if the
   Frechet distance falls by more than max(2 s.e., 2 % of the prior's), the coverage does not fall by more than 2 s.e.,
   and the fresh draws are cleared of copying.
5. If reconstructions are farther from the data than real rows are (the decoder's part of the distance), and the choice
   of z' closes less than a quarter of that, none of these is the answer. The sentence names the decoder's part and what
   samples are farther than reconstructions, the latent distribution's part, each with its error.
6. If the decoder ignores z, the choice of z' hardly changes anything. If samples of the prior copy too, it is not
   praised.

Steps 1 to 3 read the selection split only. The prior is left for an equal candidate with about 2.5 % in step 4 (2 s.e.,
one-sided), however it was chosen. A candidate with a share of copies at the limit or above is cleared beside either
split with 5 % at most, and so beside both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from zprime.latent.selection import RowScores, near_best
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.manifold import NAMES
from zprime.measure.verdicts.decision import needed
from zprime.results.thresholds import THRESHOLDS
from zprime.results.verdicts import GenerationVerdict, worst
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import unsigned
from zprime.statistics.resampling import About

ADVICE = {
    "decoder": "The larger part is the decoder's: your encoder or decoder is the problem. Train for longer, with more "
    "latents or a larger network.",
    "latents": "The larger part is the latent distribution's: fit other kinds, or larger ones, before you change the "
    "model.",
    "both": "Neither is measurably the larger: fit other kinds, and train for longer, with more latents or a larger "
    "network.",
}

COVERAGE = NAMES.index("coverage")


def decide_generation(
    contenders: list[Contender], confirm: Callable[[str], Confirmed], controls: Controls, *, space: str, seed: int
) -> GenerationVerdict:
    """Apply the rule.

    Args:
        contenders: the prior, called `prior`, and all that may be chosen.
        confirm: fresh draws of a candidate beside held-out rows; asked for the prior and the chosen one only.
        controls: reconstructions and real rows beside held-out rows, and whether the copying test may be relied on.
        space: name of the feature space, for the sentences.
        seed: for the estimates.
    """
    prior = next(r for r in contenders if r.name == "prior")
    ranking = _rank(contenders, prior)
    best = _pick([r for r in contenders if ranking[r.name] in ("best", "tied")])
    first = confirm("prior")
    chosen = first if best is prior else confirm(best.name)
    found = _Found(best, prior, first, chosen, controls, ranking, _numbers(first, chosen, controls, seed))
    verdict = _judge(found, space=space)
    return replace(
        verdict,
        why=[*_why(contenders, ranking, best), *verdict.why],
        ranking=ranking,
        numbers=found.numbers,
        best=best.name,
        copying={r.name: c.copies if controls.tested else "untested" for r, c in ((prior, first), (best, chosen))},
    )


@dataclass(frozen=True)
class _Found:
    """What steps 4 to 6 look at."""

    best: Contender
    prior: Contender
    first: Confirmed
    chosen: Confirmed
    controls: Controls
    ranking: dict[str, str]
    numbers: dict[str, Estimate]

    @property
    def prior_copies(self) -> str:
        """Status of the prior: the worse of the two splits."""
        return worst(self.prior.copies, self.first.copies)


def _numbers(first: Confirmed, chosen: Confirmed, controls: Controls, seed: int) -> dict[str, Estimate]:
    """All on the held-out split; differences with their paired errors."""
    about = About(first.compared.fidelity.frechet.n, "heldout", seed)
    unit = "squared feature units"
    prior, choice = first.compared.frechet, chosen.compared.frechet
    made, real = controls.reconstructions.frechet, controls.real.frechet
    covers = chosen.compared.manifold - first.compared.manifold
    return {
        "prior": first.compared.fidelity.frechet,
        "choice": chosen.compared.fidelity.frechet,
        "reconstructions": controls.reconstructions.fidelity.frechet,
        "real rows": controls.real.fidelity.frechet,
        "gain": (prior - choice).estimate(0, about, unit=unit),
        "coverage gain": covers.estimate(COVERAGE, about, unit="proportion of rows"),
        "decoder": (made - real).estimate(0, about, unit=unit),
        "latents": (choice - made).estimate(0, about, unit=unit),
        "latents of the prior": (prior - made).estimate(0, about, unit=unit),
        "excess": ((choice - made) - (made - real)).estimate(0, about, unit=unit),
        "excess of the prior": ((prior - made) - (made - real)).estimate(0, about, unit=unit),
    }


def _rank(contenders: list[Contender], prior: Contender) -> dict[str, str]:
    """Steps 1 and 2."""
    ranking: dict[str, str] = {}
    left: list[Contender] = []
    for r in contenders:
        if r.copies == "copies" and r is not prior:
            ranking[r.name] = "copies"
        elif r.copies == "untested" and r is not prior:
            ranking[r.name] = "not cleared"
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
    return min(tied, key=lambda r: (r.holds_rows, r.bytes, _distance(r)))


def _judge(found: _Found, *, space: str) -> GenerationVerdict:
    """Steps 4 to 6."""
    best, numbers, controls = found.best, found.numbers, found.controls
    gain, decoder, lost = numbers["gain"], numbers["decoder"], numbers["coverage gain"]
    least = needed(gain, THRESHOLDS.frechet * numbers["prior"].value)
    of = {name: unsigned(e) for name, e in numbers.items()}
    leaves = best is not found.prior
    chosen = f"{best.label} {of['choice']}, " if leaves else ""
    why = [
        f"Frechet distance to held-out rows ({space} features): prior {of['prior']}, {chosen}reconstructions "
        f"{of['reconstructions']}, real rows {of['real rows']}; {numbers['prior'].n} rows in each sample"
    ]
    if controls.ignores:
        return _collapsed(controls.ignores, of["decoder"], bad=decoder.low > 0, why=why)
    if not controls.tested:
        sentence = (
            "Undecided: the controls of the copying test gave the wrong answer, so that no candidate can be cleared of "
            "copying. More held-out rows would settle it; until then keep the prior."
        )
        return GenerationVerdict("undecided", "prior", sentence, why)
    better = leaves and gain.value > least
    covers = lost.value >= -THRESHOLDS.errors * (lost.stderr or 0.0)  # equal coverage without error is no loss
    cleared = worst(best.copies, found.chosen.copies) == "passes"
    choice = best.name if better and covers and cleared else "prior"
    if leaves:
        why.append(
            f"held-out split, opened once, with fresh draws: the distance falls by {of['gain']} (needed more than "
            f"{least:.3g}), coverage changes by {lost}; copying: {_status(found.chosen)}"
        )
    if controls.memorises:
        why.append(f"the decoder memorises: {controls.memorises}")
    if decoder.low > 0 and max(gain.value, 0.0) < THRESHOLDS.closes * decoder.value:
        return _none(found, choice, why)
    if choice != "prior":
        sentence = (
            f"Generate from {best.label}, not from the prior: its samples are cleared of copying, and their Frechet "
            f"distance to held-out data ({space} features) is {of['choice']} where the prior's is {of['prior']} (a "
            f"difference of {of['gain']})."
        )
        return GenerationVerdict("leave the prior", choice, sentence, why)
    if found.prior_copies == "copies":
        return _prior_copies(controls.memorises, why)
    if better:
        but = "cover less of them" if not covers else f"are not cleared of copying ({_status(found.chosen)})"
        sentence = (
            f"Undecided: samples of {best.label} are nearer to held-out data than the prior's, but {but}. "
            "Until more rows, or more samples (--samples), settle it, keep the prior."
        )
        return GenerationVerdict("undecided", "prior", sentence, why)
    return GenerationVerdict("keep the prior", "prior", _keep(found, leaves=leaves), why)


def _status(found: Confirmed) -> str:
    """The copying test of fresh draws, in words."""
    return f"{found.copies}{f', {found.because}' if found.because else ''}"


def _keep(found: _Found, *, leaves: bool) -> str:
    """The sentence that keeps the prior; it clears the prior of copying only if it was cleared."""
    if leaves:
        said = f"{found.best.label} looked best on the selection split; held-out data do not confirm it."
    elif "not cleared" in found.ranking.values():
        said = "no candidate that is cleared of copying, and loses no modes, makes measurably better samples."
    else:
        said = "no candidate that neither copies nor loses modes makes measurably better samples."
    if found.prior_copies == "passes":
        return f"Keep the prior: {said}"
    because = found.prior.because if found.prior.copies == "untested" else found.first.because
    return f"Keep the prior: {said} The prior itself is not cleared of copying: {because}."


def _collapsed(ignores: str, decoder: str, *, bad: bool, why: list[str]) -> GenerationVerdict:
    """Step 6: the decoder ignores z."""
    why = [*why, f"the decoder ignores z: {ignores}"]
    told = f"the decoder ignores z ({ignores}), so that the choice of z' hardly changes its samples."
    if not bad:
        return GenerationVerdict("keep the prior", "prior", f"Keep the prior: {told}", why, fault="collapse")
    sentence = (
        f"None of these: {told} They are {decoder} farther from held-out rows than real rows are. Train again with a "
        "smaller weight on the KL term, or raise it slowly; more latents do not help."
    )
    return GenerationVerdict("none of these", "prior", sentence, why, fault="collapse")


def _prior_copies(memorises: str, why: list[str]) -> GenerationVerdict:
    """Step 6: the prior's samples copy, and nothing that is cleared is better."""
    because = f" The decoder memorises: {memorises}." if memorises else ""
    sentence = (
        f"None of these: samples of the prior copy training rows, and no candidate that is cleared of copying makes "
        f"measurably better ones.{because} Train the decoder on more rows, for a shorter time, or with a smaller "
        "network."
    )
    return GenerationVerdict("none of these", "prior", sentence, why, fault="copies")


def _none(found: _Found, choice: str, why: list[str]) -> GenerationVerdict:
    """Step 5: the two parts of the distance, by size."""
    of_prior = " of the prior" if choice == "prior" else ""
    excess = found.numbers[f"excess{of_prior}"]
    label = "the prior" if choice == "prior" else found.best.label
    fault = "decoder" if excess.high < 0 else "latents" if excess.low > 0 else "both"
    kept = "keep the prior" if choice == "prior" else f"{label} is the best"
    if choice == "prior" and found.prior_copies == "copies":
        kept = "the prior is left, and its samples copy training rows"
        if found.controls.memorises:
            kept += " (the decoder memorises)"
    sentence = (
        f"None of these: reconstructions of unseen rows are {_beyond(found.numbers['decoder'])} held-out rows than "
        f"real rows are, which is the decoder's part, and samples of {label} are "
        f"{_beyond(found.numbers[f'latents{of_prior}'])} them than reconstructions, the latent distribution's part. "
        f"{ADVICE[fault]} Of what there is, {kept}."
    )
    return GenerationVerdict("none of these", choice, sentence, why, fault=fault)


def _beyond(e: Estimate) -> str:
    """How much farther one distance is than another, or how much nearer."""
    return f"{unsigned(e)} farther from" if e.value >= 0 else f"{unsigned(replace(e, value=-e.value))} nearer to"


def _why(contenders: list[Contender], ranking: dict[str, str], best: Contender) -> list[str]:
    """Which candidates are dropped, and how the choice among the rest was made."""
    labels = {r.name: r.label for r in contenders}
    why = []
    for state, words in (
        ("copies", "copies training rows"),
        ("not cleared", "is not cleared of copying ({because})"),
        ("loses modes", "loses part of the data"),
        ("covers less", "is as near to the data as the best, but covers less of them"),
    ):
        why += [
            f"{r.label} {words.format(because=r.because or r.copies)}, and is dropped"
            for r in contenders
            if ranking[r.name] == state
        ]
    ties = [labels[n] for n, s in ranking.items() if s in ("best", "tied")]
    if len(ties) > 1:
        by = "the best by TSTR, or tied with it and smallest" if best.right is not None else "the smallest of them"
        why.append(f"tied on the selection split: {', '.join(ties)}; {best.label} is {by}")
    return why

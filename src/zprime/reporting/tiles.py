"""The answers on the first screen of the page: one sentence each, how it stands, and where its proof is."""

from dataclasses import dataclass
from enum import StrEnum

from zprime.reporting.words import gloss, prior_name
from zprime.results.audit import Audit
from zprime.results.names import CandidateId
from zprime.statistics.format import interval, p_value, prose

FALSE_ALARMS, CHANCE = 0.01, 0.5
"""Of an attack that finds nothing: rows that it finds at 1 % false alarms, and its AUC."""


UNSTABLE = " (a lower bound; more draws still change it)"


class State(StrEnum):
    """How an answer stands; the page has a colour and a sign for each."""

    GOOD = "good"
    UNSURE = "unsure"
    PROBLEM = "problem"
    PLAIN = "plain"
    """Neither good nor bad."""
    UNKNOWN = "unknown"
    """It was not measured."""


@dataclass(frozen=True)
class Tile:
    """One question and its answer.

    Attributes:
        question: as a user asks it.
        answer: one sentence.
        state: how it stands.
        proof: name of the section that shows it.
    """

    question: str
    answer: str
    state: State
    proof: str


def tiles(audit: Audit) -> list[Tile]:
    """All of them, about what is shipped (`Audit.shipped`)."""
    return [better(audit), fault(audit), copies(audit), stores(audit), encoder(audit), published(audit)]


def better(audit: Audit) -> Tile:
    """Whether something is better than the prior, by both verdicts."""
    question, side, v = "Better than the prior?", audit.samples, audit.verdict
    generation = None if side is None else side.verdict
    leaves = [d for d in (v, generation) if d is not None and d.decision == "leave the prior"]
    if leaves and audit.shipped == "prior":
        return Tile(question, f"In part: {_held_back(audit)}.", State.UNSURE, "gains")
    if leaves:
        return Tile(question, f"Yes: {_how(audit)}.", State.GOOD, "gains")
    decisions = {d.decision for d in (v, generation) if d is not None}
    if "undecided" in decisions:
        why = "these rows cannot decide it; until then z′ is drawn from the prior"
        return Tile(question, f"Undecided: {why}.", State.UNSURE, "evidence" if v.exchange else "gains")
    if "none of these" in decisions and generation is not None:
        return Tile(question, f"{generation.sentence.split('. ')[0].rstrip('.')}.", State.PROBLEM, "samples")
    return Tile(
        question, f"No: keep {prior_name(audit)}; nothing that was tried is measurably better.", State.GOOD, "gains"
    )


def _how(audit: Audit) -> str:
    """What to draw from, how sure that is, and by which verdicts."""
    v, side = audit.verdict, audit.samples
    leaves = v.decision == "leave the prior"
    other = side is not None and side.verdict.decision == "leave the prior"
    shipped = audit.entry(audit.shipped)
    drawn = f"draw z′ from {shipped.label}{gloss(shipped)}"
    sure = (
        f"at least {v.bet.low:.2f} nats a row (95 % limit that assumes no distribution)"
        if leaves and v.bet is not None
        else ""
    )
    if leaves and other and side is not None and side.verdict.choice == v.choice:
        return f"{drawn}. Both verdicts say so{'; by likelihood it gains ' if sure else ''}{sure}"
    by = " and ".join(["by likelihood"] * leaves + ["for generation"] * other)
    return f"{drawn}. So it is {by}{f': {sure}' if sure else ''}; the verdicts below say why"


def _held_back(audit: Audit) -> str:
    """What a verdict chose that is not shipped, and why the prior is."""
    v, side = audit.verdict, audit.samples
    by, choice = "by likelihood", v.choice
    if v.decision != "leave the prior" and side is not None:
        by, choice = "for generation", side.verdict.choice
    copying = {"copies": "its samples copy training rows", "untested": "copying of training rows is not excluded"}
    if side is not None and side.verdict.decision == "keep the prior":
        why = "its samples are not measurably better"
    elif audit.copying(choice) in copying:
        why = copying[audit.copying(choice)]
    else:
        why = "it stores functions of single training rows"
    return f"{by} {audit.entry(choice).label} is better, but {why}, so {prior_name(audit)} is shipped"


COPYING = {
    "passes": (
        State.GOOD,
        "None found: at most {2} of the samples of {0} can be copies of training rows (95 % limit){1}.",
    ),
    "copies": (State.PROBLEM, "Yes: samples of {0} copy training rows{1}."),
    "untested": (State.UNSURE, "Not excluded: up to {2} of the samples of {0} could be copies of training rows{1}."),
}


def copies(audit: Audit) -> Tile:
    """Whether samples of what is shipped copy training rows."""
    question = "Does it copy?"
    sampled = (
        None if audit.samples is None else next((s for s in audit.samples.entries if s.name == audit.shipped), None)
    )
    if sampled is None or sampled.copying is None:
        return Tile(question, "Not measured: it takes the decoder and the rows.", State.UNKNOWN, "gains")
    state, text = COPYING[audit.copying(audit.shipped)]
    others = [
        e.label for e in audit.entries if e.eligible and e.name != audit.shipped and audit.copying(e.name) == "copies"
    ]
    those = f". Samples of {', '.join(others)} do copy" if others else ""
    return Tile(question, text.format(sampled.label, those, f"{100 * sampled.copying.most:.2g} %"), state, "samples")


def stores(audit: Audit) -> Tile:
    """Whether what is shipped stores functions of single training rows."""
    e = audit.entry(audit.shipped)
    question = "Does it store rows?"
    if e.holds_rows:
        return Tile(question, f"Yes: {e.label} stores functions of single training rows.", State.PROBLEM, "costs")
    others = [x.label for x in audit.leading if x.holds_rows]
    those = f". {', '.join(others)} would" if others else ""
    if e.least_rows is None and e.bytes:
        return Tile(question, f"Not counted for {e.label}: {e.kept}{those}.", State.UNSURE, "costs")
    least = e.settings.get("least_rows", audit.thresholds.least_rows)
    asked = f" (the limit is {least:g})" if e.least_rows is not None and isinstance(least, int | float) else ""
    return Tile(question, f"No: of {e.label} {e.kept}{asked}{those}.", State.GOOD, "costs")


def encoder(audit: Audit) -> Tile:
    """Whether the encoder's posteriors are those of the model."""
    question, side = "Is the encoder sound?", audit.likelihood
    if audit.model.posterior == "none":
        return Tile(
            question, "It gives one code a row and no posterior, so there is none to check.", State.UNKNOWN, "gains"
        )
    if side is None or not side.calibration:
        why = (
            "a quick audit leaves it out" if audit.settings.quick else "it takes the decoder and data simulated from it"
        )
        return Tile(question, f"Not measured: {why}.", State.UNKNOWN, "gains")
    c, gap = side.calibration[0], side.gaps["heldout"].gap
    lost = f"it loses {prose(gap)} nats a row against the model's own posterior{'' if gap.stable else UNSTABLE}"
    if c.calibrated:
        return Tile(question, f"No test rejects it (p = {c.p_value:.2g}); {lost}.", State.GOOD, "likelihood")
    spread = sorted(e.value for e in c.spread[:-1])
    middle = spread[len(spread) // 2]
    width = "too narrow" if middle > 1 else "too wide"
    found = f"its posteriors are {width} ({p_value(c.p_value)}), and {lost}"
    exchange = audit.verdict.exchange
    sound = exchange is not None and exchange.passed
    so = "The verdict by likelihood does not rest on them" if sound else "So read the likelihood gain"
    answer = f"No: {found}. {so}: it weighs draws by the decoder."
    return Tile(question, answer, State.PROBLEM, "likelihood")


def published(audit: Audit) -> Tile:
    """Whether anything that was measured speaks against publishing what is shipped."""
    question, e, status = "May the generator be published?", audit.entry(audit.shipped), audit.copying(audit.shipped)
    attack = None if audit.membership is None else audit.membership.candidates.get(CandidateId.parse(e.name))
    model = None if audit.membership is None else audit.membership.model
    against = ["it stores functions of single training rows"] if e.holds_rows else []
    against += ["its samples copy training rows"] if status == "copies" else []
    found = [(who, a) for who, a in (("the model itself", model), (e.label, attack)) if a is not None]
    against += [
        f"one attack finds {interval(a.rate)} of the training rows at 1 % false alarms, by {who}"
        for who, a in found
        if a.rate is not None and a.rate.low > FALSE_ALARMS
    ]
    if against:
        return Tile(question, f"Not as it is: {'; '.join(against)}.", State.PROBLEM, "membership")
    told = [f"AUC {interval(a.auc)} by {who}" for who, a in found if a.auc.low > CHANCE]
    if told:
        why = "who was in the training set is no secret: an attack tells members from others better than chance"
        return Tile(question, f"Only if {why}, which has AUC 0.5 ({', '.join(told)}).", State.UNSURE, "membership")
    if status != "passes" or audit.membership is None:
        missing = "copying is not excluded" if audit.membership is not None else "not all that bears on it was measured"
        return Tile(question, f"Not yet: {missing}.", State.UNSURE, "samples" if audit.samples else "gains")
    return Tile(
        question,
        "Nothing measured speaks against it: no copies, no stored rows, and one attack finds nothing; that is no "
        "proof of privacy.",
        State.GOOD,
        "membership",
    )


def fault(audit: Audit) -> Tile:
    """Whose fault bad samples are, and what would change the answer: shares of the prior's distance from the data."""
    question, side = "Whose fault are bad samples?", audit.samples
    numbers = {} if side is None else side.verdict.numbers
    latents, decoder = numbers.get("latents of the prior"), numbers.get("decoder")
    if latents is None or decoder is None:
        return Tile(question, "Not measured: it takes the decoder and the rows.", State.UNKNOWN, "gains")
    parts = (
        f"of the Frechet distance of samples of the prior, {prose(latents)} comes from where z′ is drawn, "
        f"{prose(decoder)} from the decoder"
    )
    if latents.low > max(decoder.high, 0.0):
        return Tile(question, f"The prior's, not the decoder's: {parts}.", State.PLAIN, "samples")
    if decoder.low > max(latents.high, 0.0):
        return Tile(question, f"The decoder's: {parts}. No other z′ can change that.", State.PROBLEM, "samples")
    return Tile(question, f"Not one part's alone: {parts}.", State.PLAIN, "samples")

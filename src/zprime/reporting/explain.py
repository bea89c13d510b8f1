"""The question that zprime answers, with one model's numbers: a pure function of its audit.

In Bayesian inference one updates p(Z) to p(Z|X=D) and draws z' from that; a trained VAE draws z' from N(0, I). Why?
docs/question.md has the same text, with the numbers of an example in closed form.
"""

from collections.abc import Callable
from pathlib import Path

from zprime.escape import markdown
from zprime.memory import size
from zprime.reporting import aggregated, averages, closest, identity, kl_term, membership, role, seeds, whose
from zprime.reporting.measured import drawn, prior_symbol
from zprime.reporting.questions import questions
from zprime.reporting.texts import texts
from zprime.reporting.verdicts import difference
from zprime.reporting.words import FAULTS, bullets, gloss, no_posterior, other_scale, prior_name, quick
from zprime.results.audit import Audit, load
from zprime.statistics.format import nats

QUESTION = (
    "In Bayesian inference one updates the prior p(Z) to p(Z|X=D), draws z′ from that, and x′ from p(X|z′). A VAE, "
    "once trained, draws z′ from p(Z) itself, N(0, I). Why? Because (1) the KL term of the ELBO keeps each q(z|x) near "
    "p(z)? Because (2) the posterior given all of D is hard to compute, and p(Z) is the “average” r(Z) that is closest "
    "in KL to every q(z|x)? And why not (3) draw x from D, z′ from q(z|x) and x′ from p(x|z′), which takes |D| "
    "Gaussians? What is p(Z) for, once the q(z|x) are there?"
)


def explain(audit: Audit | str | Path) -> str:
    """Answer, with one model's numbers, why a VAE draws z' from N(0, I) and whether it should: Markdown.

    Args:
        audit: an audit, or the folder of a run or of an audit.

    Raises:
        ArtifactError: no audit there.
    """
    audit = texts(audit if isinstance(audit, Audit) else load(audit), markdown)
    name = audit.data.name or "these data"
    told = [f"# Where z′ should come from: {name}", f"*{QUESTION}*"]
    for heading, say in PARTS.items():
        paragraphs = say(audit)
        if paragraphs:
            told += [f"## {heading}", *paragraphs]
    return "\n\n".join(told) + "\n"


def _short(audit: Audit) -> list[str]:
    side, choice = audit.samples, audit.entry(audit.shipped)
    if choice.name != "prior":
        answer = (
            f"For this model: do not draw z′ from {prior_name(audit)}. Draw it from {choice.label}{gloss(choice)}, "
            f"which takes {size(choice.bytes)}: {choice.kept}."
        )
    else:
        answer = _kept(audit)
    reasons = _reasons(audit) if audit.surgery else [no_posterior(audit)]
    verdicts = [f"By likelihood: {audit.verdict.sentence}"]
    if side is not None:
        of = f" (Frechet distances are of {drawn(side)}, drawn anew for the verdict.)"
        verdicts.append(f"For generation: {side.verdict.sentence}{of if 'Frechet' in side.verdict.sentence else ''}")
    why = difference(audit)
    if why:
        verdicts.append(f"They differ: {why}.")
    return [f"**{answer}**", bullets(reasons), "The verdicts:", bullets(verdicts)]


def _kept(audit: Audit) -> str:
    """Why the prior is what is shipped, in the first sentence of the answer."""
    side, p = audit.samples, prior_name(audit)
    if side is not None and side.verdict.decision == "none of these":
        return FAULTS[side.verdict.fault]
    likelier = audit.entry(audit.verdict.choice).label if audit.verdict.decision == "leave the prior" else ""
    if side is None and likelier:
        return (
            f"For this model {likelier} is what to draw z′ from, by likelihood. But its samples were not compared with "
            f"data, so it is not cleared of copying; until it is, {p} is what is shipped."
        )
    if side is not None and side.verdict.decision == "leave the prior":
        choice = audit.entry(side.verdict.choice)
        but = "stores single rows" if choice.holds_rows else "is not cleared of copying"
        return f"For this model {choice.label} makes better samples than {p}, but it {but}; so {p} is what is shipped."
    if "undecided" in (audit.verdict.decision, "" if side is None else side.verdict.decision):
        return f"For this model it could not be decided; until it is, {p} is what to draw z′ from."
    if likelier:
        return (
            f"For this model {p} is what to generate from: no candidate makes measurably better samples. (By "
            f"likelihood, {likelier} is better.)"
        )
    return f"For this model {p} is what to draw z′ from: nothing that was tried is measurably better."


def _reasons(audit: Audit) -> list[str]:
    """What the identity and the three ideas come to."""
    s, p = audit.surgery["train"], prior_symbol(audit)
    hole = None if audit.latents is None else audit.latents.hole
    far = (
        f"{nats(s.hole.value)} nats for the rows of D"
        if hole is None
        else f"{nats(max(0.0, hole.low))} to {nats(hole.high)} nats for the whole population"
    )
    one = (
        f"What is nearly equal to {p}, in mean and covariance, is their *average* ({nats(s.gaussian_part.value)} nats)."
        if kl_term.alike(s)
        else f"Not even mean and covariance of their *average* are near ({nats(s.gaussian_part.value)} nats)."
    )
    told = [
        "**Why p(Z)?** Every row has a z of its own. Given the decoder, D says nothing about the z of a new row, so "
        "its distribution is p(z). What was learned from D is in the decoder. If p(z) may change too, to fit an r(z) "
        "to the posteriors is its update by D.",
        "**If the model is right and the encoder exact, the average of q(z|x) over the data *is* p(z).** Then p(Z), "
        "the average of (2) and idea (3) with new rows are one distribution. The distance between the average and p(z) "
        f"measures how far that fails: {far}.",
        f"**(1) {'Here it does' if kl_term.collapsed(s) else 'No'}.** A posterior is {nats(s.mean_kl.value)} nats from "
        f"{p} on average. {one}",
    ]
    a = audit.averages
    if a is not None:
        gap, guess = averages.gaussian_gap(a)
        title = "Only among single Gaussians." if guess else "No."
        verdict = f"that is p(Z) to within {nats(gap)} nats" if guess else f"p(Z) is not, by {nats(gap)} nats"
        if gap < 0:
            verdict = f"none is as close as p(Z), {audit.prior}, which is {nats(-gap)} nats closer"
        told.append(
            f"**(2) {title}** In the KL of the ELBO, the distribution closest to every posterior "
            f"is their mixture; among single Gaussians {verdict}."
        )
    return [*told, f"**(3) It draws from that mixture**, which can be stored. {aggregated.harm(audit)}"]


def _asked(audit: Audit) -> list[str]:
    """Questions by name."""
    return [f"**{q.question}** {q.answer}" for q in questions(audit)]


def _limits(audit: Audit) -> list[str]:
    side = audit.samples
    held = audit.entries[0].heldout.elbo.gain.n
    d = len(audit.variance)
    text = (
        f"One model with {d} latents, seed {audit.seed}. ± is one standard error; gains are over {held:,} unseen rows"
    )
    if side is not None:
        text += (
            f", Frechet distance, coverage and “off the data” over {side.rows:,} rows a sample in {side.features} "
            f"features ({side.says}), and they depend on both"
        )
    text += ". For another model the answer may differ: `zprime run`, then `zprime explain`"
    repeated = "; `zprime run --seeds 3` says by how much for the same data and architecture."
    yours = ". By how much it differs between trainings of yours, an audit of each says."
    return [text + (repeated if audit.model.training else yours), *other_scale(audit)]


PARTS: dict[str, Callable[[Audit], list[str]]] = {
    "This is a quick audit": quick,
    "In short": _short,
    "Does it depend on the training?": seeds.paragraphs,
    "Whose z is z′, and what is p(Z|X=D)?": whose.paragraphs,
    "When are p(Z), the average and (3) the same?": identity.paragraphs,
    "(1) Does the KL term make every posterior p(z)?": kl_term.paragraphs,
    "(2) Is the average that is closest to every posterior p(Z)?": closest.paragraphs,
    "(3) Why not the mixture of all |D| posteriors?": aggregated.paragraphs,
    "Then what is p(Z) for, and why not use q after training?": role.paragraphs,
    "Does it give away who was in D?": membership.paragraphs,
    "Questions": _asked,
    "What this rests on": _limits,
}

"""The question that zprime answers, with one model's numbers: a pure function of its audit.

In Bayesian inference one updates p(Z) to p(Z|X=D) and draws z' from that; a trained VAE draws z' from N(0, I). Why?
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zprime.escape import markdown
from zprime.memory import size
from zprime.reporting import aggregated, averages, membership, seeds
from zprime.reporting.texts import texts
from zprime.reporting.verdicts import difference
from zprime.reporting.words import FAULTS, bullets, gloss, no_posterior, other_scale, prior_name, quick
from zprime.results.audit import Audit, Entry, load
from zprime.results.latents import Averages, Surgery
from zprime.results.names import STANDARD, CandidateId
from zprime.results.samples import REAL
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import figures, nats, percent, prose
from zprime.tables import to_markdown

QUESTION = (
    "In Bayesian inference one updates the prior p(Z) to p(Z|X=D), draws z′ from that, and x′ from p(X|z′). A VAE, "
    "once trained, draws z′ from N(0, I). Why? Because (1) the KL term of the ELBO keeps each q(z|x) near p(z)? "
    "Because (2) the posterior given all of D is hard to compute, and the average r(Z) closest in KL to every "
    "posterior is p(Z)? And why not (3) draw x from D, z′ from q(z|x) and x′ from p(x|z′)?"
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
    parts = [f"# Where z′ should come from: {name}", f"*{QUESTION}*"]
    for heading, say in PARTS.items():
        paragraphs = say(audit)
        if paragraphs:
            parts += [f"## {heading}", *paragraphs]
    return "\n\n".join(parts) + "\n"


def _short(audit: Audit) -> list[str]:
    side = audit.samples
    choice, p = audit.entry(audit.shipped), prior_name(audit)
    if choice.name != "prior":
        answer = (
            f"For this model: do not draw z′ from {p}. Draw it from {choice.label}{gloss(choice)}, which takes "
            f"{size(choice.bytes)}: {choice.kept}."
        )
    elif side is not None and side.verdict.decision == "none of these":
        answer = FAULTS[side.verdict.fault]
    elif audit.verdict.decision == "undecided":
        answer = f"For this model it could not be decided; until it is, {p} is what to draw z′ from."
    else:
        answer = f"For this model {p} is what to draw z′ from: nothing that was tried is measurably better."
    reasons = [no_posterior(audit)] if not audit.surgery else _reasons(audit)
    verdicts = [f"By likelihood: {audit.verdict.sentence}"]
    if side is not None:
        verdicts.append(f"For generation: {side.verdict.sentence}")
    why = difference(audit)
    if why:
        verdicts.append(f"They differ: {why}.")
    return [f"**{answer}**", " ".join(reasons), bullets(verdicts)]


def _reasons(audit: Audit) -> list[str]:
    """What the three ideas come to."""
    s, p = audit.surgery["train"], prior_name(audit)
    reasons = [
        f"A VAE draws z′ from {p} because, given its decoder, the z of a new row does not depend on D: its "
        "distribution is the prior p(z). Whether codes of data are distributed like that is another question.",
        f"(1) The *average* of the posteriors is near {p} in mean and covariance "
        f"({nats(s.gaussian_part.value)} nats apart), but not each posterior ({nats(s.mean_kl.value)} nats)."
        if _alike(s)
        else f"(1) The KL term asks the *average* of the posteriors to be near {p}; here even its mean and "
        f"covariance are {nats(s.gaussian_part.value)} nats off, and each posterior {nats(s.mean_kl.value)} nats.",
    ]
    a = audit.averages
    if a is not None:
        gap, guess = averages.gaussian_gap(a)
        verdict = f"that is p(Z) to within {nats(gap)} nats" if guess else f"p(Z) is not, by {nats(gap)} nats"
        if gap < 0:
            verdict = f"none is as close as p(Z), {audit.prior}, which is {nats(-gap)} nats closer"
        reasons.append(
            "(2) In the KL of the ELBO, the distribution closest to every posterior is their mixture; among single "
            f"Gaussians {verdict}."
        )
    return [*reasons, f"(3) That mixture can be stored. {aggregated.harm(audit)}"]


def _width(x: float) -> str:
    """A standard deviation in three figures."""
    return figures(x, 3)


def _alike(s: Surgery) -> bool:
    """Whether the average posterior is nearly N(0, I) in mean and covariance, compared with a single posterior."""
    return s.gaussian_part.value < 0.1 * max(s.mean_kl.value, 1.0)


def _posterior(audit: Audit) -> list[str]:
    if audit.model.posterior == "none":
        return []
    a = audit.averages
    told = [
        "It depends on whose z is meant. A VAE gives every row a z of its own. Given the decoder, the rows of D say "
        "nothing about the z of a new row, so the posterior predictive distribution of z′ *is* p(z). Sampling a VAE "
        "that way is correct Bayesian inference given the decoder, **if the model is right**; what is learned from D "
        f"is in the decoder’s parameters. That codes are distributed as {prior_name(audit)} is an assumption of the "
        "model, like any other, and can be checked on unseen rows."
    ]
    if a is None:
        return told
    if "product-of-experts" in a.members:
        r = a.members["product-of-experts"]
        told.append(
            f"Taken literally, p(Z|X=D) belongs to another model, with *one* z behind all {r.forward.n:,} rows. It is "
            "not hard to compute, as far as the encoder’s posteriors are exact: a product in closed form. But it is "
            f"narrow: its standard deviation in a dimension is {_width(r.width)}, that of the posterior of one row "
            f"{_width(a.width)}, and that of the prior 1. It is {nats(r.to_prior.value)} nats from the prior. Draws "
            f"from it are much alike, and so are their x′{_samples(audit, 'product-of-experts')}. A product of "
            "posteriors becomes narrower with every row. New rows need the mixture of the posteriors."
        )
    elif a.product_fails:
        told.append(f"For one z behind all rows the posterior could not be computed: {a.product_fails}.")
    return told


def _kl_term(audit: Audit) -> list[str]:
    if not audit.surgery:
        return []
    s = audit.surgery["train"]
    n, info, seen = s.mean_kl.n, s.information, s.gaussian_part.value
    width = (
        ""
        if audit.averages is None
        else f", with a standard deviation of about {_width(audit.averages.width)} (the prior’s is "
        f"{_width(audit.averages.members['prior'].width)})"
    )
    if s.mean_kl.value < 0.1:
        near = "They are so near that the codes tell hardly anything about the data."
    else:
        near = (
            "The KL term does not bring each of them near p(z), nor could it in a model that codes its data: a "
            "posterior equal to the prior tells nothing about its x."
        )
    full = "nearly all" if info.value > s.log_n - 0.5 else "not all"
    percentage = 100 * seen / s.hole.value if s.hole.value > 0 else 100.0
    told = [
        f"On average a posterior is {nats(s.mean_kl.value)} nats from p(z){width}. {near} Those nats have two parts "
        "(Hoffman & Johnson 2016):",
        bullets(
            [
                f"**{prose(info)} nats tell the rows apart.** It could be log N = {nats(s.log_n)} at most; exp(I) = "
                f"{prose(s.told_apart)} of {n:,} rows can be told apart: {full}.",
                f"**{prose(s.hole)} nats are the distance of their average from p(z).** {nats(seen)} of them "
                f"({percentage:.0f} %) can be seen in its mean and covariance. The rest is shape.",
            ]
        ),
        _moments(audit),
    ]
    hole = audit.latents.hole if audit.latents is not None else None
    if hole is not None:
        told.append(
            f"(These are the codes of {n:,} rows, and narrow posteriors of finitely many rows leave gaps between them. "
            "The distance of p(z) from the average over the whole population of rows is only known to lie between "
            f"{nats(max(0.0, hole.low))} and {nats(hole.high)} nats.)"
        )
    return told


def _moments(audit: Audit) -> str:
    """What is known of mean and covariance of the average."""
    near = _alike(audit.surgery["train"])
    if audit.prior != STANDARD:
        return (
            f"Mean and covariance of the average say {'hardly anything' if near else 'part'} of that distance. The "
            "shape of the average need not agree with the prior's in any case."
        )
    if near:
        return (
            "So something is near N(0, I): the mean and the covariance of the average. For a linear VAE at its optimum "
            "they agree exactly, whatever the data (Tipping & Bishop 1999). The shape of the average need not agree."
        )
    return (
        "At the optimum of a linear VAE mean and covariance of the average are those of N(0, I), whatever the "
        "data (Tipping & Bishop 1999); where only the encoder’s last layer and the decoder’s first are affine, its "
        "mean and its variances are. Here they are not near. Possible causes: training ended before, latents depend on "
        "each other, the layers are others, or so is the prior. The shape of the average need not agree in any case."
    )


def _average(audit: Audit) -> list[str]:
    a = audit.averages
    if a is None:
        return []
    match, exact, prior = a.members["moment match"], a.members["aggregated posterior"], a.members["prior"]
    gap, right = averages.gaussian_gap(a)
    if gap < 0:
        guess = f"p(Z), {audit.prior}, is {nats(-gap)} nats closer than that."
    elif right:
        guess = (
            f"here that is p(Z) to within {nats(gap)} of {nats(prior.forward.value)} nats: among single Gaussians the "
            "answer is nearly yes."
        )
    else:
        guess = (
            f"it is {nats(gap)} nats closer than p(Z): here even the mean and covariance of the codes are not those of "
            "p(Z)."
        )
    told = [
        "That depends on the direction of the KL. Each line below is closest in its own sense (nats, mean over the "
        f"{prior.forward.n:,} training rows; q is one row’s posterior):",
        to_markdown(averages.table(a)),
        "With KL(q‖r), the direction of the ELBO, the closest r of all is the mixture of all posteriors, the "
        f"aggregated posterior. The closest *single Gaussian* takes over its mean and covariance, and {guess}"
        f"{_collapsed(audit, a)}",
        "The average is not Gaussian: the mixture is "
        f"{prose(replace(exact.forward, value=match.forward.value - exact.forward.value))} nats closer still to the "
        f"rows that it is made of. To unseen rows it is {_beside(exact.heldout, prior.heldout)}. What counts is how "
        "close r comes to unseen rows.",
    ]
    best = _best_kind(audit)
    if best is not None:
        e, gain = best
        told[-1] += f" {e.label} ({size(e.bytes)}) is {prose(gain)} nats closer to their posteriors than p(Z)."
    else:
        told[-1] += " Here no candidate that stores no rows is measurably closer to them than p(Z)."
    return told


def _collapsed(audit: Audit, a: Averages) -> str:
    """What the averages in the other directions come to, where they are known."""
    if "log-pool" not in a.members or "barycentre" not in a.members:
        return ""
    return (
        " With KL(r‖q), or in Wasserstein distance, the average collapses to the width of about one posterior "
        f"({_width(a.members['log-pool'].width)} and {_width(a.members['barycentre'].width)}): draws from it all make "
        f"much the same x′{_samples(audit, 'log-pool') or _samples(audit, 'barycentre')}."
    )


def _beside(e: Estimate, prior: Estimate) -> str:
    return f"at {prose(e)}, {'farther' if e.value > prior.value else 'closer'} than p(Z) ({prose(prior)})"


def _role(audit: Audit) -> list[str]:
    d, active = len(audit.variance), audit.active
    kl = audit.surgery["train"].mean_kl if audit.surgery else audit.model.kl
    cost = "" if kl is None else f" Here it costs {nats(kl.value)} nats per row."
    trained = "there was none: the autoencoder has no posteriors."
    if audit.model.posterior != "none":
        trained = (
            "it is the common scale. Nothing else in the ELBO keeps the encoder from spreading the codes out and "
            f"shrinking each to a point.{cost}"
        )
    points = [
        f"**In training** {trained}",
        f"**In the finished model** it is the claim that codes of new rows are distributed as {prior_name(audit)}. The "
        "claim is as good as the agreement of p(Z) with the aggregated posterior of all rows.",
    ]
    choice = audit.entry(audit.shipped)
    epsilon = choice.epsilon
    if choice.name == "prior":
        points.append("**For sampling** it is, here, what to draw from.")
    else:
        insured = (
            f" {100 * epsilon:g} % of it is still mixed in, so that rows which the rest misses are not lost."
            if epsilon
            else ""
        )
        points.append(
            f"**For sampling** it is one candidate among others, and here it loses to {choice.label}.{insured}"
        )
    if active < d:
        points.append(
            f"**In {d - active} of {d} dimensions** the posteriors hardly depend on x. They are the prior there, and "
            "the prior is the right choice."
        )
    side = audit.samples
    if side is not None and choice.name != "prior":
        rows = [side.entry("prior"), side.entry(choice.name), side.controls[REAL]]
        off = [percent(replace(e.fidelity.precision, value=1 - e.fidelity.precision.value)) for e in rows]
        seen = [percent(e.fidelity.coverage) for e in rows]
        points.append(
            f"**What drawing from it costs here:** {off[0]} of its samples lie off the data and they cover {seen[0]} "
            f"of unseen rows. For {choice.label} it is {off[1]} and {seen[1]}, for real rows {off[2]} and {seen[2]}. "
            "p(Z) also draws where hardly any code lies, so that the decoder was hardly trained there; whether that is "
            "the cause was not tested."
        )
    return [bullets(points)]


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
    "What would p(Z|X=D) be?": _posterior,
    "(1) Does the KL term keep the posteriors near the prior?": _kl_term,
    "(2) Is the average that is closest to every posterior p(Z)?": _average,
    "(3) Why not the mixture of all |D| posteriors?": aggregated.paragraphs,
    "Then what is p(Z) for?": _role,
    "Does it give away who was in D?": membership.paragraphs,
    "What this rests on": _limits,
}


def _best_kind(audit: Audit) -> tuple[Entry, Estimate] | None:
    """What lowers KL(q||r) on unseen rows most without storing rows, and by how much."""
    some = [e for e in audit.entries if e.eligible and e.name != "prior" and not e.holds_rows]
    scored = [(e, e.heldout.elbo.gain) for e in some]
    best = max(scored, key=lambda pair: pair[1].value, default=None)
    return best if best is not None and best[1].low > 0 else None


def _samples(audit: Audit, name: str) -> str:
    """How much of the data samples of a distribution itself cover, in brackets, where that was measured."""
    side = audit.samples
    by_id = {} if side is None else {e.id: e for e in side.entries}
    sampled = by_id.get(CandidateId(name))
    if sampled is None:
        return ""
    return f" (measured: its samples cover {percent(sampled.fidelity.coverage)} of unseen rows)"

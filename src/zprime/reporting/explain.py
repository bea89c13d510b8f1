"""The question that zprime answers, with one model's numbers: a pure function of its audit.

In Bayesian inference one updates p(Z) to p(Z|X=D) and draws z' from that; a trained VAE draws z' from N(0, I). Why?
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zprime.measure.samples.bandwidth_path import CODES
from zprime.measure.samples.side import REAL
from zprime.reporting.samples import difference
from zprime.reporting.table import size
from zprime.reporting.words import bullets, gloss, nats, percent, plain, shown, size_of
from zprime.results.audit import Audit, Entry, load
from zprime.results.latents import Average, Averages, Surgery
from zprime.results.names import CandidateId, Gain
from zprime.results.samples import BandwidthPath
from zprime.statistics.estimate import Estimate

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
    audit = audit if isinstance(audit, Audit) else load(audit)
    name = audit.data.name or "these data"
    parts = [f"# Where z′ should come from: {name}", f"*{QUESTION}*"]
    for heading, say in PARTS.items():
        paragraphs = say(audit)
        if paragraphs:
            parts += [f"## {heading}", *paragraphs]
    return "\n\n".join(parts) + "\n"


def _short(audit: Audit) -> list[str]:
    s, made = audit.surgery["train"], audit.samples
    choice = audit.entry(audit.shipped)
    if choice.name != "prior":
        answer = (
            f"For this model: do not draw z′ from N(0, I). Draw it from {choice.label}{gloss(choice)}, which takes "
            f"{size(choice.bytes)}."
        )
    elif made is not None and made.verdict.decision == "none of these":
        answer = "For this model the question comes too early: where z′ is drawn from is not what ails its samples."
    elif audit.verdict.decision == "undecided":
        answer = "For this model it could not be decided; until it is, N(0, I) is what to draw z′ from."
    else:
        answer = "For this model N(0, I) is what to draw z′ from: nothing that was tried is measurably better."
    reasons = [
        "A VAE draws z′ from N(0, I) because that is what the model itself says of a new z′, once its parameters are "
        "learned. Whether it is true of the data is another matter.",
        f"(1) The KL term brings the *average* of the posteriors near N(0, I) in mean and covariance "
        f"({nats(s.gaussian_part.value)} nats apart), not each posterior ({nats(s.mean_kl.value)} nats)."
        if _alike(s)
        else f"(1) The KL term should bring the *average* of the posteriors near N(0, I); here even its mean and "
        f"covariance are {nats(s.gaussian_part.value)} nats off, and each posterior {nats(s.mean_kl.value)} nats.",
    ]
    a = audit.averages
    if a is not None:
        gap, guess = _guess(a)
        found = f"that is p(Z) to within {nats(gap)} nats" if guess else f"p(Z) is not, by {nats(gap)} nats"
        reasons.append(
            "(2) In the KL of the ELBO, the distribution closest to every posterior is their mixture; among single "
            f"Gaussians {found}."
        )
    reasons.append(f"(3) That mixture can be stored. {_harm(audit)}")
    verdicts = [f"By likelihood: {audit.verdict.sentence}"]
    if made is not None:
        verdicts.append(f"For generation: {made.verdict.sentence}")
    why = difference(audit)
    if why:
        verdicts.append(f"They differ: {why}.")
    return [f"**{answer}**", " ".join(reasons), bullets(verdicts)]


def _alike(s: Surgery) -> bool:
    """Whether the average posterior is nearly N(0, I) in mean and covariance, beside what a posterior is away."""
    return s.gaussian_part.value < 0.1 * max(s.mean_kl.value, 1.0)


def _harm(audit: Audit) -> str:
    """What drawing from the mixture of all posteriors does, in a sentence."""
    exact = _exact(audit)
    if exact is None:
        return "What it would do was not measured here."
    gain = _held_gain(exact)
    copies = audit.copying(exact.name, alone=exact.id.alone) == "copies"
    found = [
        f"unseen rows are {size_of(gain)} nats worse off under it" if gain is not None and gain.high < 0 else "",
        "what it generates are copies" if copies else "",
    ]
    harm = " and ".join(filter(None, found))
    return f"But it is the training set, and behaves like it: {harm}." if harm else "Here it does no measurable harm."


def _held_gain(e: Entry) -> Estimate | None:
    """Over p(z) on held-out rows: the surest gain that was measured."""
    score = e.heldout.of(e.heldout.surest)
    return None if score is None else score.gain


def _posterior(audit: Audit) -> list[str]:
    a = audit.averages
    out = [
        "It depends on whose z it is. A VAE gives every row a z of its own. Once the decoder is given, the rows say "
        "nothing about the z of a row still to come, so the posterior predictive of z′ *is* p(z). Sampling a VAE that "
        "way is correct Bayes, **if the model is right**; D has had its say through the decoder’s parameters. That "
        "codes are distributed as N(0, I) is an assumption of the model, like any other, and can be checked on rows "
        "that it has not seen."
    ]
    if a is None:
        return out
    if "product-of-experts" in a.members:
        r = a.members["product-of-experts"]
        out.append(
            f"Taken literally, p(Z|X=D) belongs to another model: *one* z behind all {r.forward.n:,} rows. Hard to "
            "compute it is not: from Gaussian posteriors it is a product in closed form. But it is a needle, "
            f"{plain(r.width)} wide in each dimension where the posterior of one row is {plain(a.width)} and the "
            f"prior 1, and {nats(r.to_prior.value)} nats from the prior. Draws from it are all alike, and so are "
            f"their x′{_samples(audit, 'product-of-experts')}. A product of posteriors narrows with every row. What "
            "one wants for new rows is their mixture."
        )
    elif a.shared_fails:
        out.append(f"For one z behind all rows the posterior could not be had: {a.shared_fails}.")
    return out


def _kl_term(audit: Audit) -> list[str]:
    s = audit.surgery["train"]
    n, info, seen = s.mean_kl.n, s.information, s.gaussian_part.value
    width = "" if audit.averages is None else f", and about {plain(audit.averages.width)} wide where the prior is 1"
    if s.mean_kl.value < 0.1:
        near = "They are near indeed, so near that the codes say next to nothing about the data."
    else:
        near = "It cannot bring each of them near p(z): a posterior that equals the prior says nothing about its x."
    full = "nearly all" if info.value > s.log_n - 0.5 else "not all"
    share = 100 * seen / s.hole.value if s.hole.value > 0 else 100.0
    out = [
        f"On average a posterior is {nats(s.mean_kl.value)} nats from p(z){width}. {near} Those nats have two parts "
        "(Hoffman & Johnson 2016):",
        bullets(
            [
                f"**{shown(info)} nats tell the rows apart.** It could be log N = {nats(s.log_n)} at most; exp(I) = "
                f"{shown(s.told_apart)} of {n:,} rows can be told apart: {full}.",
                f"**{shown(s.hole)} nats are the distance of their average from p(z).** {nats(seen)} of them "
                f"({share:.0f} %) can be seen in its mean and covariance. The rest is shape: clumps with holes "
                "between.",
            ]
        ),
        "So the term does bring something near N(0, I): the mean and the covariance of the average. For a linear VAE "
        "at its optimum they agree exactly, whatever the data (Tipping & Bishop 1999). The shape of the average it "
        "leaves free."
        if _alike(s)
        else "At the optimum the term brings mean and covariance of the average near N(0, I) (for a linear VAE they "
        "agree exactly, whatever the data: Tipping & Bishop 1999). Here they are not near: this model was trained too "
        "briefly, with a small weight on the KL term, or is held back by its form. The shape of the average it leaves "
        "free anyhow.",
    ]
    hole = audit.latents.hole if audit.latents is not None else None
    if hole is not None:
        out.append(
            f"(These are the codes of {n:,} rows, and between posteriors as narrow as these there are always gaps. "
            "How far the average over *all* rows that there could be is from p(z) is only known to lie between "
            f"{nats(max(0.0, hole.low))} and {nats(hole.high)} nats.)"
        )
    return out


def _average(audit: Audit) -> list[str]:
    a = audit.averages
    if a is None:
        return []
    match, exact, prior = a.members["moment match"], a.members["aggregated posterior"], a.members["prior"]
    gap, right = _guess(a)
    if right:
        guess = (
            f"here that is p(Z) to within {nats(gap)} of {nats(prior.forward.value)} nats: among single Gaussians your "
            "guess is right."
        )
    else:
        guess = f"it is {nats(gap)} nats closer than p(Z): here even mean and covariance of the codes are off."
    out = [
        "That depends on the direction of the KL. Each line below is closest in its own sense (nats, mean over the "
        f"{prior.forward.n:,} training rows; q is one row’s posterior):",
        "| closest in | r | KL(q‖r) | on unseen rows | KL(r‖q) | KL(r‖p) | width |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(_row(m) for m in a.members.values()),
        "With KL(q‖r), the direction of the ELBO, the closest r of all is the mixture of all posteriors, the "
        f"aggregated posterior. The closest *single Gaussian* takes over its mean and covariance, and {guess} With "
        "KL(r‖q), or in Wasserstein distance, the average collapses to the width of about one posterior "
        f"({plain(a.members['log-pool'].width)} and {plain(a.members['barycentre'].width)}): draws from it all make "
        f"much the same x′{_samples(audit, 'log-pool') or _samples(audit, 'barycentre')}.",
        f"A Gaussian is another form than the average has: the mixture is "
        f"{shown(replace(exact.forward, value=match.forward.value - exact.forward.value))} nats closer still to the "
        f"rows that it is made of. To rows that it has not seen it is {_beside(exact.heldout, prior.heldout)}. What "
        "counts is how close r comes to those.",
    ]
    best = _best_kind(audit)
    if best is not None:
        e, gain = best
        out[-1] += f" {e.label} ({size(e.bytes)}) is {shown(gain)} nats closer to their posteriors than p(Z)."
    else:
        out[-1] += " Here nothing that stores no rows comes measurably closer than p(Z)."
    return out


def _beside(e: Estimate, prior: Estimate) -> str:
    return f"at {shown(e)}, {'farther' if e.value > prior.value else 'closer'} than p(Z) ({shown(prior)})"


def _guess(a: Averages) -> tuple[float, bool]:
    """How much closer the best Gaussian is than p(Z), and whether p(Z) may be called nearly that."""
    prior, match = a.members["prior"].forward.value, a.members["moment match"].forward.value
    return prior - match, prior - match < 0.1 * prior


def _row(m: Average) -> str:
    name = {"prior": "p(Z)", "product-of-experts": "posterior of one shared z"}.get(m.name, m.name)
    sense = {"prior": "(it was there first)", "product-of-experts": "(a product, no average)"}.get(m.name, m.criterion)
    cells = [
        sense.replace("mean ", "").replace("||", "‖"),
        name,
        shown(m.forward),
        shown(m.heldout),
        "–" if m.reverse is None else shown(m.reverse),
        shown(m.to_prior),
        plain(m.width),
    ]
    return "| " + " | ".join(cells) + " |"


def _mixture(audit: Audit) -> list[str]:
    exact = _exact(audit)
    if exact is None:
        return ["It was not measured in this audit: fit the kind `aggregated`, and audit again."]
    n = audit.surgery["train"].mean_kl.n
    stored = f"The {n:,} posteriors take {size(exact.bytes)} as means and standard deviations"
    if audit.storage.data is not None:
        stored += f", or {size(audit.storage.data)} as the rows themselves, encoded when they are drawn"
    stored += ", and it grows with |D|"
    if audit.storage.posteriors_draws:
        stored += f" (drawing is quick: {audit.storage.posteriors_draws:,} z′ a second from the former"
        rate = audit.storage.data_draws
        stored += ")" if rate is None else f", {rate:,} from the latter)"
    points = []
    gain = _held_gain(exact)
    if gain is not None:
        what = "log p(x)" if exact.heldout.likelihood is not None else "ELBO"
        worse = gain.value < 0
        change = f"{size_of(gain)} nats per row {'worse' if worse else 'better'} off in {what} than under p(Z)"
        if gain.high < 0:
            because = "their codes fall between the narrow posteriors of the old rows"
            points.append(f"**It does not know new rows.** Unseen rows are {change}; {because}.")
        else:
            points.append(f"**New rows.** Unseen rows are {change}.")
    side = audit.latents
    found = None if side is None else side.leave_one_out.get(exact.id)
    if found is not None:
        e = found.memorised[Gain.ELBO]
        title = "It knows the old ones by heart." if e.low > 1 else "Old rows."
        points.append(
            f"**{title}** A training row’s own component is worth {shown(e)} nats to it; leave it out, and they are "
            "gone."
        )
    points += _copied(audit, exact.id)
    out = [f"You would be drawing from the closest r of all, exactly. {stored}.", bullets(points)]
    if _harm(audit).startswith("But"):
        out[0] += " Storage is the least of its troubles; the trouble is what it stores:"
    road = None if audit.samples is None else audit.samples.path
    if road is not None and all(s.copying.status != "untested" for s in road.points):
        out.append(_smoothed(road))
    choice = audit.entry(audit.shipped)
    if choice.name != "prior" and not choice.holds_rows:
        out.append(
            f"So do use q after training, but not row by row. {choice.label} was fitted to the same posteriors and "
            "keeps what they share; how much detail to keep was chosen, and tested, on rows that it has not seen."
        )
    return out


def _smoothed(road: BandwidthPath) -> str:
    """What lies between copying and leaving the data, if posteriors are widened."""
    copies, off = road.copies, road.off
    if not copies:
        return "Here not even the codes of training rows, without any noise, decode to measurable copies."
    out = (
        "Could one widen the posteriors a little? With a kernel of bandwidth h (0 is the mixture itself, 1 a single "
        f"Gaussian) samples copy up to {copies[-1].name if copies[-1].name != CODES else 'the codes without noise'}"
    )
    if not off:
        return f"{out}, and at no h do they measurably leave the data."
    out += f", and from {off[0].name} on they are measurably farther from the training rows than unseen rows are."
    between = road.points[road.points.index(copies[-1]) + 1 : road.points.index(off[0])]
    if not between:
        return f"{out} Nothing that was tried lies between."
    ends = list(dict.fromkeys([between[0].name, between[-1].name]))
    return f"{out} Between lies {' to '.join(ends)}."


def _copied(audit: Audit, wanted: CandidateId) -> list[str]:
    made = audit.samples
    sampled = None if made is None else next((e for e in made.entries if e.id == wanted), None)
    if made is None or sampled is None or sampled.copying is None:
        return []
    c = sampled.copying
    title = "Its samples are copies." if sampled.status == "copies" else "Its samples are no measurable copies."
    out = [
        f"**{title}** {percent(c.near)} of them lie nearer to a training row than all but 5 % of "
        "reconstructions of unseen rows do, and a sample is the nearer of two with chance "
        f"{shown(c.regional)} (1/2 without copying)."
    ]
    mine, prior = sampled.fidelity.frechet, made.entry("prior").fidelity.frechet
    if sampled.status == "copies" and mine.value < prior.value:
        out.append(
            f"**And they look good.** Frechet distance to unseen rows in {made.features} features: {shown(mine)}; p(Z) "
            f"{shown(prior)}, real rows {shown(made.controls[REAL].fidelity.frechet)}. Whoever judges by the look of "
            "samples would choose it."
        )
    return out


def _role(audit: Audit) -> list[str]:
    s = audit.surgery["train"]
    d = len(s.dimension_kl)
    points = [
        "**In training** it is the common scale. Without it the encoder would spread the codes out and shrink each to "
        f"a point, and the decoder would never see what lies between. {nats(s.mean_kl.value)} nats per row is what "
        "that costs here.",
        "**In the finished model** it is the claim that codes of new rows are spread like N(0, I): right as far as "
        "the aggregated posterior of all rows is like it, and no farther.",
    ]
    choice = audit.entry(audit.shipped)
    share = choice.chosen.epsilon
    if choice.name == "prior":
        points.append("**For sampling** it is, here, what to draw from.")
    else:
        insured = (
            f" It is still good as an insurance: {100 * share:g} % of it is mixed in, so that no row is lost that the "
            "rest has missed."
            if share
            else ""
        )
        points.append(
            f"**For sampling** it is one candidate among others, and here it loses to {choice.label}.{insured}"
        )
    if s.active < d:
        points.append(
            f"**In {d - s.active} of {d} dimensions** the encoder says nothing, every posterior is the prior, and the "
            "prior is exactly right."
        )
    made = audit.samples
    if made is not None and choice.name != "prior":
        rows = [made.entry("prior"), made.entry(choice.name), made.controls[REAL]]
        off = [percent(replace(e.fidelity.precision, value=1 - e.fidelity.precision.value)) for e in rows]
        seen = [percent(e.fidelity.coverage) for e in rows]
        points.append(
            f"**What drawing from it costs here:** {off[0]} of its samples lie off the data and they cover {seen[0]} "
            f"of unseen rows. For {choice.label} it is {off[1]} and {seen[1]}, for real rows {off[2]} and {seen[2]}. "
            "p(Z) draws from the holes too, where the decoder was never trained."
        )
    return [bullets(points)]


def _limits(audit: Audit) -> list[str]:
    made = audit.samples
    held = audit.entries[0].heldout.elbo.gain.n
    d = len(audit.surgery["train"].dimension_kl)
    text = (
        f"One model with {d} latents, seed {audit.seed}. ± is one standard error; gains are over {held:,} unseen rows"
    )
    if made is not None:
        text += (
            f", Frechet distance, coverage and “off the data” over {made.rows:,} rows a sample in {made.features} "
            f"features ({made.says}), and they depend on both"
        )
    return [text + ". Another model has other holes. Ask yours: `zprime run`, then `zprime explain`."]


PARTS: dict[str, Callable[[Audit], list[str]]] = {
    "In short": _short,
    "What would p(Z|X=D) be?": _posterior,
    "(1) Does the KL term keep the posteriors near the prior?": _kl_term,
    "(2) Is the average that is closest to every posterior p(Z)?": _average,
    "(3) Why not the mixture of all |D| posteriors?": _mixture,
    "Then what is p(Z) for?": _role,
    "What this rests on": _limits,
}


def _exact(audit: Audit) -> Entry | None:
    """The aggregated posterior, alone where it was measured alone."""
    by_id = {e.id: e for e in audit.entries}
    return by_id.get(CandidateId("aggregated", alone=True), by_id.get(CandidateId("aggregated")))


def _best_kind(audit: Audit) -> tuple[Entry, Estimate] | None:
    """What lowers KL(q||r) on unseen rows most without storing rows, and by how much."""
    some = [e for e in audit.entries if e.eligible and e.name != "prior" and not e.holds_rows]
    scored = [(e, e.heldout.elbo.gain) for e in some]
    best = max(scored, key=lambda pair: pair[1].value, default=None)
    return best if best is not None and best[1].low > 0 else None


def _samples(audit: Audit, name: str) -> str:
    """How much of the data samples of a candidate cover, in brackets, where that was measured."""
    made = audit.samples
    by_id = {} if made is None else {e.id: e for e in made.entries}
    found = by_id.get(CandidateId(name, alone=True), by_id.get(CandidateId(name)))
    if found is None:
        return ""
    return f" (measured: its samples cover {percent(found.fidelity.coverage)} of unseen rows)"

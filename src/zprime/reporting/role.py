"""What p(Z) is for, and how the posteriors are used after training: a part of `zprime explain`."""

from dataclasses import replace

from zprime.reporting.measured import prior_symbol
from zprime.reporting.words import bullets, prior_name
from zprime.results.audit import Audit
from zprime.results.samples import REAL
from zprime.statistics.format import nats, percent


def paragraphs(audit: Audit) -> list[str]:
    """In training, in the finished model, for sampling; and where the posteriors go."""
    d, active = len(audit.variance), audit.active
    choice = audit.entry(audit.shipped)
    points = [
        f"**In training** {_trained(audit)}",
        f"**In the finished model** it is the claim that codes of new rows are distributed as {prior_symbol(audit)}. "
        "The claim is as good as the agreement of p(Z) with the aggregated posterior of all rows.",
    ]
    if choice.name == "prior":
        points.append("**For sampling** it is, here, what to draw from.")
    else:
        insured = (
            f" {100 * choice.epsilon:g} % of it is still mixed in, so that rows which the rest misses are not lost."
            if choice.epsilon
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
    points += [*_costs(audit), *_learned(audit)]
    if audit.model.posterior != "none":
        points.append(
            "**Why not use q after training?** It is used: to code a row that is there, and to fit r(z), since every "
            "r(z) here is fitted to the q(z|x) of training rows. But q(z|x) asks for an x, and a new row has none yet. "
            "To take one from D is idea (3)."
        )
    return [bullets(points)]


def _trained(audit: Audit) -> str:
    """What it is there for while the encoder is trained."""
    if audit.model.posterior == "none":
        return "there was none: the autoencoder has no posteriors."
    kl = audit.surgery["train"].mean_kl if audit.surgery else audit.model.kl
    cost = "" if kl is None else f" Here it costs {nats(kl.value)} nats per row."
    return (
        "it is the common scale. Nothing else in the ELBO keeps the encoder from spreading the codes out and "
        f"shrinking each to a point.{cost}"
    )


def _learned(audit: Audit) -> list[str]:
    """What a prior that is learned would change, or has changed."""
    if audit.model.prior == "given":
        if not audit.model.training or audit.model.posterior == "none":
            return []
        return [
            "**May p(Z) be learned too?** Here it was given, and every r(z) was fitted post hoc, to a decoder that "
            "stays as it is. `zprime refine RUN --with NAME` trains encoder and decoder on with r in place of p, and "
            "`zprime run --prior mixture` learns p(z) with them from the start. `zprime report RUN OTHER` compares "
            "log p(x) of the same held-out rows."
        ]
    if audit.model.prior == "learned":
        how = f"was learned in training, with encoder and decoder: {prior_name(audit)}"
    else:
        how = f"is {audit.prior}, which was fitted before, and with which encoder and decoder were trained on (refined)"
    return [f"**May p(Z) be learned too?** Here it {how}. A gain over it is what was left to gain after that."]


def _costs(audit: Audit) -> list[str]:
    """What drawing from it costs, beside the choice."""
    side, choice = audit.samples, audit.entry(audit.shipped)
    if side is None or choice.name == "prior":
        return []
    rows = [side.entry("prior"), side.entry(choice.name), side.controls[REAL]]
    off = [percent(replace(e.fidelity.precision, value=1 - e.fidelity.precision.value)) for e in rows]
    seen = [percent(e.fidelity.coverage) for e in rows]
    return [
        f"**What drawing from it costs here:** {off[0]} of its samples lie off the data and they cover {seen[0]} "
        f"of unseen rows. For {choice.label} it is {off[1]} and {seen[1]}, for real rows {off[2]} and {seen[2]}. "
        "p(Z) also draws where hardly any code lies, so that the decoder was hardly trained there; whether that is "
        "the cause was not tested."
    ]

"""Names and labels in prose."""

from zprime.results.audit import Audit, Entry
from zprime.results.names import STANDARD, CandidateId


def gloss(e: Entry) -> str:
    """What a label means, in brackets."""
    mixed = f"with {e.id.percent:g} % of p(Z) mixed in" if e.id.percent else ""
    words = [w for w in (e.gloss, mixed) if w]
    return f" ({', '.join(words)})" if words else ""


def label_of(audit: Audit, name: str | CandidateId) -> str:
    """As the table of gains calls it; what makes no candidate keeps its name."""
    return next((e.label for e in audit.entries if e.name == str(name)), str(name))


def drawn(audit: Audit) -> list[tuple[str, str]]:
    """Name and label of every distribution itself that has draws for the latent map."""
    named = [(e.name, e.label) for e in audit.entries]
    named += [(name, name) for name in without_density(audit)]
    return [(name, label) for name, label in named if f"map.{name}" in audit.tensors]


def without_density(audit: Audit) -> list[str]:
    """Names of what was drawn from but knows no log r(z), and so has no row in the table."""
    known = {e.name for e in audit.entries}
    names = (k.removeprefix("map.") for k in audit.tensors if k.startswith("map."))
    return sorted(name for name in names if name not in known)


def latent(j: int) -> str:
    """What latent `j`, from 0, is called: z1, z2, ..., on the page, in figures and in sentences alike."""
    return f"z{j + 1}"


def data_name(audit: Audit) -> str:
    """What the data are called."""
    return audit.data.name or "unnamed data"


def quick(audit: Audit) -> list[str]:
    """Of a quick audit, what it leaves out; nothing of any other."""
    says = audit.settings.says
    return [f"{says[0].upper()}{says[1:]}."] if says else []


def other_scale(audit: Audit) -> list[str]:
    """What the verdict would be under another standard deviation of p(x|z), where reconstructions fit another."""
    side = audit.likelihood
    return [] if side is None or side.other_scale is None else [f"{side.other_scale.says}."]


def bullets(points: list[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {p}" for p in points)


NO_POSTERIOR = {
    "draws": "Of the posteriors only draws are known, without a density. So there is no ELBO surgery, no bound on the "
    "hole, no mixture of posteriors and no likelihood gain: they ask for log q(z|x).",
    "none": "The encoder gives one code a row and no posterior. So there is no KL term, no ELBO surgery, no "
    "exact-posterior gain and no likelihood gain. A small made-up variance would not help: these numbers would then "
    "depend on it, by log s a dimension. Gains are those in the log-density of held-out codes, over {base}.",
}
"""Why some parts are not there, by `model.posterior`."""
KNOWN_AT_DRAWS = (
    "Of the posteriors only draws are known, with log q(z|x) there: mean KL(q‖p) of training rows is {kl} nats. There "
    "is no ELBO surgery, no bound on the hole and no mixture of posteriors: they ask for log q elsewhere."
)
"""The same where log q is known at the draws."""
SAMPLED = (
    " These draws are the proposal of the likelihood gain. The exchange check and the calibration encode simulated "
    "rows, which have no such draws: they are left out, and without that check the verdict by likelihood does not "
    "leave the prior."
)
"""And where there is a likelihood gain."""
OF_FLOWS = (
    " These draws are the proposal of the likelihood gain{check}. The calibration asks for Gaussians, and is left out."
)
"""The same of a VAE whose posteriors are flows."""
CHECKED = ", and so are those of simulated rows in its exchange check"
"""Of these, where the check was made."""


FAULTS = {
    "": "For this model none of the candidates is the answer.",
    "decoder": "For this model the choice of z′ comes second: first its encoder or decoder has to be improved.",
    "latents": "For this model no candidate is the answer, but another one could be: most of what separates its "
    "samples from the data is in the distribution of z′.",
    "both": "For this model the choice of z′ is half of the answer: its decoder has to be improved too.",
    "collapse": "For this model the choice of z′ changes hardly anything, because its decoder ignores z.",
    "copies": "For this model no z′ is the answer: its samples copy training rows, those from the prior too.",
}
"""What is said first where the verdict for generation is `none of these`, by its fault."""


def prior_name(audit: Audit) -> str:
    """The prior in the middle of a sentence: N(0, I), or what stands for p(Z) in this model."""
    if audit.prior == STANDARD:
        return STANDARD
    codes = "the Gaussian with mean and covariance of the codes"
    return codes if audit.model.posterior == "none" else f"its own prior, {audit.prior}"


def no_posterior(audit: Audit) -> str:
    """Why some parts are not there."""
    kl = audit.model.kl
    if kl is not None:
        chosen = audit.verdict.chosen
        flows = OF_FLOWS.format(check="" if audit.verdict.exchange is None else CHECKED)
        beside = flows if chosen is not None and not chosen.unchecked else SAMPLED
        return KNOWN_AT_DRAWS.format(kl=kl) + (beside if audit.likelihood is not None else "")
    return NO_POSTERIOR[audit.model.posterior].format(base=prior_name(audit))

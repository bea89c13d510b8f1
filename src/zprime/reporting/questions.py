"""Questions that people ask of a trained VAE, answered by name with the numbers of an audit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from zprime.reporting.measured import best_kind, drawn
from zprime.reporting.words import no_posterior, prior_name
from zprime.results.audit import Audit, Entry
from zprime.results.facts import CurvePoint
from zprime.results.names import STANDARD
from zprime.results.samples import Copying, Sampled, SamplesSide
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import figures, interval, nats, percent, proportion, prose

NEAR = 0.1
"""Nats a row below the best gain of a curve that still count as the best."""
SAME = 0.05
"""A standard deviation of the codes within this of 1 needs no other scale."""
WITH_DECODER = (
    "It was not measured: it takes the decoder and the rows. Give `zprime.audit` `model=` and `rows=` (a run has both) "
    "and ask for samples (`AuditSettings(samples=2000)`, the default)."
)
DISTANCES = ("real rows", "reconstructions", "choice", "prior")
"""Frechet distances of the verdict for generation, from what no generator can beat to samples of p(Z)."""


class Answered(NamedTuple):
    """One question and its answer.

    Attributes:
        question: as people ask it.
        answer: sentences with their numbers; what was not measured says so, and how to measure it.
        anchor: name of the section of the report that has the figures; empty where this audit has none.
    """

    question: str
    answer: str
    anchor: str


def questions(audit: Audit) -> list[Answered]:
    """All questions, each with the answer that this audit gives: plain text, escaped by none."""
    return [Answered(question, say(audit), anchor(audit)) for question, (say, anchor) in QUESTIONS.items()]


def _whose_fault(audit: Audit) -> str:
    """The decoder's gap and the latent distribution's, as Frechet distances."""
    side = audit.samples
    n = {} if side is None else side.verdict.numbers
    if side is None or "decoder" not in n:
        return WITH_DECODER
    best = audit.entry(side.verdict.best)
    names = {"prior": "samples of p(Z)", "choice": f"samples of {best.label}"}
    steps = [f"{names.get(k, k)} {prose(n[k])}" for k in DISTANCES if k != "choice" or best.name != "prior"]
    told = [
        f"Frechet distance to held-out rows ({drawn(side)} each, {side.features} features): "
        f"{', '.join(steps)}. The decoder’s gap (reconstructions less real rows) is {prose(n['decoder'])}; the latent "
        f"gap (samples of p(Z) less reconstructions) is {prose(n['latents of the prior'])}.",
        _larger(side),
    ]
    if best.name != "prior" and n["gain"].low > 0:
        told.append(f"z′ from {best.label} takes {prose(n['gain'])} off, with the same decoder.")
    elif n["latents of the prior"].low > 0:
        told.append("No candidate that was tried takes off a measurable part of the latent gap.")
    return " ".join(told)


def _larger(side: SamplesSide) -> str:
    """Whose gap is the larger."""
    n = side.verdict.numbers
    if side.ignores:
        return f"But the decoder ignores z ({side.ignores}): then no choice of z′ changes the samples."
    if n["decoder"].low <= 0 and n["latents of the prior"].low <= 0:
        return "Neither is measurably above 0: by this distance nothing is wrong."
    excess = n["excess of the prior"]
    if excess.low > 0:
        return f"The latent gap is the larger, by {prose(excess)}: it is where z′ comes from, not the decoder."
    if excess.high < 0:
        return (
            f"The decoder’s gap is the larger, by {prose(_minus(excess))}: another r(z) cannot close it. Train for "
            "longer, with more latents or a larger network."
        )
    return "Neither is measurably the larger."


def _minus(e: Estimate) -> Estimate:
    return replace(e, value=-e.value, low=-e.high, high=-e.low)


def _no_posterior(audit: Audit) -> str:
    """What can be said without q(z|x)."""
    if audit.model.posterior != "density":
        found = best_kind(audit)
        gain = (
            "" if found is None else f" {found[0].label} makes unseen codes {prose(found[1])} nats likelier than that."
        )
        return f"{no_posterior(audit)}{gain if audit.model.posterior == 'none' else ''}"
    width = ""
    if audit.averages is not None:
        width = f", with a standard deviation of {figures(audit.averages.width, 3)} (geometric mean)"
    return (
        f"This one has: a distribution q(z|x) for every row{width}. Of an autoencoder that gives one code a row, "
        "`bring.codes` takes the codes. Then the gain in log r(code) of unseen codes, and with a decoder all that is "
        "said of samples, are measured; the KL term, the ELBO surgery and the likelihood gain are not. A small "
        "made-up standard deviation s would not help: these would depend on it, by log s a dimension."
    )


def _scale(audit: Audit) -> str:
    """The standard deviation of the codes, and what another scale could gain."""
    sizes = _variances(audit)
    if not sizes:
        return "It was not measured: the audit has no variances of codes. Audit again with this version."
    train = sizes["train"]
    width = _root(train)
    said = f"{figures(width, 3)} over the training rows (exact for these; {_range(train)})"
    if "heldout" in sizes:
        said += f", {figures(_root(sizes['heldout']), 3)} over held-out rows"
    told = [f"The standard deviation of z ~ q(z|x) for a random row, root mean square over dimensions, is {said}."]
    if not audit.surgery:
        told = [f"The standard deviation of the codes, root mean square over dimensions, is {said}."]
    if audit.prior == STANDARD or audit.model.posterior == "none":
        told.append(
            f"It is within {SAME:g} of that of N(0, I), 1: no other scale is needed."
            if abs(width - 1) <= SAME
            else f"N(0, I) has 1: multiply z by {figures(1 / width, 3)}, and divide by it before decoding."
        )
    else:
        told.append(f"p(Z) is {audit.prior}, so the standard deviation need not be 1.")
    return " ".join([*told, _worth(audit)])


def _worth(audit: Audit) -> str:
    """What a linear change of z can gain at most: one Gaussian."""
    if audit.model.posterior == "none":
        return "Gains are over one Gaussian with mean and covariance of the codes, so no scale changes them."
    gaussian = next((e for e in audit.entries if e.kind == "gaussian"), None)
    if gaussian is None:
        return "What a change of scale is worth was not measured: fit the kind `gaussian`, and audit again."
    told = (
        f"What scale, shift and correlation are worth is the ELBO gain of {gaussian.label}: "
        f"{prose(gaussian.heldout.elbo.gain)} nats a row."
    )
    found = best_kind(audit)
    if found is None or found[0].kind == "gaussian":
        return told
    return f"{told} {found[0].label} gains {prose(found[1])}: what is more than that comes from its shape."


def _variances(audit: Audit) -> dict[str, list[float]]:
    """Split -> variance of z ~ q(z|x) over rows, or of the codes, in every dimension."""
    if not audit.surgery:
        return {"train": audit.model.variance} if audit.model.variance else {}
    return {
        split: [m + v for m, v in zip(s.mean_variance, s.posterior_variance, strict=True)]
        for split, s in audit.surgery.items()
        if s.posterior_variance
    }


def _root(variances: Sequence[float]) -> float:
    return float((sum(variances) / len(variances)) ** 0.5)


def _range(variances: Sequence[float]) -> str:
    low, high = min(variances) ** 0.5, max(variances) ** 0.5
    return f"{figures(low, 3)} to {figures(high, 3)} in single dimensions"


def _components(audit: Audit) -> str:
    """The smallest K within 0.1 nats of the best."""
    found = _curve(audit)
    if found is None:
        return (
            "It was not measured: fit the kind `mixture` and leave its number of components to the selection split "
            "(`components=0`, the default), and audit again."
        )
    entry, points = found
    best = max(points, key=lambda p: p.gain)
    least = next(p for p in points if p.gain >= best.gain - NEAR)
    if best.gain < NEAR:
        base = prior_name(audit) if audit.model.posterior == "none" else "p(Z)"
        k = f"None: at no number of components is the ELBO gain above {NEAR:g} nats, so {base} does as well"
    elif best is points[-1] and least is best:
        k = f"At least {least.value:g}, the most that was tried: its ELBO gain on the selection split is {_gain(least)}"
    else:
        k = (
            f"{least.value:g}: the fewest Gaussians whose ELBO gain on the selection split ({_gain(least)}) is within "
            f"{NEAR:g} nats of the best"
        )
    top = "" if least is best else f" (that of {best.value:g} is {_gain(best)})"
    tried = ", ".join(f"{p.value:g}" for p in points)
    taken = entry.chosen.settings.get("components")
    rule = "" if taken is None else f" The fit chose {taken}, the smallest that is tied with the best row by row."
    return f"{k}{top}. Tried: {tried}.{rule}"


def _gain(p: CurvePoint) -> str:
    return nats(p.gain) if p.stderr is None else f"{p.gain:.2f} ± {p.stderr:.2f}"


def _curve(audit: Audit) -> tuple[Entry, list[CurvePoint]] | None:
    """A mixture that was tried with several numbers of components, and what came of them, from few to many."""
    for e in audit.leading:
        points = sorted((p for p in e.curve if p.setting == "components"), key=lambda p: p.value)
        if e.kind == "mixture" and len(points) > 1:
            return e, points
    return None


def _collapsed(audit: Audit) -> str:
    """How many dimensions the codes do not use."""
    variances, limit = audit.variance, audit.thresholds.active
    if not variances:
        return "It was not measured: the audit has no variances of codes. Audit again with this version."
    d, flat = len(variances), [f"z{j}" for j, v in enumerate(variances, 1) if v <= limit]
    what = "the posterior mean" if audit.model.posterior != "none" else "the code"
    measure = f"the variance of {what} over the training rows is above {limit:g} (exact for these rows)"
    kl = audit.surgery["train"].mean_kl if audit.surgery else audit.model.kl
    costs = "" if kl is None else f" KL(q‖p) is {prose(kl)} nats a row."
    if not flat:
        told = f"No: in all {d} dimensions {measure}; the smallest is {figures(min(variances), 2)}.{costs}"
    elif len(flat) == d:
        told = (
            f"Yes, all {d}: in none of them {measure}; the largest is {figures(max(variances), 2)}.{costs} The codes "
            "tell hardly anything of their rows, and no r(z) can be better than p(Z). Train again with a smaller "
            "weight on the KL term, or raise it slowly; more latents do not help."
        )
    else:
        told = (
            f"{len(flat)} of {d} ({_some(flat)}): in the others {measure}.{costs} Where they collapsed, the posterior "
            "is the prior, and the prior is the right r(z): they cost nothing and need no repair."
        )
    ignores = "" if audit.samples is None else audit.samples.ignores
    return f"{told} The decoder ignores z, whatever the codes say: {ignores}." if ignores else told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", .." if len(names) > 6 else "")


def _copies(audit: Audit) -> str:
    """What the copying test says of what is shipped, and of the others."""
    side = audit.samples
    if side is None:
        return WITH_DECODER
    wanted = audit.entry(audit.shipped)
    sampled = next((e for e in side.entries if e.id == wanted.id), None)
    if sampled is None or sampled.copying is None:
        return WITH_DECODER
    label = "p(Z)" if wanted.name == "prior" else wanted.label
    limit, share, status = proportion(audit.settings.copies_limit), sampled.copying.share, audit.copying(wanted.name)
    held = side.verdict.copying.get(wanted.name, "")
    if status == "passes":
        told = f"Those of {label} are cleared: a share of copies of {limit} or more is excluded at 95 %."
    elif status == "copies":
        told = f"Yes, those of {label} do."
    else:
        because = sampled.copying.because or f"fresh draws beside held-out rows: {held or 'not tested'}"
        told = f"For those of {label} it cannot be excluded: {because}."
    if share is not None:
        told += f" The share is {interval(share)} ({side.samples:,} samples, beside the {share.split} split)."
    listed = [
        f"of {e.label} (nearer to a training row than a reconstruction of an unseen row with chance "
        f"{prose(c.regional)}, 1/2 without copying; {percent(c.near)} are nearer than all but 5 % of those)"
        for e, c in _copying(side)
        if e.id != wanted.id
    ]
    also = f" Samples that do copy: {'; '.join(listed)}." if listed else ""
    return f"{told}{also} The test compares the entries of x: of a copy that is shifted or mirrored it says nothing."


def _copying(side: SamplesSide) -> list[tuple[Sampled, Copying]]:
    """Of every distribution whose samples copy, with or without a share of the prior, that which copies most."""
    most: dict[str, tuple[Sampled, Copying]] = {}
    for e in side.entries:
        c, name = e.copying, e.id.name
        if c is not None and e.status == "copies":
            most[name] = max(most.get(name, (e, c)), (e, c), key=lambda pair: pair[1].regional.value)
    return list(most.values())


def _samples_section(audit: Audit) -> str:
    return "" if audit.samples is None else "samples"


def _surgery_section(audit: Audit) -> str:
    return "surgery" if audit.surgery else ""


def _components_section(audit: Audit) -> str:
    return "" if _curve(audit) is None else "components"


QUESTIONS: dict[str, tuple[Callable[[Audit], str], Callable[[Audit], str]]] = {
    "My reconstructions are good and my samples are bad: whose fault is it?": (_whose_fault, _samples_section),
    "My autoencoder has no posterior: what can be measured?": (_no_posterior, lambda audit: "gains"),
    "Is my scale factor right?": (_scale, _surgery_section),
    "How many components does this latent space need?": (_components, _components_section),
    "Did all my dimensions collapse?": (_collapsed, _surgery_section),
    "Do my samples copy?": (_copies, _samples_section),
}
"""Question -> its answer, and the section of the report that has the figures."""

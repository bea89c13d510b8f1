"""What drawing from the mixture of all posteriors, the aggregated posterior, does: part (3) of `zprime explain`."""

from zprime.memory import size
from zprime.reporting.measured import drawn
from zprime.reporting.words import bullets
from zprime.results.audit import Audit, Entry
from zprime.results.names import CandidateId, Gain
from zprime.results.samples import CODES, REAL, BandwidthPath
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import magnitude, percent, prose

TITLES = {
    "copies": "Its samples are copies.",
    "passes": "Its samples are cleared of copying.",
    "untested": "Its samples are not cleared of copying.",
}
"""What is said first of its samples, by their status."""


def entry(audit: Audit) -> Entry | None:
    """The aggregated posterior itself, whatever it is called; None where it was not measured."""
    return next((e for e in audit.entries if e.kind == "aggregated" and not e.id.percent), None)


def harm(audit: Audit) -> str:
    """What drawing from the mixture of all posteriors does, in a sentence."""
    exact = entry(audit)
    if exact is None:
        return "What it would do was not measured here."
    gain = _held_gain(exact)
    copies = audit.copying(exact.name) == "copies"
    harms = [
        f"unseen rows are {magnitude(gain)} nats worse off under it" if gain is not None and gain.high < 0 else "",
        "what it generates are copies" if copies else "",
    ]
    told = " and ".join(filter(None, harms))
    unsure = "" if audit.copying(exact.name) == "passes" else ", but its samples are not cleared of copying"
    return f"But it keeps a posterior of every training row: {told}." if told else f"Here no harm was measured{unsure}."


def _held_gain(e: Entry) -> Estimate | None:
    """Over p(z) on held-out rows: the surest gain that was measured."""
    score = e.heldout.of(e.heldout.surest)
    return None if score is None else score.gain


def paragraphs(audit: Audit) -> list[str]:
    """What it stores, what it does to new rows and to training rows, and whether its samples are copies."""
    exact = entry(audit)
    if exact is None and not audit.surgery:
        return []
    if exact is None:
        return ["It was not measured in this audit: fit the kind `aggregated`, and audit again."]
    n = audit.rows
    stored = f"The {n:,} posteriors take {size(exact.bytes)} as means and standard deviations"
    if audit.storage.data is not None:
        stored += f", or {size(audit.storage.data)} as the rows themselves, each encoded when it is drawn"
    stored += ". That grows with |D|; the time of a draw does not"
    points = []
    gain = _held_gain(exact)
    if gain is not None:
        what = "log p(x)" if exact.heldout.likelihood is not None else "ELBO"
        worse = gain.value < 0
        change = f"{magnitude(gain)} nats per row {'worse' if worse else 'better'} off in {what} than under p(Z)"
        if gain.high < 0:
            points.append(
                f"**It does not know new rows.** Unseen rows are {change}: it has less density where their codes lie."
            )
        else:
            points.append(f"**New rows.** Unseen rows are {change}.")
    side = audit.latents
    memory = None if side is None else side.leave_one_out.get(exact.id)
    if memory is not None:
        e = memory.memorised[Gain.ELBO]
        title = "It has memorised the training rows." if e.low > 1 else "Training rows."
        points.append(
            f"**{title}** The ELBO gain of a training row is {prose(e)} nats higher with its own component than "
            "without it: that much is memory of the row, and no unseen row has it."
        )
    points += _copied(audit, exact.id)
    told = [
        "A row of D at random, then z′ from its q(z|x), is a draw from the mixture of all |D| posteriors: from the "
        "closest r of all to the posteriors of D, exactly. With *new* rows in place of those of D it would be the "
        f"average over all data. {stored}.",
        bullets(points),
    ]
    if harm(audit).startswith("But"):
        told[0] += " The problem is not the storage, but that each part of it belongs to a single row:"
    path = None if audit.samples is None else audit.samples.path
    if path is not None and all(s.copying.status != "untested" for s in path.points):
        told.append(_smoothed(path))
    choice = audit.entry(audit.shipped)
    if choice.name != "prior" and not choice.holds_rows:
        told.append(
            f"So use the posteriors after training, but not row by row. {choice.label} was fitted to the same "
            f"posteriors ({choice.kept}); how much detail to keep was chosen, and tested, on other rows."
        )
    return told


def _smoothed(path: BandwidthPath) -> str:
    """What lies between copying and leaving the data, if posteriors are widened."""
    copies, off = path.copies, path.off
    if not copies:
        return "Here not even the codes of training rows, without any noise, decode to what the test calls copies."
    text = (
        "Could one widen the posteriors a little? With a kernel of bandwidth h (0 is the mixture itself, 1 a single "
        f"Gaussian) samples copy up to {copies[-1].name if copies[-1].name != CODES else 'the codes without noise'}"
    )
    if not off:
        return f"{text}, and at no h do they measurably leave the data."
    text += f", and from {off[0].name} on they are measurably farther from the training rows than reconstructions of "
    text += "unseen rows are."
    between = path.points[path.points.index(copies[-1]) + 1 : path.points.index(off[0])]
    if not between:
        return f"{text} Nothing that was tried lies between."
    ends = list(dict.fromkeys([between[0].name, between[-1].name]))
    return f"{text} Between lies {' to '.join(ends)}."


def _copied(audit: Audit, wanted: CandidateId) -> list[str]:
    side = audit.samples
    sampled = None if side is None else next((e for e in side.entries if e.id == wanted), None)
    if side is None or sampled is None or sampled.copying is None:
        return []
    c = sampled.copying
    title = TITLES[sampled.status]
    told = [
        f"**{title}** {percent(c.near)} of them lie nearer to a training row than all but 5 % of "
        "reconstructions of unseen rows do, and a sample is the nearer of two with chance "
        f"{prose(c.regional)} (1/2 without copying)."
    ]
    mine, prior = sampled.fidelity.frechet, side.entry("prior").fidelity.frechet
    if sampled.status == "copies" and mine.value < prior.value:
        told.append(
            f"**And they look good.** Frechet distance to unseen rows ({drawn(side)}, {side.features} features): "
            f"{prose(mine)}; with z′ from p(Z) {prose(prior)}, real rows "
            f"{prose(side.controls[REAL].fidelity.frechet)}. By this distance alone it would be preferred to p(Z)."
        )
    return told

"""When p(Z), the average posterior and "a row, then its posterior" are one distribution: a part of `zprime explain`."""

from zprime.reporting.words import bullets
from zprime.results.audit import Audit
from zprime.results.latents import Hole
from zprime.results.names import Gain
from zprime.statistics.format import nats, prose


def paragraphs(audit: Audit) -> list[str]:
    """The identity, what its failure adds up to, and what was measured of it."""
    if not audit.surgery:
        return []
    return [
        "If the data are distributed as the model says, p(x) = ∫ p(x|z) p(z) dz, and the encoder is exact, "
        "q(z|x) = p(z|x), then the average of the posteriors over *all* data is the prior:",
        "**∫ q(z|x) p(x) dx = ∫ p(x, z) dx = p(z).**",
        "So to draw from p(Z) is then to draw from the average posterior. Idea (3) is the same again, if each x is a "
        "new one and not a row of D. The three ways do not compete, until an assumption fails. The distance of the "
        "average from p(z), the *hole*, measures how far they fail together. For the average over all data",
        "KL(average ‖ p(z)) ≤ KL(data ‖ model) + mean KL(q(z|x) ‖ p(z|x)).",
        "(The right side is the KL between two joint distributions of x and z, and it cannot grow when x is left out.) "
        "So there are two reasons for a hole, and a third for that of the rows of D:",
        bullets([_model(audit), _encoder(audit), _sample(audit)]),
        "So a hole says that something fails, and not what.",
    ]


def _model(audit: Audit) -> str:
    """How much nearer to the data another r(z) brings the model."""
    told, v = "**The data are not distributed as the model says.**", audit.verdict
    usable = v.chosen.gain is Gain.LIKELIHOOD and (v.exchange is None or v.exchange.passed)
    if v.heldout is None or v.best == "prior" or not usable:
        return f"{told} By how much at least, a likelihood gain would say; here there is none that may be used."
    if v.heldout.low <= 0:
        return f"{told} Here no r(z) in place of p(Z) makes unseen rows measurably more likely."
    return (
        f"{told} Here unseen rows are {prose(v.heldout)} nats more likely with {audit.entry(v.best).label} in place of "
        "p(Z) (likelihood gain): data and model are at least so far apart."
    )


def _encoder(audit: Audit) -> str:
    """How far q(z|x) is from the posterior."""
    told = "**The encoder is not exact.**"
    side = audit.likelihood
    gap = None if side is None or "heldout" not in side.gaps else side.gaps["heldout"].gap
    if gap is None:
        return f"{told} By how much was not measured: it takes the decoder and the rows."
    if gap.low <= 0:
        return f"{told} Here mean KL(q(z|x) ‖ p(z|x)) of unseen rows is not measurably above 0 ({prose(gap)} nats)."
    sure = "" if gap.stable else ", and it was still rising with the number of draws"
    return (
        f"{told} Here mean KL(q(z|x) ‖ p(z|x)) of unseen rows is {prose(gap)} nats by importance sampling (a lower "
        f"bound in expectation{sure})."
    )


def _sample(audit: Audit) -> str:
    """The hole of these rows, and that of the population."""
    s = audit.surgery["train"]
    told = (
        f"**D is not all data.** The average over {s.mean_kl.n:,} rows has gaps between narrow posteriors, which the "
        f"average over all data fills. Here the hole is {prose(s.hole)} nats for the rows of D"
    )
    hole = None if audit.latents is None else audit.latents.hole
    return f"{told}." if hole is None else f"{told}; {_population(hole)}"


def _population(hole: Hole) -> str:
    return (
        f"for the whole population of rows it is only known to lie between {nats(max(0.0, hole.low))} and "
        f"{nats(hole.high)} nats (95 %)."
    )

"""The latent side as the lines of one table, which terminal and page share."""

from zprime.reporting import claims
from zprime.reporting.section import Drawing, Section
from zprime.reporting.words import label_of, no_posterior
from zprime.results.audit import Audit
from zprime.results.latents import Hole, LatentsSide, LeaveOneOut, TotalCorrelation
from zprime.results.names import Gain
from zprime.statistics.format import interval, marked, p_value, prose


def lines(audit: Audit) -> list[tuple[str, str]]:
    """What was measured, and what it says; empty for an audit without it."""
    side = audit.latents
    if side is None:
        return []
    told: list[tuple[str, str]] = []
    if side.hole is not None:
        told += _hole(side.hole)
    for name, memory in side.leave_one_out.items():
        told.append((f"Memorised by {label_of(audit, name)}", _memorised(memory)))
    told += _mixture(audit, side)
    tested = [
        f"{label_of(audit, k)}: {interval(v.c2st.accuracy)}, {p_value(v.c2st.p_value)}; MMD {p_value(v.mmd.p_value)}"
        for k, v in side.two_sample.items()
    ]
    if tested:
        n = next(iter(side.two_sample.values())).mmd.squared.n
        told.append(
            (
                f"{n} held-out codes against as many draws",
                "accuracy of a classifier (chance is 0.5). " + ". ".join(tested),
            )
        )
    return told


def _hole(hole: Hole) -> list[tuple[str, str]]:
    population = "; ".join(f"{b.side}: {b.name} {b.estimate}" for b in hole.bounds if b.target == "population")
    empirical = "; ".join(f"{b.name}: {b.estimate}" for b in hole.bounds if b.target == "empirical")
    cap = f"I = {hole.information} of at most log N = {hole.log_n:.2f}"
    if hole.saturated:
        cap += f": the mixture is a lookup table, and the bound from above cannot fall below {hole.floor:.2f}"
    return [
        ("Hole of the population, nats", f"between {hole.low:.2f} and {hole.high:.2f} (95 %). {population}. {cap}."),
        ("Hole of the training codes, nats", f"{empirical}."),
    ]


def _memorised(memory: LeaveOneOut) -> str:
    parts = []
    measured = {Gain.ELBO: memory.elbo, Gain.EXACT_POSTERIOR: memory.exact_posterior}
    for gain in memory.memorised:
        estimates = measured[gain]
        shown = ", ".join(f"{k} {marked(e)}" for k, e in estimates.items())
        parts.append(f"{gain.words}: {shown}")
    last = list(memory.memorised)[-1]
    own = marked(memory.memorised[last])
    return f"{'; '.join(parts)}. A row's own component is worth {own} nats of {last.words} to it."


def _split(t: TotalCorrelation) -> str:
    return f"{t.total} total correlation and {t.dimensions} in single dimensions."


def _mixture(audit: Audit, side: LatentsSide) -> list[tuple[str, str]]:
    if not audit.surgery:
        return [("Posteriors", no_posterior(audit))]
    cut = audit.surgery["train"]
    t = side.total_correlation
    told = [] if t is None else [("Training codes' KL(qbar||p), nats", _split(t))]
    told += [
        (
            "Data told apart by the code",
            f"exp(I) = {prose(cut.told_apart)} of {cut.mean_kl.n} training rows; {cut.active} of "
            f"{len(cut.mean_variance)} latents are active.",
        ),
    ]
    if side.minibatch is not None:
        m = side.minibatch
        said = ", ".join(f"{k} {e}" for k, e in m.estimates.items())
        alone = any(e.n == 1 for e in m.estimates.values())
        why = " There are rows for one minibatch only, so its errors are not known." if alone else ""
        told.append((f"I by minibatches of {m.batch}, nats", f"{said}; exact {cut.information}.{why}"))
    proportions = ", ".join(f"{k}: {interval(e)}" for k, e in side.low_density.items())
    told.append(
        (
            "Prior draws below quantiles of log qbar at held-out codes",
            f"{proportions} (proportion of the prior's draws).",
        )
    )
    return told


SECTION = Section(
    "latents",
    "How far the codes are from each latent distribution",
    field="latents",
    sentences=lines,
    drawings=(
        Drawing(
            claims.hole,
            "The hole KL(q̄‖p) of the population: how far the average posterior is from the prior. Dots are bounds "
            "from below (≥) and from above (≤), with 95 % intervals; the bar is what they leave. Where a dashed line "
            "stands, the bound from above cannot fall below it with so few rows.",
        ),
        Drawing(
            claims.memorised,
            "What is memorised. Self-included: a training row under what holds its own component; leave-one-out: the "
            "same row under all others; held-out: unseen rows. The distance from the first to the others is a row's "
            "own component, which no new row has. An arrow: beyond the end of the axis.",
        ),
        Drawing(
            claims.two_samples,
            lambda audit: (
                "Can a classifier tell held-out codes from draws? With 95 % intervals. Red: they differ (p below "
                f"{audit.thresholds.level:g} by the classifier or by MMD). Codes of the selection split are the "
                "control: they should not differ."
            ),
        ),
        Drawing(
            claims.low_density,
            "Log-density of the average posterior at held-out codes and at draws of the prior, as proportions below "
            "each value. Draws of the prior to the left of the codes fall where the decoder was hardly trained.",
        ),
    ),
    numbers=True,
    details=True,
)

"""The latent side as the lines of one table, which terminal and page share."""

from zprime.reporting.words import shown
from zprime.results.audit import Audit
from zprime.results.latents import Hole, LatentsSide, LeaveOneOut
from zprime.results.names import CandidateId, Gain
from zprime.statistics.estimate import Estimate


def lines(audit: Audit) -> list[tuple[str, str]]:
    """What was measured, and what it says; empty for an audit without it."""
    side = audit.latents
    if side is None:
        return []
    out: list[tuple[str, str]] = []
    if side.hole is not None:
        out += _hole(side.hole)
    for name, found in side.leave_one_out.items():
        out.append((f"Memorised by {_label(audit, name)}", _memorised(found)))
    out += _mixture(audit, side)
    tested = [
        f"{_label(audit, k)}: {_chance(v.c2st.accuracy)}, {_p(v.c2st.p_value)}; MMD {_p(v.mmd.p_value)}"
        for k, v in side.two_sample.items()
    ]
    if tested:
        n = next(iter(side.two_sample.values())).mmd.squared.n
        out.append(
            (
                f"{n} held-out codes against as many draws",
                "accuracy of a classifier (chance is 0.5). " + ". ".join(tested),
            )
        )
    return out


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


def _memorised(found: LeaveOneOut) -> str:
    parts = []
    for gain, estimates in ((Gain.ELBO, found.elbo), (Gain.EXACT_POSTERIOR, found.exact_posterior)):
        shown = ", ".join(f"{k} {_shown(e)}" for k, e in estimates.items())
        parts.append(f"{gain.words}: {shown}")
    return f"{'; '.join(parts)}. A row's own component is worth {_shown(found.memorised[Gain.EXACT_POSTERIOR])} nats of exact-posterior gain."


def _mixture(audit: Audit, side: LatentsSide) -> list[tuple[str, str]]:
    cut = audit.surgery["train"]
    t = side.total_correlation
    out = [
        ("Training codes' KL(qbar||p), nats", f"{t.total} total correlation and {t.dimensions} in single dimensions."),
        (
            "Data told apart by the code",
            f"exp(I) = {shown(cut.told_apart)} of {cut.mean_kl.n} training rows; {cut.active} of "
            f"{len(cut.dimension_kl)} latents are active.",
        ),
    ]
    if side.minibatch is not None:
        m = side.minibatch
        said = ", ".join(f"{k} {e}" for k, e in m.estimates.items())
        out.append((f"I by minibatches of {m.batch}, nats", f"{said}; exact {cut.information}."))
    shares = ", ".join(f"{k}: {_chance(e)}" for k, e in side.low_density.items())
    out.append(("Prior draws below quantiles of log qbar at held-out codes", f"{shares} (share of the prior's draws)."))
    return out


def _label(audit: Audit, name: str | CandidateId) -> str:
    """As the table of gains calls it."""
    wanted = name if isinstance(name, CandidateId) else CandidateId(name)
    entry = next((e for e in audit.entries if e.id == wanted), None)
    if entry is None:
        return str(name)
    return f"{entry.label} alone" if wanted.alone else entry.label


def _shown(e: Estimate) -> str:
    return f"{e}{'' if e.stable else ' ?'}"


def _chance(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"

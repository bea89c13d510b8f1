"""Log p(x), the encoder and its calibration, in sentences that terminal and page share."""

from zprime.results.audit import Audit
from zprime.results.likelihood import Calibration, LikelihoodSide, Sandwich
from zprime.results.names import CandidateId
from zprime.statistics.estimate import Estimate, unsigned


def sentences(audit: Audit) -> list[str]:
    """What is known of the model side, one sentence a measure; empty without a decoder."""
    side = audit.likelihood
    if side is None:
        return []
    gap = side.gaps["heldout"]
    return [
        _likelihood(audit, side),
        f"The encoder loses {_shown(gap.gap)} nats per held-out row: log p(x) {gap.log_prob} = reconstruction "
        f"{gap.reconstruction} - KL(q||p) {gap.kl} + this gap. log p(x) is a lower bound, so the gap is one too.",
        *(_calibration(audit, c) for c in side.calibration),
        *(_sandwich(audit, s) for s in side.sandwiches),
    ]


def _shown(e: Estimate) -> str:
    return f"{e}{'' if e.stable else ' ?'}"


def _label(audit: Audit, name: str) -> str:
    return audit.entry(name).label


def _likelihood(audit: Audit, side: LikelihoodSide) -> str:
    ids = [CandidateId(n) for n in dict.fromkeys(("prior", audit.verdict.best))]
    nats = ", ".join(f"{side.log_prob[i]} under {_label(audit, i.name)}" for i in ids)
    out = f"Held-out log p(x), nats per row: {nats}"
    if side.bits:
        bits = ", ".join(f"{side.bits[i].value:.4f} ± {side.bits[i].stderr or 0.0:.4f}" for i in ids)
        out += f"; as bits per dimension: {bits}"
    return f"{out}. {side.units.says[0].upper()}{side.units.says[1:]}."


def _calibration(audit: Audit, c: Calibration) -> str:
    start = f"Calibration on {c.rows} rows simulated from {_label(audit, c.source)}: "
    if c.calibrated:
        return f"{start}nothing speaks against the encoder (p = {c.p_value:.2f})."
    spread = [e.value for e in c.spread[:-1]]
    worst = max(range(len(spread)), key=lambda j: abs(spread[j] - 1))
    shift = max(range(len(spread)), key=lambda j: abs(c.bias[j].value))
    p = "p < 0.001" if c.p_value < 0.001 else f"p = {c.p_value:.3f}"
    width = "narrow" if spread[worst] > 1 else "wide"
    return (
        f"{start}the encoder's posteriors are not the model's ({p}); {len(c.outside)} of {len(c.names)} rank "
        f"histograms leave their 95 % band. Furthest off in width: {c.names[worst]}, too {width} "
        f"(rank variance {unsigned(c.spread[worst])} of what it should be); in place: {c.names[shift]} "
        f"(mean rank {c.bias[shift]} from the middle)."
    )


def _sandwich(audit: Audit, s: Sandwich) -> str:
    return (
        f"Annealing on {s.gap.n} rows simulated from {_label(audit, s.name)}: log p(x) lies between {s.forward} and "
        f"{s.reverse}, {_shown(s.gap)} nats apart; the likelihood gain's estimator is {s.below} above the lower bound and {s.above} below the "
        "upper."
    )

"""Log p(x), the encoder and its calibration, in sentences that terminal and page share."""

from zprime.reporting import figures
from zprime.reporting.section import Drawing, Section
from zprime.reporting.words import label_of
from zprime.results.audit import Audit
from zprime.results.likelihood import Calibration, LikelihoodSide, Sandwich
from zprime.results.names import CandidateId
from zprime.statistics.format import fixed, marked, p_value, unsigned


def sentences(audit: Audit) -> list[str]:
    """What is known of the model side, one sentence a measure; empty without a decoder."""
    side = audit.likelihood
    if side is None:
        return []
    gap = side.gaps["heldout"]
    return [
        _likelihood(audit, side),
        f"The encoder loses {marked(gap.gap)} nats per held-out row: log p(x) {gap.log_prob} = reconstruction "
        f"{gap.reconstruction} - KL(q||p) {gap.kl} + this gap. log p(x) is a lower bound, so the gap is one too.",
        *(_calibration(audit, c) for c in side.calibration),
        *(_sandwich(audit, s) for s in side.sandwiches),
    ]


def _likelihood(audit: Audit, side: LikelihoodSide) -> str:
    ids = [CandidateId.parse(n) for n in dict.fromkeys(("prior", audit.verdict.best))]
    nats = ", ".join(f"{side.log_prob[i]} under {label_of(audit, i)}" for i in ids)
    text = f"Held-out log p(x), nats per row: {nats}"
    if side.bits:
        bits = ", ".join(f"{fixed(side.bits[i], 4, between=' ± ')}" for i in ids)
        text += f"; as bits per dimension: {bits}"
    return f"{text}. {side.units.says[0].upper()}{side.units.says[1:]}."


def _calibration(audit: Audit, c: Calibration) -> str:
    start = f"Calibration on {c.rows} rows simulated from {label_of(audit, c.source)}: "
    if c.calibrated:
        return f"{start}no test rejects the encoder (p = {c.p_value:.2f})."
    spread = [e.value for e in c.spread[:-1]]
    worst = max(range(len(spread)), key=lambda j: abs(spread[j] - 1))
    shift = max(range(len(spread)), key=lambda j: abs(c.bias[j].value))
    width = "narrow" if spread[worst] > 1 else "wide"
    return (
        f"{start}the encoder's posteriors are not the model's ({p_value(c.p_value)}); {len(c.outside)} of "
        f"{len(c.names)} rank histograms leave their 95 % band. Furthest off in width: {c.names[worst]}, too {width} "
        f"(rank variance {unsigned(c.spread[worst])} of what it should be); in place: {c.names[shift]} "
        f"(mean rank {c.bias[shift]} from the middle)."
    )


def consequence(audit: Audit) -> str:
    """What the calibration means for the numbers of the page, in a sentence; empty where it was not measured."""
    side = audit.likelihood
    if side is None or not side.calibration:
        return ""
    if side.calibration[0].calibrated:
        return "Here ELBO gain and likelihood gain should tell the same."
    return (
        "Here q(z|x) is not the model's posterior: ELBO gain and exact-posterior gain judge r by where the encoder "
        "puts the codes; read the likelihood gain, which weighs draws by the decoder."
    )


def _sandwich(audit: Audit, s: Sandwich) -> str:
    return (
        f"Annealing on {s.gap.n} rows simulated from {label_of(audit, s.name)}: log p(x) lies in expectation between "
        f"{s.forward} and {s.reverse}, {marked(s.gap)} nats apart; the likelihood gain's estimator is "
        f"{s.below} above the lower bound and {s.above} below the upper."
    )


SECTION = Section(
    "likelihood",
    "The likelihood and the encoder",
    field="likelihood",
    sentences=sentences,
    drawings=(
        Drawing(
            figures.calibration,
            lambda audit: (
                "Ranks of what made simulated data among draws of its posterior, latent by latent: flat if the "
                "encoder is calibrated; a hump means too wide, a bowl too narrow for its errors, a slope off centre "
                f"(Talts et al. 2018). {consequence(audit)}"
            ),
        ),
    ),
    numbers=True,
    details=True,
)

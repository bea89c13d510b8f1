"""What several texts say of an audit: the best candidate, what samples cover, which samples a distance is of."""

from zprime.reporting.words import prior_name
from zprime.results.audit import Audit, Entry
from zprime.results.names import STANDARD, CandidateId
from zprime.results.samples import SamplesSide
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import percent


def best_kind(audit: Audit) -> tuple[Entry, Estimate] | None:
    """What lowers KL(q‖r) on unseen rows most without storing rows, and by how much; None if nothing does."""
    some = [e for e in audit.entries if e.eligible and e.name != "prior" and not e.holds_rows]
    scored = [(e, e.heldout.elbo.gain) for e in some]
    best = max(scored, key=lambda pair: pair[1].value, default=None)
    return best if best is not None and best[1].low > 0 else None


def prior_symbol(audit: Audit) -> str:
    """The prior as short as a sentence allows: N(0, I), p(Z), or the Gaussian that stands for it."""
    return "p(Z)" if audit.prior != STANDARD and audit.model.posterior != "none" else prior_name(audit)


def samples_cover(audit: Audit, name: str) -> str:
    """How much of the data samples of a distribution itself cover, in brackets, where that was measured."""
    side = audit.samples
    by_id = {} if side is None else {e.id: e for e in side.entries}
    sampled = by_id.get(CandidateId(name))
    if sampled is None:
        return ""
    return f" (measured: its samples cover {percent(sampled.fidelity.coverage)} of unseen rows)"


def drawn(side: SamplesSide) -> str:
    """What a Frechet distance compares with the data: so many `decoder means`, or `decoder draws`, a sample."""
    return f"{side.rows:,} decoder {side.noise}s"

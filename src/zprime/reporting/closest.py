"""Which r(z) is closest to every posterior, and whether p(Z) is that: part (2) of `zprime explain`."""

from dataclasses import replace

from zprime.memory import size
from zprime.reporting import averages
from zprime.reporting.measured import best_kind, samples_cover
from zprime.results.audit import Audit
from zprime.results.latents import Averages
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import figures, nats, prose
from zprime.tables import to_markdown


def paragraphs(audit: Audit) -> list[str]:
    """The average in each sense, as a table, and how close they come to unseen rows."""
    a = audit.averages
    if a is None:
        return []
    match, exact, prior = a.members["moment match"], a.members["aggregated posterior"], a.members["prior"]
    return [
        "That depends on the direction of the KL, and on which r are allowed. Each line below is closest in its own "
        f"sense (nats, mean over the {prior.forward.n:,} training rows; q is one row’s posterior):",
        to_markdown(averages.table(a)),
        "**KL(q‖r), the direction of the ELBO.** For every r, mean KL(q‖r) = I + KL(average‖r). I does not depend on "
        "r. So over all r the closest is the average itself, the mixture of all posteriors (aggregated posterior). "
        "Among *single Gaussians* it is the one with mean and covariance of the average (moment match), and "
        f"{_guess(audit, a)} Among mixtures of K Gaussians it is what EM on the posteriors looks for. In training it "
        "is the other way round: p(Z) is given, and the posteriors move towards it.",
        *_collapsed(audit, a),
        "**The average is not Gaussian.** The mixture is "
        f"{prose(replace(exact.forward, value=match.forward.value - exact.forward.value))} nats closer still to the "
        f"rows that it is made of. To unseen rows it is at {_beside(exact.heldout, prior.heldout)}. What counts is how "
        f"close r comes to unseen rows. {_best(audit)}",
    ]


def _guess(audit: Audit, a: Averages) -> str:
    """Whether p(Z) is the closest single Gaussian."""
    gap, right = averages.gaussian_gap(a)
    if gap < 0:
        return f"p(Z), {audit.prior}, is {nats(-gap)} nats closer than that."
    if right:
        return (
            f"p(Z) is that to within {nats(gap)} of {nats(a.members['prior'].forward.value)} nats: among single "
            "Gaussians the answer is nearly yes."
        )
    return f"that is {nats(gap)} nats closer than p(Z): here p(Z) has not even mean and covariance of the average."


def _collapsed(audit: Audit, a: Averages) -> list[str]:
    """What the averages in the other directions come to, where they are known."""
    if "log-pool" not in a.members or "barycentre" not in a.members:
        return []
    return [
        "**KL(r‖q), or Wasserstein distance.** Here the average is about as wide as one posterior "
        f"({figures(a.members['log-pool'].width, 3)} and {figures(a.members['barycentre'].width, 3)}): draws from it "
        f"all make much the same x′{samples_cover(audit, 'log-pool') or samples_cover(audit, 'barycentre')}."
    ]


def _beside(e: Estimate, prior: Estimate) -> str:
    return f"{prose(e)}, {'farther' if e.value > prior.value else 'closer'} than p(Z) ({prose(prior)})"


def _best(audit: Audit) -> str:
    found = best_kind(audit)
    if found is None:
        return "Here no candidate that stores no rows is measurably closer to them than p(Z)."
    e, gain = found
    return f"{e.label} ({size(e.bytes)}) is {prose(gain)} nats closer to their posteriors than p(Z)."

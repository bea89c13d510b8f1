"""Log p(x) of held-out rows under two models, compared row by row.

Runs of the same data with the same splits score the same rows. How likely a row is differs much more between rows than
between models, so differences that are paired by row have a far smaller error than a difference of two means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from zprime.errors import UsageError
from zprime.results.audit import Audit
from zprime.results.names import CandidateId
from zprime.statistics.design import Design
from zprime.statistics.estimate import Estimate, mean_estimate, widened

UNIT = "nats per row"
SPLIT = "heldout"
IDS = f"row_ids.{SPLIT}"


@dataclass(frozen=True)
class Paired:
    """One latent distribution of one run beside that of another run.

    Attributes:
        log_prob: mean log p_r(x) over the rows that both runs measured; a lower bound in expectation.
        difference: mean over these rows of log p_r(x) less that of the other run, nats a row. Each of the two is a
            lower bound in expectation, so their difference is no bound: it is stable where both are.
    """

    log_prob: Estimate
    difference: Estimate


def incomparable(a: Audit, b: Audit) -> str:
    """Why log p(x) of the rows of two audits cannot be compared; empty where it can."""
    if a.data.content != b.data.content or not a.data.content:
        return "they are not of the same data"
    if not a.data.used or not b.data.used:
        return "one was audited by an older version of zprime, which did not say which rows models see; audit it again"
    if a.data.used != b.data.used or len(_shared(a, b)[0]) < 2:
        return "their splits are not the same (train with the same seed, or the same split seed)"
    if a.data.weights != b.data.weights:
        return "their rows are weighed otherwise"
    if a.likelihood is None or b.likelihood is None or any(x.tensors.get("log_prior.heldout") is None for x in (a, b)):
        return "log p(x) was not measured in both of them"
    if a.likelihood.units.says != b.likelihood.units.says:
        return "their log p(x) are likelihoods of different things (another kind of p(x|z))"
    return ""


def paired(of: Audit, name: str, beside: Audit, other: str) -> Paired:
    """Compare what is called `name` in one audit with what is called `other` in another one, row by row.

    Args:
        of: the one audit.
        name: of a row of its table, e.g. `prior` or `mixture+p1`.
        beside: the other audit.
        other: of a row of the other table.

    Raises:
        UsageError: log p(x) of their rows cannot be compared, or there is no such row in a table.
    """
    why = incomparable(of, beside)
    if why:
        raise UsageError(f"compare: expected runs whose log p(x) can be compared, but {why}")
    mine, theirs = _shared(of, beside)
    values, gap = of.log_prob(name)[mine], of.log_prob(name)[mine] - beside.log_prob(other)[theirs]
    design = _design(of).take(mine)
    log_prob, gain = (mean_estimate(v, unit=UNIT, split=SPLIT, seed=of.seed, design=design) for v in (values, gap))
    if of is beside:  # one set of draws: what more of them change is the same in both
        return Paired(_finer(log_prob, of, name), gain)
    return Paired(_finer(log_prob, of, name), _finer(_finer(gain, of, name), beside, other, sign=-1.0))


def _shared(a: Audit, b: Audit) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Where the rows that both measured stand in each."""
    ids, others = a.tensors.get(IDS), b.tensors.get(IDS)
    if ids is None or others is None:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    place = {int(v): i for i, v in enumerate(others)}
    found = [(i, place[int(v)]) for i, v in enumerate(ids) if int(v) in place]
    first, second = zip(*found, strict=True) if found else ((), ())
    return torch.tensor(first, dtype=torch.long), torch.tensor(second, dtype=torch.long)


def _design(audit: Audit) -> Design:
    return Design(audit.tensors.get(f"weights.{SPLIT}"), audit.tensors.get(f"groups.{SPLIT}"))


def _finer(e: Estimate, audit: Audit, name: str, *, sign: float = 1.0) -> Estimate:
    """Add what more draws change in the mean log p(x) of an audit, with the error of that, times `sign`.

    The audit found it on some of its rows (`measure.likelihood.finer`): it is by what its mean differs from that of
    the single rows.
    """
    assert audit.likelihood is not None  # `incomparable` has looked
    whole, rows = audit.likelihood.log_prob[CandidateId.parse(name)], audit.log_prob(name)
    plain = mean_estimate(rows, unit=UNIT, split=SPLIT, seed=audit.seed, design=_design(audit))
    change = sign * (whole.value - plain.value)
    error = math.sqrt(max(0.0, (whole.stderr or 0.0) ** 2 - (plain.stderr or 0.0) ** 2))
    stable = e.stable and whole.stable
    e = replace(e, value=e.value + change, low=e.low + change, high=e.high + change, stable=stable)
    return widened(e, error, because="" if whole.stable else f"{audit.entry(name).label}: {whole.because}")


def common(audits: Sequence[Audit]) -> str:
    """Why the rows of several audits cannot be compared with those of the first; empty where all can."""
    return next((why for a in audits[1:] if (why := incomparable(audits[0], a))), "")

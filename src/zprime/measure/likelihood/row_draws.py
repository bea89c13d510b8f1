"""What the sampled gains need of a few rows: their draws, decoded, and the log-means of their weights.

Each few rows have a random stream of their own, so that the processes of a job can share them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.decoding import check_decoded, log_probs_of_rows
from zprime.measure.likelihood.proposal import Plan, propose
from zprime.measure.study import Split
from zprime.results.names import CandidateId
from zprime.rng import fork
from zprime.statistics.pareto import pareto_khat
from zprime.vae import Decoder

Column = dict[CandidateId, Float[Tensor, " n"]]


@dataclass(eq=False)
class Sampled:
    """Numbers of each row, in nats; names and meaning as those of `RowGains`.

    Attributes:
        exact, exact_quarter: exact-posterior gains.
        full, quarter: log p_r(x).
        khat: of the weights.
        reconstruction: mean of log p(x|z) over draws of q; None without a decoder.
    """

    exact: Column = field(default_factory=dict)
    exact_quarter: Column = field(default_factory=dict)
    full: Column = field(default_factory=dict)
    quarter: Column = field(default_factory=dict)
    khat: Column = field(default_factory=dict)
    reconstruction: Float[Tensor, " n"] | None = None

    @classmethod
    def joined(cls, parts: Sequence["Sampled"]) -> "Sampled":
        """Those of all rows, from those of consecutive few rows."""

        def column(name: str) -> Column:
            return {k: torch.cat([getattr(p, name)[k] for p in parts]) for k in getattr(parts[0], name)}

        decoded = [p.reconstruction for p in parts if p.reconstruction is not None]
        names = ("exact", "exact_quarter", "full", "quarter", "khat")
        columns = {name: column(name) for name in names}
        return cls(**columns, reconstruction=torch.cat(decoded) if decoded else None)


@torch.no_grad()
def sample_rows(
    candidates: Candidates, split: Split, model: Decoder | None, plan: Plan, rng: torch.Generator, part: slice
) -> Sampled:
    """Draw for the rows of `part`, and decode where there is a model.

    Raises:
        NumericalError: the decoder answers NaN.
    """
    posteriors, found = split.posteriors, Sampled()
    modes = None if split.modes is None else split.modes[part]
    here = candidates.told(None if split.told is None else split.told[part])
    drawn = propose(here, plan, posteriors.mean[part], posteriors.scale[part], fork(rng, part.start), modes)
    blends = here.blend_log_probs(drawn.base, drawn.prior)
    for k, v in candidates.blends.items():
        if v.base in drawn.log_ratio:
            closed = drawn.log_ratio[v.base]
            found.exact[k] = mix(closed, torch.zeros_like(closed), v.epsilon)
        else:
            terms = drawn.posterior + blends[k] - drawn.prior - drawn.proposal
            found.exact[k], found.exact_quarter[k] = log_means(terms)
    if model is None or split.rows is None:
        return found
    log_x = log_probs_of_rows(model, drawn, split.rows.x[part])
    check_decoded(log_x, split.rows.ids[part])
    found.reconstruction = log_x[:, drawn.from_posterior].mean(1)
    every = {k: log_x + log_r - drawn.proposal for k, log_r in blends.items()}
    tails = pareto_khat(torch.cat(list(every.values()))).chunk(len(every))
    for (k, terms), tail in zip(every.items(), tails, strict=True):
        found.full[k], found.quarter[k] = log_means(terms)
        found.khat[k] = tail
    return found


def log_means(terms: Float[Tensor, "b k"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Log of the mean weight of each row, from all draws and from the first quarter, at least one."""
    k = terms.shape[1]
    few = max(1, k // 4)
    return torch.logsumexp(terms, 1) - math.log(k), torch.logsumexp(terms[:, :few], 1) - math.log(few)

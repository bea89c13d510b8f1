"""The ladder of held-out gains over the prior: (a) ELBO gain, (b) exact-posterior gain, (c) likelihood gain.

docs/theory.md, section 3. All are paired over rows, in nats a row, and conditional on this model.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, standard_kl, standard_log_prob
from zprime.data import Rows
from zprime.errors import NumericalError, UsageError
from zprime.latent.selection import TIE
from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.proposal import Draws, Plan, propose
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.rng import fork
from zprime.statistics.estimate import Estimate
from zprime.statistics.pareto import pareto_khat
from zprime.vae import Decoder

ELBO_DRAWS = 16
CHUNK = 8  # rows whose draws are decoded together: part of the random streams' names, so a constant
BARE = "ladder: expected one that was climbed with a decoder, got one without rung (c)"
DECODE = 256  # latents a block: what a decoder makes of them stays in cache
DIVERGE = "diverge: q is wider than the prior there"


@dataclass
class RowGains:
    """RowScores over the prior of every blend, row by row, and what rung (c) computes beside them.

    Attributes:
        split: which rows.
        code: (a) E_q[log r - log p], from draws shared by all blends.
        evidence: (b) log E_q[r/p], in closed form where one is known (+inf where it diverges), else by importance
            sampling on the draws of rung (c).
        exact_posterior_quarter: (b) from the first quarter of those draws; only where there is no closed form.
        likelihood: (c) log p_r(x) - log p_p(x), importance sampling on draws shared by all blends.
        quarter: (c) from the first quarter of the draws.
        log_prior: log p_p(x) of rung (c), nats a row.
        log_prior_quarter: the same from the first quarter of the draws.
        reconstruction: E_q[log p(x|z)], the mean over those of the draws that are of q itself, nats a row.
        rate: KL(q||p), exact, nats a row.
        khat: Pareto k-hat of each row's weights.
        draws: draws a row of rung (c) and of (b) where it has no closed form; 0 where none were needed.
    """

    split: str
    code: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    evidence: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    exact_posterior_quarter: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    likelihood: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    quarter: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    log_prior: Float[Tensor, " n"] | None = None
    log_prior_quarter: Float[Tensor, " n"] | None = None
    reconstruction: Float[Tensor, " n"] | None = None
    rate: Float[Tensor, " n"] | None = None
    khat: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    draws: int = 0

    def log_prob(self, name: str) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Log p_r(x) of rung (c) for one blend, row by row: from all draws, and from the first quarter.

        Raises:
            UsageError: rung (c) was not climbed.
        """
        if self.log_prior is None or self.log_prior_quarter is None:
            raise UsageError(BARE)
        return self.likelihood[name] + self.log_prior, self.quarter[name] + self.log_prior_quarter


def measure_gains(
    candidates: Candidates,
    posteriors: MemoryPosteriors,
    *,
    split: str,
    rng: torch.Generator,
    model: Decoder | None = None,
    rows: Rows | None = None,
    draws: int = 400,
    progress: Progress = silent,
) -> RowGains:
    """Measure all three rungs on the same rows; without a model the first two.

    Args:
        candidates: the candidates.
        posteriors: of the rows to score.
        split: their name.
        rng: source of randomness.
        model: the decoder as it is used for sampling.
        rows: the rows themselves, in the order of `posteriors`.
        draws: draws a row of rung (c), a multiple of 4; 0 leaves out all that needs them.
        progress: called once a chunk of rows.

    Raises:
        UsageError: too few draws for the number of candidates.
        NumericalError: the decoder answers NaN.
    """
    out = RowGains(split)
    out.code = elbo_gain(candidates, posteriors, rng=fork(rng, "code"))
    stream = fork(rng, "likelihood")
    if model is not None and rows is not None and draws:
        _sweep(out, candidates, posteriors, model, rows, draws, stream, progress)
        return out
    out.evidence = exact_posterior_gain(candidates, posteriors, rng=fork(rng, "evidence"))
    if draws and len(out.evidence) < len(candidates.blends):
        open_ = {v.base for k, v in candidates.blends.items() if k not in out.evidence}
        _sweep(out, candidates.only(open_), posteriors, None, None, draws, stream, progress)
    return out


def elbo_gain(
    candidates: Candidates, posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> dict[str, Float[Tensor, " n"]]:
    """(a): the exact change of the ELBO with the encoder kept as it is; the mean over some draws of each row."""
    z = posteriors.draw(rng=rng, draws=ELBO_DRAWS)
    log_probs = candidates.log_probs(z)
    prior = standard_log_prob(z)
    return {k: (v - prior).reshape(ELBO_DRAWS, -1).mean(0) for k, v in log_probs.items()}


def exact_posterior_gain(
    candidates: Candidates, posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> dict[str, Float[Tensor, " n"]]:
    """(b) for the blends with a closed form: the change of log p(x) if q is the posterior; +inf where it diverges."""
    tilts = candidates.tilts(posteriors.mean, posteriors.scale, draws={}, rng=rng)
    zero = torch.zeros(posteriors.n, dtype=torch.float64)
    return {k: mix(tilts[v.base].log_ratio, zero, v.share) for k, v in candidates.blends.items() if v.base in tilts}


@torch.no_grad()
def _sweep(
    out: RowGains,
    candidates: Candidates,
    posteriors: MemoryPosteriors,
    model: Decoder | None,
    rows: Rows | None,
    draws: int,
    rng: torch.Generator,
    progress: Progress,
) -> None:
    """One pass over the rows with one set of draws: (c) of all blends, and (b), which needs draws or the same tilts."""
    plan, n = Plan.of(candidates, draws), posteriors.n
    what = f"{'evidence' if rows is None else 'likelihood'} {out.split}"

    def column() -> Tensor:
        return torch.empty(n, dtype=torch.float64)

    full, quarter, khat, evidence = ({k: column() for k in candidates.blends} for _ in range(4))
    exact_posterior_quarter: dict[str, Tensor] = {}
    reconstruction = column()
    for part in blocks(n, CHUNK):
        progress(what, part.start, n)
        drawn = propose(candidates, plan, posteriors.mean[part], posteriors.scale[part], fork(rng, part.start))
        blends = candidates.blend_log_probs(drawn.base, drawn.prior)
        for k, v in candidates.blends.items():
            if v.base in drawn.log_ratio:
                closed = drawn.log_ratio[v.base]
                evidence[k][part] = mix(closed, torch.zeros_like(closed), v.share)
            else:
                terms = drawn.posterior + blends[k] - drawn.prior - drawn.proposal
                evidence[k][part], exact_posterior_quarter.setdefault(k, column())[part] = _log_means(terms)
        if model is None or rows is None:
            continue
        log_x = _decode(model, drawn, rows.x[part])
        _check_decoded(log_x, rows.ids[part])
        reconstruction[part] = log_x[:, drawn.plain].mean(1)
        every = {k: log_x + log_r - drawn.proposal for k, log_r in blends.items()}
        tails = pareto_khat(torch.cat(list(every.values()))).chunk(len(every))
        for (k, terms), tail in zip(every.items(), tails, strict=True):
            full[k][part], quarter[k][part] = _log_means(terms)
            khat[k][part] = tail
    progress(what, n, n)
    wide = (posteriors.scale > 1).any(1).nonzero().flatten()
    if len(wide):  # the proposal's scales are capped there, those of (b) are not
        for k, values in exact_posterior_gain(candidates, posteriors.take(wide), rng=rng).items():
            evidence[k][wide] = values
    out.evidence |= evidence
    out.exact_posterior_quarter, out.draws = exact_posterior_quarter, draws
    if model is not None:
        out.likelihood = {k: v - full["prior"] for k, v in full.items()}
        out.quarter = {k: v - quarter["prior"] for k, v in quarter.items()}
        out.log_prior, out.log_prior_quarter = full["prior"], quarter["prior"]
        out.reconstruction, out.khat = reconstruction, khat
        out.rate = standard_kl(posteriors.mean.double(), posteriors.scale.double()).sum(1)


def moved(e: Estimate, full: Float[Tensor, " n"], quarter: Float[Tensor, " n"], draws: int) -> Estimate:
    """Trust an estimate if its mean moved by less than max(1 s.e., 0.05 nats) from a quarter of the draws to all.

    The bias of a log of a mean falls as 1/K, so what is left of it at K is about a third of the move.
    """
    if not e.stable:
        return e
    by = float(full.mean() - quarter.mean())
    limit = max(e.stderr or 0.0, TIE)
    because = f"moved {by:+.3f} nats from {draws // 4} to {draws} draws (limit {limit:.3f})"
    return replace(e, stable=abs(by) < limit, because=because)


def _log_means(terms: Float[Tensor, "b k"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Log of the mean weight of each row, from all draws and from the first quarter."""
    k = terms.shape[1]
    few = k // 4
    return torch.logsumexp(terms, 1) - math.log(k), torch.logsumexp(terms[:, :few], 1) - math.log(few)


def _decode(model: Decoder, drawn: Draws, x: Tensor) -> Float[Tensor, "b k"]:
    """Log p(x_i|z_ik), in blocks of latents."""
    b, k, d = drawn.z.shape
    flat = drawn.z.reshape(-1, d).to(x.dtype)
    row = torch.arange(b).repeat_interleave(k)
    parts = [model.decode(flat[i]).log_prob(x[row[i]]).double() for i in blocks(len(flat), DECODE)]
    return torch.cat(parts).reshape(b, k)


def _check_decoded(log_x: Float[Tensor, "b k"], ids: Tensor) -> None:
    """Raise `NumericalError` where the decoder answers NaN: no gain could be computed from it."""
    bad = torch.isnan(log_x).any(1)
    if bool(bad.any()):
        raise NumericalError(
            f"decoder: log p(x|z) is NaN for row {int(ids[bad][0])} at {int(torch.isnan(log_x[bad][0]).sum())} of "
            f"{log_x.shape[1]} draws; check that the rows are scaled as in training, and that the weights are finite"
        )

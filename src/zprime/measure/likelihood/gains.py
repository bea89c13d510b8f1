"""The three held-out gains over the prior: ELBO gain, exact-posterior gain, likelihood gain.

docs/theory.md, section 3. All are paired over rows, in nats a row, and conditional on this model.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import distributed
from zprime.arrays import blocks
from zprime.errors import UsageError
from zprime.latent.selection import TIE
from zprime.measure.candidates import Candidates, mix
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.decoding import check_decoded, chunk, log_probs_at
from zprime.measure.likelihood.proposal import Plan, wider
from zprime.measure.likelihood.row_draws import Sampled, sample_rows
from zprime.measure.prior import prior_kl, prior_log_prob
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.results.names import CandidateId, Gain
from zprime.rng import fork
from zprime.statistics.design import EQUAL, Design
from zprime.statistics.estimate import Estimate
from zprime.vae import Decoder

ELBO_DRAWS = 16
BARE = "gains: expected gains that were measured with a decoder, got gains without a likelihood gain"
PRIOR = CandidateId("prior")
DIVERGE = "diverge: q is wider than the prior there"


@dataclass(frozen=True, eq=False)
class RowGains:
    """Gains over the prior, row by row, of everything that is reported on, and by-products of the likelihood gain.

    Attributes:
        split: which rows.
        ids: of the rows; they decide the order in which a verdict bets on them.
        elbo: E_q[log r - log p], from draws shared by all candidates.
        exact_posterior: log E_q[r/p], in closed form where one is known (+inf where it diverges), else by importance
            sampling on the draws of the likelihood gain.
        exact_posterior_quarter: the same from the first quarter of those draws; only where there is no closed form.
        likelihood: log p_r(x) - log p_p(x), by importance sampling on draws shared by all candidates.
        quarter: the same from the first quarter of the draws.
        log_prior: log p_p(x) by the same draws, nats a row.
        log_prior_quarter: the same from the first quarter of the draws.
        reconstruction: E_q[log p(x|z)], the mean over those of the draws that are of q itself, nats a row.
        kl: KL(q||p), nats a row: exact where p is N(0, I), else the mean over 16 draws of the row, or over those that
            were brought.
        khat: Pareto k-hat of each row's weights.
        draws: draws a row of the likelihood gain, and of the exact-posterior gain where it has no closed form; 0 where
            none were needed.
        brought: whether these were brought, with log q there: then each row here is a datum, with all of its draws.
        weights: what each row counts; None for equal weights.
        groups: integers: rows of one group are dependent; None where all are independent.
        density_error: gain -> candidate -> standard error that the gain has because log r is a bound or an estimate,
            nats a row; without those whose log r is exact.
    """

    split: str
    ids: Int[Tensor, " n"]
    elbo: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    exact_posterior: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    exact_posterior_quarter: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    likelihood: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    quarter: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    log_prior: Float[Tensor, " n"] | None = None
    log_prior_quarter: Float[Tensor, " n"] | None = None
    reconstruction: Float[Tensor, " n"] | None = None
    kl: Float[Tensor, " n"] | None = None
    khat: dict[CandidateId, Float[Tensor, " n"]] = field(default_factory=dict)
    draws: int = 0
    brought: bool = False
    weights: Float[Tensor, " n"] | None = None
    groups: Int[Tensor, " n"] | None = None
    density_error: dict[Gain, dict[CandidateId, float]] = field(default_factory=dict)

    @property
    def design(self) -> Design:
        """Weights and groups, as means over rows take them."""
        return Design(self.weights, self.groups)

    def of(self, gain: Gain) -> dict[CandidateId, Float[Tensor, " n"]]:
        """One of the three gains; empty where it was not measured."""
        by_gain = {
            Gain.ELBO: self.elbo,
            Gain.EXACT_POSTERIOR: self.exact_posterior,
            Gain.LIKELIHOOD: self.likelihood,
        }
        return by_gain[gain]

    def log_prob(self, wanted: CandidateId) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Log p_r(x) under one candidate, row by row: from all draws, and from the first quarter.

        Raises:
            UsageError: the likelihood gain was not measured.
        """
        if self.log_prior is None or self.log_prior_quarter is None:
            raise UsageError(BARE)
        return self.likelihood[wanted] + self.log_prior, self.quarter[wanted] + self.log_prior_quarter

    def tensors(self) -> dict[str, Float[Tensor, " n"] | Int[Tensor, " n"]]:
        """All that is kept row by row, by the names of an audit's tensors."""
        tensors = {f"gain.{self.split}.{gain}.{i}": v for gain in Gain for i, v in self.of(gain).items()}
        tensors |= {f"quarter.{self.split}.{i}": v for i, v in self.quarter.items()}
        parts = {"log_prior": self.log_prior, "reconstruction": self.reconstruction, "kl": self.kl}
        parts |= {"row_ids": self.ids, "weights": self.weights, "groups": self.groups}
        return tensors | {f"{part}.{self.split}": v for part, v in parts.items() if v is not None}


def measure_gains(
    candidates: Candidates,
    split: Split,
    *,
    rng: torch.Generator,
    model: Decoder | None = None,
    draws: int = 400,
    progress: Progress = silent,
) -> RowGains:
    """Measure all three gains on the same rows; without a model or without rows the first two.

    Args:
        candidates: the candidates.
        split: the rows to score, with their posteriors.
        rng: source of randomness.
        model: the decoder as it is used for sampling.
        draws: draws a row of the likelihood gain, a multiple of 4; 0 leaves out all that needs them.
        progress: called once a chunk of rows.

    Raises:
        UsageError: too few draws for the number of candidates.
        NumericalError: the decoder answers NaN.
    """
    posteriors = split.posteriors
    if posteriors.form == "points":
        known = None if posteriors.datum is None else posteriors.log_q
        return _of_points(candidates, split) if known is None else _of_draws(candidates, split, known, model, draws)
    gains = _of_gaussians(candidates, split, model, draws, rng=rng, progress=progress)
    exact, quarter = (
        {k: posteriors.by_datum(v) for k, v in of.items()}
        for of in (gains.exact_posterior, gains.exact_posterior_quarter)
    )
    return replace(gains, exact_posterior=exact, exact_posterior_quarter=quarter)


def _of_points(candidates: Candidates, split: Split) -> RowGains:
    """Gains of draws or codes without a density: log r - log p there, and the log of its mean over draws of a datum.

    No likelihood gain: it asks for log q. No exact-posterior gain of single codes: there is no q to average over.
    """
    points = split.posteriors
    z = points.mean
    log_p = prior_log_prob(candidates.prior, z)
    elbo = {i: log_r - log_p for i, log_r in candidates.log_probs(z).items()}
    exact = {} if points.datum is None else {i: points.by_datum(v) for i, v in elbo.items()}
    return RowGains(split.name, points.row_ids, elbo, exact, weights=split.weights, groups=split.groups)


def _of_draws(
    candidates: Candidates, split: Split, log_q: Float[Tensor, " n"], model: Decoder | None, draws: int
) -> RowGains:
    """Gains of draws where log q is known: one row a datum. The proposal of the likelihood gain is q itself."""
    points, by = split.posteriors, ByDatum.of(split.posteriors)
    log_p = prior_log_prob(candidates.prior, points.mean)
    log_r, design = candidates.log_probs(points.mean), by.design(split)
    over_q = {i: by.log_means(v - log_p) for i, v in log_r.items()}
    gains = RowGains(
        split.name,
        points.row_ids[by.first],
        {i: by.mean(v - log_p) for i, v in log_r.items()},
        {i: full for i, (full, _) in over_q.items()},
        {i: quarter for i, (_, quarter) in over_q.items() if i != PRIOR},
        draws=int(by.count.min()),
        kl=by.mean(log_q - log_p),
        brought=True,
        weights=design.weights,
        groups=design.groups,
    )
    if model is None or split.rows is None or not draws:
        return gains
    log_x = log_probs_at(model, points.mean, split.rows.x, torch.arange(points.n))
    for lost in (~torch.isfinite(by.log_mean(log_x))).nonzero().flatten()[:1]:
        check_decoded(log_x[by.index == lost][None], gains.ids[lost][None])
    terms = {i: log_x + v - log_q for i, v in log_r.items()}
    full, quarter = ({i: by.log_means(v)[part] for i, v in terms.items()} for part in (0, 1))
    khat = {i: by.khat(v) for i, v in terms.items()}
    decoded = replace(gains, reconstruction=by.mean(log_x), khat=khat)
    return _over_prior(decoded, full, quarter)


def _over_prior(
    gains: RowGains, full: dict[CandidateId, Float[Tensor, " n"]], quarter: dict[CandidateId, Float[Tensor, " n"]]
) -> RowGains:
    """With the likelihood gains of log p_r(x) under every candidate, by all draws and by the first quarter."""
    return replace(
        gains,
        likelihood={k: v - full[PRIOR] for k, v in full.items()},
        quarter={k: v - quarter[PRIOR] for k, v in quarter.items()},
        log_prior=full[PRIOR],
        log_prior_quarter=quarter[PRIOR],
    )


def _of_gaussians(
    candidates: Candidates,
    split: Split,
    model: Decoder | None,
    draws: int,
    *,
    rng: torch.Generator,
    progress: Progress,
) -> RowGains:
    """The gains of rows with Gaussian posteriors, each component of a datum's posterior by itself."""
    posteriors = split.posteriors
    elbo = elbo_gain(candidates.told(split.each(ELBO_DRAWS)), posteriors, rng=fork(rng, "code"))
    sampling = fork(rng, "likelihood")
    if model is not None and split.rows is not None and draws:
        sampled = sampled_gains(candidates, split, model, draws, rng=sampling, progress=progress)
        return replace(sampled, elbo=elbo, weights=split.weights, groups=split.groups)
    closed = exact_posterior_gain(candidates.told(split.told), posteriors, rng=fork(rng, "evidence"))
    if not draws or len(closed) == len(candidates.blends):
        return RowGains(split.name, posteriors.row_ids, elbo, closed, weights=split.weights, groups=split.groups)
    others = candidates.only({blend.base for i, blend in candidates.blends.items() if i not in closed})
    sampled = sampled_gains(others, split, None, draws, rng=sampling, progress=progress)
    merged = replace(sampled, elbo=elbo, exact_posterior=closed | sampled.exact_posterior)
    return replace(merged, weights=split.weights, groups=split.groups)


def elbo_gain(
    candidates: Candidates, posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> dict[CandidateId, Float[Tensor, " n"]]:
    """ELBO gain: the exact change of the ELBO with the encoder kept as it is; the mean over some draws of each row."""
    z = posteriors.draw(rng=rng, draws=ELBO_DRAWS)
    log_probs = candidates.log_probs(z)
    log_p = prior_log_prob(candidates.prior, z)
    return {i: (log_r - log_p).reshape(ELBO_DRAWS, -1).mean(0) for i, log_r in log_probs.items()}


def exact_posterior_gain(
    candidates: Candidates, posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> dict[CandidateId, Float[Tensor, " n"]]:
    """Exact-posterior gain of what has it in closed form: the change of log p(x) if q is the posterior.

    It is +inf in rows where it diverges.
    """
    tilts = candidates.tilts(posteriors.mean, posteriors.scale, draws={}, rng=rng)
    zero = torch.zeros(posteriors.n, dtype=torch.float64)
    return {k: mix(tilts[v.base].log_ratio, zero, v.epsilon) for k, v in candidates.blends.items() if v.base in tilts}


@torch.no_grad()
def sampled_gains(
    candidates: Candidates,
    split: Split,
    model: Decoder | None,
    draws: int,
    *,
    rng: torch.Generator,
    progress: Progress,
) -> RowGains:
    """Gains that need draws of the rows, or the same tilts: exact-posterior gains, and with a model likelihood gains.

    One pass over the rows with one set of draws.
    """
    plan, posteriors, n = Plan.of(candidates, draws, modes=split.modes is not None), split.posteriors, split.n
    model = None if split.rows is None else model
    rows = None if model is None else split.rows
    what = f"{(Gain.EXACT_POSTERIOR if rows is None else Gain.LIKELIHOOD).words}, {split.name}"

    found = Sampled.joined(
        distributed.each(
            sample_rows,
            (candidates, split, model, plan, rng),
            list(blocks(n, chunk(draws))),
            before=lambda part: progress(what, part.start, n),
        )
    )
    progress(what, n, n)
    wide = wider(posteriors.mean, posteriors.scale, candidates.width).nonzero().flatten()
    if len(wide):  # the proposal's scales are capped there, those of the exact-posterior gain are not
        some = split.take(wide)
        for k, values in exact_posterior_gain(candidates.told(some.told), some.posteriors, rng=rng).items():
            found.exact[k][wide] = values
    gains = RowGains(split.name, posteriors.row_ids, {}, found.exact, found.exact_quarter, draws=draws)
    if rows is None:
        return gains
    kl = prior_kl(candidates.prior, posteriors, rng=fork(rng, "kl"))
    measured = replace(gains, reconstruction=found.reconstruction, kl=kl, khat=found.khat)
    return _over_prior(measured, found.full, found.quarter)


def moved(
    e: Estimate,
    full: Float[Tensor, " n"],
    quarter: Float[Tensor, " n"],
    draws: int,
    design: Design = EQUAL,
    *,
    limit: float,
) -> Estimate:
    """Call an estimate stable if its mean moved by less than `limit` nats from a quarter of the draws to all.

    The bias of a log of a mean falls as 1/K, so what is left of it at K is about a third of the move.
    """
    if not e.stable:
        return e
    by = design.mean(full) - design.mean(quarter)
    because = f"moved {by:+.3f} nats from {max(draws // 4, 1)} to {draws} draws (limit {limit:.3f})"
    return replace(e, stable=abs(by) < limit, because=because)


def deciding(value: float) -> float:
    """How far a gain may move: its distance from 0.05 nats, where decisions turn, and at least 0.05 nats."""
    return max(TIE, abs(value - TIE))

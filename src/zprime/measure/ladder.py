"""The ladder of held-out gains over the prior: (a) code gain, (b) evidence gain, (c) likelihood gain.

Theory page, section 3. All are paired over rows, in nats a row, and conditional on this model.
"""

import math
import warnings
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, gaussian_log_prob, standard_log_prob
from zprime.data import Rows
from zprime.distribution import Progress, silent
from zprime.errors import UsageError
from zprime.measure.panel import Panel, mix
from zprime.posteriors import InMemory
from zprime.rng import fork
from zprime.vae import Decoder

CODE_DRAWS = 16
CHUNK = 8  # rows whose draws are decoded together: part of the random streams' names, so a constant
DECODE = 1024
WIDENED = (1.0, 1.5, 2.5)
PRIOR_SHARE = 0.1


@dataclass
class Ladder:
    """Gains over the prior of every view, row by row; `quarter` and `khat` belong to rung (c).

    Attributes:
        split: which rows.
        code: (a) E_q[log r - log p], from draws shared by all views.
        evidence: (b) log E_q[r/p] in closed form; +inf where it diverges; absent for kinds without one.
        likelihood: (c) log p_r(x) - log p_p(x), importance sampling on draws shared by all views.
        quarter: (c) from the first quarter of the draws.
        log_prior: log p_p(x) of rung (c), nats a row.
        khat: Pareto k-hat of each row's weights.
        draws: draws a row of rung (c), 0 where it was not climbed.
    """

    split: str
    code: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    evidence: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    likelihood: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    quarter: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    log_prior: Float[Tensor, " n"] | None = None
    khat: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    draws: int = 0


def climb(
    panel: Panel,
    posteriors: InMemory,
    *,
    split: str,
    rng: torch.Generator,
    model: Decoder | None = None,
    rows: Rows | None = None,
    draws: int = 400,
    progress: Progress = silent,
) -> Ladder:
    """Measure all three rungs on the same rows; without a model the first two.

    Args:
        panel: the candidates.
        posteriors: of the rows to score.
        split: their name.
        rng: source of randomness.
        model: the decoder as it is used for sampling.
        rows: the rows themselves, in the order of `posteriors`.
        draws: draws a row of rung (c), a multiple of 4.
        progress: called once a chunk of rows.

    Raises:
        UsageError: too few draws for the number of candidates.
    """
    out = Ladder(split)
    out.code = code_gain(panel, posteriors, rng=fork(rng, "code"))
    out.evidence = evidence_gain(panel, posteriors, rng=fork(rng, "evidence"))
    if model is not None and rows is not None:
        _likelihood(out, panel, posteriors, model, rows, draws, fork(rng, "likelihood"), progress)
    return out


def code_gain(panel: Panel, posteriors: InMemory, *, rng: torch.Generator) -> dict[str, Float[Tensor, " n"]]:
    """(a): the exact change of the ELBO with the encoder kept as it is; the mean over some draws of each row."""
    z = posteriors.draw(rng=rng, draws=CODE_DRAWS)
    log_probs = panel.log_probs(z)
    prior = standard_log_prob(z)
    return {k: (v - prior).reshape(CODE_DRAWS, -1).mean(0) for k, v in log_probs.items()}


def evidence_gain(panel: Panel, posteriors: InMemory, *, rng: torch.Generator) -> dict[str, Float[Tensor, " n"]]:
    """(b) for the views with a closed form: the change of log p(x) if q is the posterior; +inf where it diverges."""
    tilts = panel.tilts(posteriors.mean, posteriors.scale, draws={}, rng=rng)
    zero = torch.zeros(posteriors.n, dtype=torch.float64)
    return {k: mix(tilts[v.base].log_ratio, zero, v.share) for k, v in panel.views.items() if v.base in tilts}


@dataclass(frozen=True)
class _Plan:
    """How many draws each part of the proposal gets in each quarter."""

    widened: list[int]
    tilted: dict[str, int]
    direct: dict[str, int]

    @property
    def quarter(self) -> int:
        return sum(self.widened) + sum(self.tilted.values()) + sum(self.direct.values())


def _plan(panel: Panel, tilted: list[str], draws: int) -> _Plan:
    if draws % 4 or draws < 8:
        raise UsageError(f"draws: expected a multiple of 4, at least 8, got {draws}")
    quarter = draws // 4
    parts = len(WIDENED) + len(tilted)
    direct = max(1, round(PRIOR_SHARE * quarter / len(panel.bases)))
    rest = quarter - direct * len(panel.bases)
    if rest < parts:
        raise UsageError(
            f"draws: expected at least {4 * (parts + direct * len(panel.bases))} for {len(panel.bases)} candidates, "
            f"got {draws}"
        )
    counts = [rest // parts + (1 if i < rest % parts else 0) for i in range(parts)]
    return _Plan(
        counts[: len(WIDENED)],
        dict(zip(tilted, counts[len(WIDENED) :], strict=True)),
        dict.fromkeys(panel.bases, direct),
    )


@torch.no_grad()
def _likelihood(
    out: Ladder,
    panel: Panel,
    posteriors: InMemory,
    model: Decoder,
    rows: Rows,
    draws: int,
    rng: torch.Generator,
    progress: Progress,
) -> None:
    """(c): every row's log p_r(x) for all views, from one set of draws of one proposal.

    The proposal is a mixture with fixed shares in every quarter of the draws (stratified, balance heuristic; Veach &
    Guibas 1995): q, q widened, every q_r, and all r's with the prior among them.
    """
    mean, scale = posteriors.mean, posteriors.scale.clamp(max=1.0)
    probe = panel.tilts(mean[:1], scale[:1], draws={}, rng=rng)
    plan = _plan(panel, list(probe), draws)
    n = posteriors.n
    full = {k: torch.empty(n, dtype=torch.float64) for k in panel.views}
    quarter = {k: torch.empty(n, dtype=torch.float64) for k in panel.views}
    khat = {k: torch.empty(n, dtype=torch.float64) for k in panel.views}
    for part in blocks(n, CHUNK):
        progress(f"likelihood {rows.name}", part.start, n)
        z, log_ratio = _propose(panel, plan, mean[part], scale[part], fork(rng, part.start))
        weights = _weights(panel, plan, z, mean[part], scale[part], log_ratio)
        log_x = _decode(model, z, rows.x[part])
        for k, w in weights.items():
            terms = log_x + w
            full[k][part] = torch.logsumexp(terms, 1) - math.log(draws)
            quarter[k][part] = torch.logsumexp(terms[:, : draws // 4], 1) - math.log(draws // 4)
            khat[k][part] = pareto_khat(terms)
    progress(f"likelihood {rows.name}", n, n)
    out.likelihood = {k: v - full["prior"] for k, v in full.items()}
    out.quarter = {k: v - quarter["prior"] for k, v in quarter.items()}
    out.log_prior, out.khat, out.draws = full["prior"], khat, draws


def _propose(
    panel: Panel, plan: _Plan, mean: Tensor, scale: Tensor, rng: torch.Generator
) -> tuple[Float[Tensor, "b k d"], dict[str, Tensor]]:
    """Draws of a chunk of rows, quarter by quarter, and log E_q[r/p] of the bases that have it."""
    b, d = mean.shape
    tilts = panel.tilts(mean, scale, draws={k: 4 * c for k, c in plan.tilted.items()}, rng=rng)
    pools: list[Tensor] = []
    for factor, count in zip(WIDENED, plan.widened, strict=True):
        noise = torch.randn(b, 4 * count, d, generator=rng, dtype=mean.dtype)
        pools.append(mean[:, None] + factor * scale[:, None] * noise)
    pools += [tilts[k].draws.to(mean.dtype) for k in plan.tilted]
    for k, count in plan.direct.items():
        pools.append(panel.bases[k].sample(b * 4 * count, rng=fork(rng, "direct", k)).to(mean.dtype).reshape(b, -1, d))
    quarters = [torch.cat([p.chunk(4, dim=1)[i] for p in pools], 1) for i in range(4)]
    return torch.cat(quarters, 1), {k: t.log_ratio for k, t in tilts.items()}


def _weights(
    panel: Panel, plan: _Plan, z: Tensor, mean: Tensor, scale: Tensor, log_ratio: dict[str, Tensor]
) -> dict[str, Float[Tensor, "b k"]]:
    """Log r(z) - log proposal(z) of every view."""
    b, k, d = z.shape
    flat = z.reshape(-1, d)
    base = {name: r.log_prob(flat).reshape(b, k) for name, r in panel.bases.items()}
    prior = standard_log_prob(z)
    mu, s = mean.double()[:, None], scale.double()[:, None]
    log_q = [gaussian_log_prob(z.double(), mu, f * s) for f in WIDENED]
    total = plan.quarter
    parts = [q + math.log(c / total) for q, c in zip(log_q, plan.widened, strict=True) if c]
    for name, count in plan.tilted.items():
        if count:
            parts.append(log_q[0] + base[name] - prior - log_ratio[name][:, None] + math.log(count / total))
    parts += [base[name] + math.log(c / total) for name, c in plan.direct.items()]
    proposal = torch.logsumexp(torch.stack(parts), 0)
    return {name: mix(base[v.base], prior, v.share) - proposal for name, v in panel.views.items()}


def _decode(model: Decoder, z: Tensor, x: Tensor) -> Float[Tensor, "b k"]:
    """Log p(x_i|z_ik), in blocks of latents."""
    b, k, d = z.shape
    flat = z.reshape(-1, d).to(x.dtype)
    row = torch.arange(b).repeat_interleave(k)
    parts = [model.decode(flat[i]).log_prob(x[row[i]]).double() for i in blocks(len(flat), DECODE)]
    return torch.cat(parts).reshape(b, k)


def pareto_khat(log_weights: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Pareto k-hat of each row's importance weights (Vehtari et al. 2024), by arviz-stats."""
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # it takes log-likelihoods, whose negatives are the log-weights of leave-one-out
        _, khat = array_stats.psislw(-log_weights.numpy(), axis=-1)  # type: ignore[no-untyped-call]
    return torch.from_numpy(khat.astype("float64").reshape(-1))

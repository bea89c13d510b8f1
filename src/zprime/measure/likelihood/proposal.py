"""The proposal of the likelihood gain: one set of draws for every row, shared by all candidates and the prior.

docs/theory.md, section 3: a mixture of q, q widened, every candidate's q_r, and 10 % of the r's and p themselves, each
with a fixed number of the draws in every quarter (stratified, balance heuristic; Veach & Guibas 1995).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.arrays import covariances, gaussian_log_prob, is_full, times, variances
from zprime.errors import UsageError
from zprime.measure.candidates import Candidates
from zprime.measure.prior import prior_log_prob
from zprime.results.settings import AuditSettings
from zprime.rng import fork

WIDENED = (1.0, 1.5, 2.5)
MODES = 2  # parts of the proposal that draws around modes get, as many as two kinds of candidate
DIRECT = 0.1  # of the draws: from r and p themselves
PILOT = 64  # draws a row that a matched Gaussian is made from; never used again, so that the estimate stays unbiased
PILOT_WIDENED = (1.0, 1.5)
EFFECTIVE = 12.0  # effective pilot draws that the tempered weights must leave
PSEUDO = 4.0  # draws that q itself counts for in the variance of the match
INFLATE = 1.2  # of the match's scales: a proposal should be wider than its target
TEMPERS = 11


def least_draws(candidates: int) -> int:
    """Draws a row that a plan for so many candidates needs, the prior among them: one for each of its parts."""
    matched = candidates - 1
    return 4 * (len(WIDENED) + matched + candidates)


def enough_draws(settings: AuditSettings, candidates: int) -> AuditSettings:
    """Settings of a quick audit with as many draws as so many candidates need; others as they are."""
    short = settings.quick and 0 < settings.draws < least_draws(candidates)
    return replace(settings, draws=least_draws(candidates)) if short else settings


@dataclass(frozen=True)
class Plan:
    """How many draws each part of the proposal gets in each quarter.

    Attributes:
        widened: for q and q widened, in the order of `WIDENED`.
        matched: for the q_r of every base.
        direct: for every base itself, the prior among them.
        modes: around the modes that were searched for; 0 where there are none.
    """

    widened: list[int]
    matched: dict[str, int]
    direct: dict[str, int]
    modes: int = 0

    @property
    def quarter(self) -> int:
        """Draws a quarter."""
        return sum(self.widened) + sum(self.matched.values()) + sum(self.direct.values()) + self.modes

    @classmethod
    def of(cls, candidates: Candidates, draws: int, *, modes: bool = False) -> "Plan":
        """Divide `draws` between the parts; with `modes`, some around modes that were searched for.

        Raises:
            UsageError: not a multiple of 4, or too few for the number of candidates.
        """
        if draws % 4 or draws < 8:
            raise UsageError(f"draws: expected a multiple of 4, at least 8, got {draws}")
        least = least_draws(len(candidates.bases)) + (4 * MODES if modes else 0)
        if draws < least:
            raise UsageError(f"draws: expected at least {least} for {len(candidates.bases)} candidates, got {draws}")
        quarter = draws // 4
        # the q_r of the prior is q
        matched = [name for name in candidates.bases if name != "prior"]
        parts = len(WIDENED) + len(matched) + (MODES if modes else 0)
        direct = max(1, round(DIRECT * quarter / len(candidates.bases)))
        rest = quarter - direct * len(candidates.bases)
        counts = [rest // parts + (1 if i < rest % parts else 0) for i in range(parts)]
        return cls(
            counts[: len(WIDENED)],
            dict(zip(matched, counts[len(WIDENED) : len(WIDENED) + len(matched)], strict=True)),
            dict.fromkeys(candidates.bases, direct),
            sum(counts[len(WIDENED) + len(matched) :]),
        )


@dataclass(frozen=True)
class Draws:
    """Draws of a few rows, with every density at them: each base is evaluated once.

    Attributes:
        z: shape [rows, draws, d], quarter by quarter.
        base: log r(z) of every base.
        prior: log p(z).
        posterior: log q(z|x), q as the encoder gave it.
        proposal: log-density of the mixture that z was drawn from.
        log_ratio: log E_q[r/p] of the bases that have it in closed form, with q's scales capped at the prior's, shape
            [rows].
        from_posterior: which draws of a row are of q itself, shape [draws].
    """

    z: Float[Tensor, "b k d"]
    base: dict[str, Float[Tensor, "b k"]]
    prior: Float[Tensor, "b k"]
    posterior: Float[Tensor, "b k"]
    proposal: Float[Tensor, "b k"]
    log_ratio: dict[str, Float[Tensor, " b"]]
    from_posterior: Tensor


def propose(
    candidates: Candidates,
    plan: Plan,
    mean: Float[Tensor, "b d"],
    scale: Float[Tensor, "b d"] | Float[Tensor, "b d d"],
    rng: torch.Generator,
    modes: Float[Tensor, "b m d"] | None = None,
) -> Draws:
    """Draw for a chunk of rows. Where q is wider than the prior its scales count as the prior's (but in q itself)."""
    b, d = mean.shape
    capped = cap(mean, scale, candidates.width)
    modes = None if modes is None else modes.to(mean.dtype)
    tilts = candidates.tilts(mean, capped, draws={k: 4 * c for k, c in plan.matched.items()}, rng=rng)
    untilted = [k for k in plan.matched if k not in tilts]
    matches = match(candidates, untilted, mean, capped, rng=fork(rng, "pilot")) if untilted else {}
    scales = [scale if f == 1 else f * capped for f in WIDENED]
    pools = [_gaussian(mean, s, 4 * c, rng) for s, c in zip(scales, plan.widened, strict=True)]
    for name, count in plan.matched.items():
        if name in tilts:
            pools.append(tilts[name].draws.to(mean.dtype))
        else:
            pools.append(_gaussian(*matches[name], 4 * count, fork(rng, "match", name)))
    for name, count in plan.direct.items():
        drawn = candidates.bases[name].sample(b * 4 * count, rng=fork(rng, "direct", name))
        pools.append(drawn.to(mean.dtype).reshape(b, -1, d))
    if modes is not None:
        pools.append(_around(modes, INFLATE * capped, 4 * plan.modes, fork(rng, "modes")))
    z = torch.cat([torch.cat([p.chunk(4, dim=1)[i] for p in pools], 1) for i in range(4)], 1)

    wide, mu = z.double(), mean.double()[:, None]
    base = candidates.base_log_probs(z.reshape(-1, d))
    base = {name: v.reshape(b, -1) for name, v in base.items()}
    prior = prior_log_prob(candidates.prior, z)
    log_q = [gaussian_log_prob(wide, mu, s.double()[:, None]) for s in scales]
    total = plan.quarter
    parts = [q + math.log(c / total) for q, c in zip(log_q, plan.widened, strict=True) if c]
    log_capped = gaussian_log_prob(wide, mu, capped.double()[:, None]) if tilts else log_q[0]
    for name, count in plan.matched.items():
        if name in tilts:
            density = log_capped + base[name] - prior - tilts[name].log_ratio[:, None]
        else:
            centre, spread = matches[name]
            density = gaussian_log_prob(wide, centre.double()[:, None], spread.double()[:, None])
        parts.append(density + math.log(count / total))
    parts += [base[name] + math.log(c / total) for name, c in plan.direct.items()]
    if modes is not None:
        each = [
            gaussian_log_prob(wide, m[:, None], INFLATE * capped.double()[:, None]) for m in modes.double().unbind(1)
        ]
        density = torch.logsumexp(torch.stack(each), 0) - math.log(len(each))
        parts.append(density + math.log(plan.modes / total))
    position = torch.arange(4 * total) % total
    proposal = torch.logsumexp(torch.stack(parts), 0)
    log_ratio = {name: t.log_ratio for name, t in tilts.items()}
    return Draws(z, base, prior, log_q[0], proposal, log_ratio, position < plan.widened[0])


def cap(
    mean: Float[Tensor, "b d"], scale: Float[Tensor, "b d"] | Float[Tensor, "b d d"], width: Float[Tensor, " d"]
) -> Float[Tensor, "b d"] | Float[Tensor, "b d d"]:
    """Scales at most the prior's, in every dimension; of a full covariance in every direction, in units of `width`."""
    if not is_full(mean, scale):
        return torch.minimum(scale, width.to(scale))
    if not bool(wider(mean, scale, width).any()):
        return scale
    value, axis = torch.linalg.eigh(covariances(mean, scale / width[:, None]))
    most: Tensor = torch.linalg.cholesky((axis * value.clamp(max=1)[:, None]) @ axis.mT)
    return (width[:, None] * most).to(scale.dtype)


def wider(
    mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"], width: Float[Tensor, " d"]
) -> Bool[Tensor, " n"]:
    """Which posteriors are wider than the prior in some dimension, or direction."""
    if not is_full(mean, scale):
        return (scale > width).any(1)
    largest: Tensor = torch.linalg.matrix_norm(scale.double() / width[:, None], ord=2)
    return largest > 1 + 1e-12


def match(
    candidates: Candidates,
    names: list[str],
    mean: Float[Tensor, "b d"],
    scale: Float[Tensor, "b d"] | Float[Tensor, "b d d"],
    *,
    rng: torch.Generator,
) -> dict[str, tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]]:
    """For bases whose q_r has no closed form: a diagonal Gaussian near it, for every row.

    Pilot draws of q and q widened, shared by all `names`, are weighted by `q(z) [r(z)/p(z)]^t / pilot(z)`, with t the
    largest of 1, 0.9, ..., 0 that leaves 12 effective draws of 64; the Gaussian has their mean and, a little inflated,
    their variances. The pilot draws are then thrown away, so that the estimate of p_r(x) stays unbiased.

    Returns:
        Means and standard deviations of every base in `names`.
    """
    b, d = mean.shape
    each = PILOT // len(PILOT_WIDENED)
    z = torch.cat([_gaussian(mean, f * scale, each, rng) for f in PILOT_WIDENED], 1)
    wide, mu, s = z.double(), mean.double()[:, None], scale.double()[:, None]
    log_q = torch.stack([gaussian_log_prob(wide, mu, f * s) for f in PILOT_WIDENED])
    log_weight = log_q[0] - torch.logsumexp(log_q, 0)
    prior = prior_log_prob(candidates.prior, z)
    log_probs = candidates.base_log_probs(z.reshape(-1, d), names)
    power = torch.linspace(1, 0, TEMPERS, dtype=torch.float64, device=z.device)[:, None, None]
    matches = {}
    for name, log_r in log_probs.items():
        w = torch.softmax(log_weight + power * (log_r.reshape(b, -1) - prior), 2)
        effective = 1 / w.square().sum(2)
        # the first power that leaves enough; where none does, the last, which gives q
        pick = torch.where(effective >= EFFECTIVE, 1, 0).argmax(0)
        pick = torch.where((effective >= EFFECTIVE).any(0), pick, TEMPERS - 1)
        row = torch.arange(b, device=z.device)
        w, n = w[pick, row][..., None], effective[pick, row][:, None]
        centre = (w * wide).sum(1)
        var = (w * (wide - centre[:, None]).square()).sum(1)
        var = (n * var + PSEUDO * variances(mean, scale.double())) / (n - 1 + PSEUDO)
        matches[name] = (centre.to(mean.dtype), (INFLATE * var.sqrt()).to(mean.dtype))
    return matches


def _around(modes: Tensor, scale: Tensor, count: int, rng: torch.Generator) -> Float[Tensor, "b k d"]:
    """Draws of the uniform mixture of Gaussians around the modes."""
    b, m, d = modes.shape
    pick = torch.randint(m, (b, count, 1), generator=rng).expand(-1, -1, d)
    noise = torch.randn(b, count, d, generator=rng, dtype=modes.dtype)
    return modes.gather(1, pick) + times(scale[:, None], noise)


def _gaussian(mean: Tensor, scale: Tensor, count: int, rng: torch.Generator) -> Float[Tensor, "b k d"]:
    noise = torch.randn(len(mean), count, mean.shape[1], generator=rng, dtype=mean.dtype, device=mean.device)
    return mean[:, None] + times(scale[:, None], noise)

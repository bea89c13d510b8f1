"""Log E_q[r/p] far from the scales of a VAE's codes: the same closed forms, arranged so that nothing cancels.

In float64. They cost more than the forms in `mixture` and `dense`, and are taken only where those would lose the
answer: squares that under- or overflow, `mu^2 / s^2` beyond what float64 resolves, scales near 1 beside huge ones.
Diagonal components are exact to a few roundings of the largest part of the answer. With full covariances an error bound
is computed along, and where it is not small, or the integral is at the edge of divergence, a NumericalError says so.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.errors import NumericalError
from zprime.kernels.scaling import reach

NARROW, BROAD, OFF = 1e-4, 1e2, 1e2  # scales, and entries of means, that the float32 form is tested for
STEEP = 1e4  # means in standard deviations from which on the difference of their squares loses too much in float64
PROVEN = 1e-4  # nats, or a proportion of the answer: the most that a full covariance may cost
EDGE = 1e-13  # of its parts, below which a pivot is rounding


def is_far(
    mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]
) -> bool:
    """Whether some mean or standard deviation is beyond what `diagonal_log_ratio` is tested for."""
    bounds = [s.aminmax(), scale.aminmax()] if len(mu) and len(mean) else []
    near = all(float(low) >= NARROW and float(high) <= BROAD for low, high in bounds)
    return not (near and reach(mu) <= OFF and reach(mean) <= OFF)


def is_far_full(
    mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"], mean: Float[Tensor, "k d"], scale_tril: Float[Tensor, "k d d"]
) -> bool:
    """The same for components with full covariance, in float64."""
    diagonal = scale_tril.diagonal(dim1=1, dim2=2)
    if not len(mu) or not len(mean):
        return False
    (low, high), (least, most) = s.aminmax(), diagonal.aminmax()
    steep = max(reach(mu) / float(low), reach(mean) / float(least), 1 / float(low), 1 / float(least))
    return not (steep <= STEEP and float(high) <= STEEP and float(most) <= STEEP)


def product(s: Tensor, t: Tensor) -> Tensor:
    """`A = s^2 + t^2 - s^2 t^2`, which is at most 0 where E_q[r/p] diverges."""
    v, w = s.square(), t.square()
    both = 1 - (s - 1) * (s + 1) * (t - 1) * (t + 1)
    return torch.where(s <= 1, v + w * (1 - s) * (1 + s), torch.where(t <= 1, w + v * (1 - t) * (1 + t), both))


@torch.no_grad()
def diagonal_log_ratio(
    mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]
) -> Float[Tensor, "m n"]:
    """What `mixture.diagonal_log_ratio` gives, in float64, for scales from 1e-37 to 1e37 and means up to 1e37.

    Raises:
        NumericalError: beyond that.
    """
    mu, s, mean, scale = mu.double(), s.double(), mean.double(), scale.double()
    total = torch.zeros(len(mu), len(mean), dtype=torch.float64, device=mu.device)
    diverges = torch.zeros_like(total, dtype=torch.bool)
    for j in range(mu.shape[1]):
        x, sj, m, t = mu[:, j, None], s[:, j, None], mean[None, :, j], scale[None, :, j]
        v, w, gap = sj.square(), t.square(), (x - m).square()
        a = product(sj, t)
        # x^2 w + m^2 v - (x - m)^2, or the same with the square multiplied out: the one whose parts are smaller
        left, right, cross = x.square(), m.square(), 2 * x * m
        apart, below = left * w + right * v, left * ((1 - t) * (1 + t)) + right * ((1 - sj) * (1 + sj))
        out = left * ((1 - t) * (1 + t)).abs() + right * ((1 - sj) * (1 + sj)).abs() + cross.abs()
        total += torch.where(apart + gap <= out, apart - gap, cross - below) / a - a.log()
        diverges |= (a <= 0) & (sj > 1) & (t > 1)
    beyond = ~torch.isfinite(total) & ~diverges  # squares out of the range of float64
    return checked(total.mul_(0.5).masked_fill_(diverges, torch.inf).masked_fill_(beyond, torch.nan))


@torch.no_grad()
def full_log_ratio(
    mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"], mean: Float[Tensor, "k d"], scale_tril: Float[Tensor, "k d d"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k d"], Float[Tensor, "m k d d"]]:
    """What `dense.full_log_ratio` gives, by `q N_k = N(mu; mean, C + S) N(z; c, V)` with `V^-1 = C^-1 + S^-1`.

    With `P = V^-1 - I`, the log-ratio is
    `1/2 [|c|^2 + c' P^-1 c - (mu - mean)' (C + S)^-1 (mu - mean) - log det C - log det S - log det P]`.

    Raises:
        NumericalError: at the edge of divergence, where rounding decides, or beyond float64.
    """
    mu, s, mean, tril = mu.double(), s.double(), mean.double(), scale_tril.double()
    if not bool(tril.tril(-1).any()):
        return _diagonal(mu, s, mean, tril.diagonal(dim1=1, dim2=2))
    d, v = mu.shape[1], s.square()
    eye = torch.eye(d, dtype=torch.float64, device=mu.device)
    covariance = tril @ tril.mT
    outer, info = torch.linalg.cholesky_ex(covariance + torch.diag_embed(v)[:, None])
    gap = (mu[:, None] - mean)[..., None]
    whitened = torch.linalg.solve_triangular(outer, gap, upper=False)
    solved = torch.linalg.solve_triangular(outer.mT, whitened, upper=True)
    # c from mu or from the component's mean, in each dimension from the nearer one
    back, forth = v[:, None] * solved[..., 0], (covariance @ solved)[..., 0]
    from_mu = mu.abs()[:, None] + back.abs()
    from_mean = mean.abs() + (covariance.abs() @ solved.abs())[..., 0]
    centre = torch.where(from_mu <= from_mean, mu[:, None] - back, mean + forth)
    own, inverse = (1 - s) * (1 + s) / v, torch.cholesky_inverse(tril)
    factor, failed = torch.linalg.cholesky_ex(torch.diag_embed(own)[:, None] + inverse)
    diverges = (failed != 0) & (s > 1).any(1)[:, None]
    parts = own.abs()[:, None] + inverse.diagonal(dim1=1, dim2=2)
    edge = (factor.diagonal(dim1=-2, dim2=-1).square() < EDGE * parts).any(-1) & ~diverges
    if bool((info != 0).any() | ((failed != 0) & ~diverges).any() | edge.any()):
        raise NumericalError(
            "E_q[r/p]: standard deviations so far apart that float64 cannot tell whether it is finite; "
            "leave out rows or components that lie far from all others"
        )
    factor = torch.where(diverges[..., None, None], eye, factor)
    u = torch.linalg.solve_triangular(factor, centre[..., None], upper=False)
    logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + s.log().sum(1)[:, None]
    logs = logs + tril.diagonal(dim1=1, dim2=2).log().sum(1)
    squares = centre.square().sum(-1) + u.square().sum((-2, -1)) - whitened.square().sum((-2, -1))
    mode = centre + torch.linalg.solve_triangular(factor.mT, u, upper=True)[..., 0]  # (I - V)^-1 = I + P^-1
    ratio = (0.5 * squares - logs).masked_fill(diverges, torch.inf)
    rounding = 4 * d * 2.0**-52
    size = centre.square().sum(-1) + u.square().sum((-2, -1)) + whitened.square().sum((-2, -1))
    lost = rounding * (size + 2 * (mode.abs() * torch.minimum(from_mu, from_mean)).sum(-1))
    if bool((~diverges & ~(lost <= PROVEN * ratio.abs().clamp(min=1))).any()):
        raise NumericalError(
            f"E_q[r/p]: float64 loses up to {float(lost[~diverges].max()):.1e} nats here; means lie too many standard "
            "deviations apart for a full covariance. Leave out rows that lie far from all others, or use diagonal ones"
        )
    return checked(ratio), mode.masked_fill(diverges[..., None], torch.nan), factor


def _diagonal(mu: Tensor, s: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for diagonal factors."""
    ratio = diagonal_log_ratio(mu, s, mean, scale)
    v, w, a = s.square()[:, None], scale.square(), product(s[:, None], scale)
    bad = (a <= 0).any(-1)
    centre = ((mu[:, None] * w + mean * v) / a).masked_fill(bad[..., None], torch.nan)
    root = torch.where(bad[..., None], 1.0, (a / (v * w)).clamp(min=0).sqrt())
    return ratio, centre, torch.diag_embed(root)


def checked(log_ratio: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Raise `NumericalError` where an entry is not a number."""
    lost = log_ratio.isnan().nonzero()
    if len(lost):
        row, component = lost[0].tolist()
        raise NumericalError(
            f"E_q[r/p]: beyond float64 for posterior {row} and component {component} ({len(lost)} of "
            f"{log_ratio.numel()} pairs); their means or standard deviations are too far from 1"
        )
    return log_ratio

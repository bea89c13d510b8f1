"""Densities of mixtures of diagonal Gaussians, streamed in tiles."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks

POINTS = 256  # a tile of 256 x 2048 float64 stays in cache: 1.3 s against 2.6 s at 1024 x 4096
COMPONENTS = 2048
PANEL = 65536  # components whose features are held at once
FLOOR = -80.0  # exp(-80) is nothing beside 1, and exp of less is 13 to 38 times slower (denormals)


@torch.no_grad()
def mixture_log_prob(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "n d"],
    scale: Float[Tensor, "n d"],
    log_weight: Float[Tensor, " n"],
    *,
    leave_out: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """Exact log sum_k w_k N(z; mean_k, diag(scale_k^2)) in nats, float64.

    The square is expanded into one matrix product in float64 on centred points: largest error against the direct
    form 4e-9 nats at scale 0.003 and d = 32 (in float32 it would be 2.0). Terms more than 80 nats below the largest
    of their tile count as exp(-80): a relative error below N e^-80. Memory is bounded by the tiles, whatever m and n.

    Args:
        z: points.
        mean: component means.
        scale: component standard deviations.
        log_weight: log-weights; -inf is allowed.
        leave_out: for every point the position of a component to leave out, or -1; the rest is not renormalised.
    """
    m, d = z.shape
    n = mean.shape[0]
    centre = mean.double().mean(0)
    points = z.double() - centre
    features = torch.cat([points.square(), points, torch.ones(m, 1, dtype=torch.float64, device=z.device)], 1)
    top = torch.full((m,), -torch.inf, dtype=torch.float64, device=z.device)
    total = torch.zeros(m, dtype=torch.float64, device=z.device)
    for panel in blocks(n, PANEL):
        mu, precision = mean[panel].double() - centre, scale[panel].double().pow(-2)
        constant = (
            log_weight[panel].double()
            - 0.5 * d * LOG_2PI
            - scale[panel].double().log().sum(1)
            - 0.5 * (mu.square() * precision).sum(1)
        )
        weights = torch.cat([-0.5 * precision, mu * precision, constant[:, None]], 1)
        for rows in blocks(m, POINTS):
            for columns in blocks(len(weights), COMPONENTS):
                tile = features[rows] @ weights[columns].T
                if leave_out is not None:
                    mask(tile, leave_out[rows] - (panel.start + columns.start))
                accumulate(tile, top[rows], total[rows])
    return top + total.log()


def mask(tile: Tensor, position: Tensor) -> None:
    """Set the entry `position` of each row to -inf where it lies inside the tile."""
    row = ((position >= 0) & (position < tile.shape[1])).nonzero().flatten()
    tile[row, position[row]] = -torch.inf


def accumulate(tile: Tensor, top: Tensor, total: Tensor) -> None:
    """Add a tile of log-terms to the running sums, total * exp(top), in place."""
    peak = torch.maximum(top, tile.amax(1))
    # where all is -inf so far, any finite shift will do
    shift = torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))
    tile.sub_(shift[:, None]).clamp_(min=FLOOR).exp_()
    total.mul_((top - shift).exp()).add_(tile.sum(1))
    top.copy_(peak)


@torch.no_grad()
def diagonal_log_ratio(
    mu: Float[Tensor, "m d"],
    s: Float[Tensor, "m d"],
    mean: Float[Tensor, "n d"],
    scale: Float[Tensor, "n d"],
) -> Float[Tensor, "m n"]:
    """Log E_q[N(z; mean_k, scale_k^2) / N(z; 0, I)] for q = N(mu_i, s_i^2), every i and k, in nats.

    With A = s^2 + t^2 - s^2 t^2 per dimension, the value is
    `1/2 sum_j { -log A + [mu^2 t^2 + m^2 s^2 - (mu - m)^2] / A }`, and +inf where some A <= 0 (then s > 1 and t > 1).
    Computed in the inputs' dtype; error in float32 below 1e-4 nats for scales from 0.01 to 1 (tested).
    """
    v, t2 = s.square(), scale.square()
    out = torch.zeros(mu.shape[0], mean.shape[0], dtype=mu.dtype, device=mu.device)
    product: Tensor | None = None
    worst: Tensor | None = None
    risky = bool((s > 1).any()) and bool((scale > 1).any())
    d = mu.shape[1]
    for j in range(d):
        vj, tj = v[:, j, None], t2[None, :, j]
        # s^2 (1 - t^2) + t^2 is one multiply-add a pair
        a = torch.addcmul(tj, vj, 1 - tj)
        if risky:
            worst = a if worst is None else torch.minimum(worst, a)
        gap = mu[:, j, None] - mean[None, :, j]
        top = torch.addcmul(mean[None, :, j].square() * vj, mu[:, j, None].square(), tj)
        top.sub_(gap.square_()).div_(a)
        out.add_(top)
        product = (a.clone() if risky else a) if product is None else product.mul_(a)
        # logs of products of four: one log a group, and no underflow for scales from 1e-4 to 1e2
        if j % 4 == 3 or j == d - 1:
            out.sub_(product.log_())
            product = None
    out.mul_(0.5)
    if worst is not None:
        out.masked_fill_(worst <= 0, torch.inf)
    return out

"""Gradients of the mixtures' log-densities, given the log-densities themselves, streamed in tiles."""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.kernels.diagonal import COMPONENTS, FLOOR, POINTS

FLOATS = 1 << 20  # entries of whitened points held at once


@torch.no_grad()
def mixture_score(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "n d"],
    scale: Float[Tensor, "n d"],
    log_weight: Float[Tensor, " n"],
    log_prob: Float[Tensor, " m"],
) -> Float[Tensor, "m d"]:
    """Gradient in z of log sum_k w_k N(z; mean_k, diag(scale_k^2)), float64.

    `sum_k g_k (mean_k - z) / scale_k^2` with responsibilities g_k, which need the log-density at the same points.
    """
    d = z.shape[1]
    centre = mean.double().mean(0)
    points = z.double() - centre
    features = torch.cat([points.square(), points, torch.ones_like(points[:, :1])], 1)
    first, second = torch.zeros_like(points), torch.zeros_like(points)
    for part in blocks(len(mean), COMPONENTS):
        mu, precision = mean[part].double() - centre, scale[part].double().pow(-2)
        constant = log_weight[part].double() - 0.5 * d * LOG_2PI + 0.5 * precision.log().sum(1)
        constant = constant - 0.5 * (mu.square() * precision).sum(1)
        weights = torch.cat([-0.5 * precision, mu * precision, constant[:, None]], 1)
        for rows in blocks(len(z), POINTS):
            share = (features[rows] @ weights.T - log_prob[rows, None]).clamp_(min=FLOOR).exp_()
            first[rows] += share @ weights[:, d : 2 * d]
            second[rows] += share @ precision
    return first - points * second


@torch.no_grad()
def full_mixture_score(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    log_weight: Float[Tensor, " k"],
    log_prob: Float[Tensor, " m"],
) -> Float[Tensor, "m d"]:
    """Gradient in z of log sum_k w_k N(z; mean_k, L_k L_k^T), float64, given the log-density at the same points."""
    d = z.shape[1]
    tril, points = scale_tril.double(), z.double()
    eye = torch.eye(d, dtype=torch.float64, device=z.device)
    whiten = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
    constant = log_weight.double() - 0.5 * d * LOG_2PI - tril.diagonal(dim1=1, dim2=2).log().sum(1)
    out = torch.empty_like(points)
    # all components at once: points are few where a gradient is wanted, and a loop would pay for each of its calls
    for rows in blocks(len(points), max(1, FLOATS // mean.numel())):
        u = (points[rows] - mean.double()[:, None]) @ whiten.mT
        share = torch.exp(constant[:, None] - 0.5 * u.square().sum(2) - log_prob[rows])
        out[rows] = -((share[..., None] * u) @ whiten).sum(0)
    return out

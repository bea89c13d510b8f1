"""Densities of mixtures of Gaussians with full covariance, given by Cholesky factors."""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.kernels import far

POINTS = 8192
FLOATS = 1 << 20  # entries of whitened points held at once where a gradient is wanted


@torch.no_grad()
def full_mixture_log_prob(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    log_weight: Float[Tensor, " k"],
) -> Float[Tensor, " m"]:
    """Exact log sum_k w_k N(z; mean_k, L_k L_k^T) in nats, float64, in blocks of points."""
    whiten, constant = _whitening(scale_tril, log_weight)
    centre = mean.double()
    log_prob = torch.empty(z.shape[0], dtype=torch.float64, device=z.device)
    for rows in blocks(z.shape[0], POINTS):
        points = z[rows].double()
        terms = torch.empty(mean.shape[0], len(points), dtype=torch.float64, device=z.device)
        for k in range(mean.shape[0]):
            u = (points - centre[k]) @ whiten[k].T
            terms[k] = constant[k] - 0.5 * u.square_().sum(1)
        log_prob[rows] = torch.logsumexp(terms, 0)
    return log_prob


@torch.no_grad()
def full_mixture_score(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    log_weight: Float[Tensor, " k"],
    log_prob: Float[Tensor, " m"],
) -> Float[Tensor, "m d"]:
    """Gradient in z of log sum_k w_k N(z; mean_k, L_k L_k^T), float64, given the log-density at the same points."""
    whiten, constant = _whitening(scale_tril, log_weight)
    points = z.double()
    score = torch.empty_like(points)
    # all components at once: points are few where a gradient is wanted, and a loop would pay for each of its calls
    for rows in blocks(len(points), max(1, FLOATS // mean.numel())):
        u = (points[rows] - mean.double()[:, None]) @ whiten.mT
        responsibility = torch.exp(constant[:, None] - 0.5 * u.square().sum(2) - log_prob[rows])
        score[rows] = -((responsibility[..., None] * u) @ whiten).sum(0)
    return score


def _whitening(
    scale_tril: Float[Tensor, "k d d"], log_weight: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "k d d"], Float[Tensor, " k"]]:
    """Inverse factors, and the log of each component's weight times its largest density."""
    tril = scale_tril.double()
    d = tril.shape[1]
    eye = torch.eye(d, dtype=torch.float64, device=tril.device)
    whiten: Tensor = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
    return whiten, log_weight.double() - 0.5 * d * LOG_2PI - tril.diagonal(dim1=1, dim2=2).log().sum(1)


@torch.no_grad()
def full_log_ratio(
    mu: Float[Tensor, "m d"],
    s: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k d"], Float[Tensor, "m k d d"]]:
    """Log E_q[N(z; mean_k, L_k L_k^T) / N(z; 0, I)] for q = N(mu_i, diag(s_i^2)), with the product's own moments.

    The product q N_k / p has precision `P = diag(1/s^2) + C^-1 - I`. Where P is not positive definite the integral
    is +inf and the mean NaN. Returns the log-ratio in nats, the product's mean, the Cholesky factor of P, all float64.
    Means of more than 1e4 standard deviations, and scales beyond 1e4 or its reciprocal, take another form (`far`).

    Raises:
        NumericalError: scales so far apart that float64 cannot tell whether it is finite.
    """
    if far.is_far_full(mu, s, mean, scale_tril):
        return far.full_log_ratio(mu, s, mean, scale_tril)
    mu, s, mean, tril = mu.double(), s.double(), mean.double(), scale_tril.double()
    d = mu.shape[1]
    eye = torch.eye(d, dtype=torch.float64, device=mu.device)
    inverse = torch.cholesky_inverse(tril)
    shift = torch.einsum("kij,kj->ki", inverse, mean)
    precision = torch.diag_embed(s.pow(-2))[:, None] + inverse - eye
    factor, info = torch.linalg.cholesky_ex(precision)
    bad = info != 0
    factor = torch.where(bad[..., None, None], eye, factor)
    h = (mu / s.square())[:, None] + shift
    u = torch.linalg.solve_triangular(factor, h[..., None], upper=False)
    centre = torch.linalg.solve_triangular(factor.transpose(-1, -2), u, upper=True)[..., 0]
    quadratic = u[..., 0].square().sum(-1) - (mu / s).square().sum(-1)[:, None] - (mean * shift).sum(-1)
    log_det = (
        2 * s.log().sum(-1)[:, None]
        + 2 * tril.diagonal(dim1=1, dim2=2).log().sum(1)
        + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    )
    centre = centre.masked_fill(bad[..., None], torch.nan)  # there is no such product
    return (0.5 * (quadratic - log_det)).masked_fill(bad, torch.inf), centre, factor

"""Densities of mixtures of Gaussians with full covariance, given by Cholesky factors."""

from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks, is_full, log_volume, whitened
from zprime.errors import NumericalError
from zprime.kernels import compiled, far

COMPILED = 512  # dimensions up to which the compiled kernel is used: beyond, whitening matrices leave the cache
TOGETHER = 512  # components whose terms it holds at a time, with those of a block of points
POINTS = 8192
MANY = 256  # components from which on they are evaluated together
TERMS = 1 << 24  # log-densities of pairs of point and component held at once
FLOATS = 1 << 20  # entries of whitened points held at once where a gradient is wanted


class Whitened:
    """Gaussians with full covariance as their whitening matrices, for densities at more points than once.

    Compiled where they can be, for up to 512 dimensions, else in torch. Compiled, a point that is not finite gives NaN,
    and every other point has the same bits beside whatever others.
    """

    @torch.no_grad()
    def __init__(
        self, mean: Float[Tensor, "k d"], scale_tril: Float[Tensor, "k d d"], log_weight: Float[Tensor, " k"]
    ) -> None:
        """Take means, Cholesky factors L, log-weights (-inf is allowed; nothing is normalised)."""
        self.mean = mean.detach().double().contiguous()
        self.whiten, self.constant = _whitening(scale_tril.detach(), log_weight.detach())

    @torch.no_grad()
    def log_prob(self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None) -> Float[Tensor, " m"]:
        """Exact log sum_k w_k N(z; mean_k, L_k L_k^T) in nats, float64.

        With `leave_out`, for every point the position of a component to leave out, or -1; the rest is not renormalised.
        """
        z = z.detach()
        if leave_out is None and z.shape[1] <= COMPILED and len(self.mean) and compiled.usable(z, self.mean):
            return self._compiled(z)
        log_prob = torch.empty(z.shape[0], dtype=torch.float64, device=z.device)
        for rows in blocks(z.shape[0], max(1, min(POINTS, TERMS // len(self.mean)))):
            terms = self._terms(z[rows].double())
            if leave_out is not None:
                out = leave_out[rows]
                at = ((out >= 0) & (out < len(self.mean))).nonzero().flatten()  # others are of another shard
                terms[out[at], at] = -torch.inf
            log_prob[rows] = torch.logsumexp(terms, 0)
        return log_prob

    def _terms(self, points: Float[Tensor, "m d"]) -> Float[Tensor, "k m"]:
        """Log weight and log-density of every component."""
        mean, whiten, constant = self.mean, self.whiten, self.constant
        terms = torch.empty(mean.shape[0], len(points), dtype=torch.float64, device=points.device)
        if len(mean) > MANY:
            _together(points, mean, whiten, terms)
            return terms.mul_(-0.5).add_(constant[:, None])
        for k in range(mean.shape[0]):
            u = (points - mean[k]) @ whiten[k].T
            terms[k] = constant[k] - 0.5 * u.square_().sum(1)
        return terms

    def _compiled(self, z: Tensor) -> Tensor:
        """In parts of as many components as stay in cache with a block of points."""
        z = (z if z.dtype in (torch.float32, torch.float64) else z.double()).contiguous()
        (m, d), parts = z.shape, []
        for some in blocks(len(self.mean), TOGETHER):
            part = torch.empty(m, dtype=torch.float64)
            given = self.mean[some], self.whiten[some], self.constant[some]
            work = len(given[0]) * d * d
            threads = torch.get_num_threads() if m * work > compiled.SMALL else 1
            for rows in blocks(m, max(1024, compiled.WORK // work)):
                compiled.module.full(z[rows], *given, part[rows], threads)
            parts.append(part)
        log_prob = torch.from_numpy(_added(parts))
        if not bool(torch.isfinite(z.sum())):
            log_prob[~torch.isfinite(z).all(1)] = torch.nan
        return log_prob

    @torch.no_grad()
    def score(self, z: Float[Tensor, "m d"], log_prob: Float[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Gradient in z of the log-density, float64, given the log-density at the same points."""
        points = z.detach().double()
        score = torch.empty_like(points)
        # all components at once: points are few where a gradient is wanted, and a loop would pay for each of its calls
        for rows in blocks(len(points), max(1, FLOATS // self.mean.numel())):
            u = (points[rows] - self.mean[:, None]) @ self.whiten.mT
            responsibility = torch.exp(self.constant[:, None] - 0.5 * u.square().sum(2) - log_prob[rows])
            score[rows] = -((responsibility[..., None] * u) @ self.whiten).sum(0)
        return score


def full_mixture_log_prob(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    log_weight: Float[Tensor, " k"],
    *,
    leave_out: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """Exact log sum_k w_k N(z; mean_k, L_k L_k^T) in nats, float64, in blocks of points: see `Whitened`, for once."""
    return Whitened(mean, scale_tril, log_weight).log_prob(z, leave_out=leave_out)


def _together(
    z: Float[Tensor, "m d"], mean: Float[Tensor, "k d"], whiten: Float[Tensor, "k d d"], out: Float[Tensor, "k m"]
) -> None:
    """Squared lengths of all whitened differences, many components by one matrix product."""
    d = z.shape[1]
    middle = mean.mean(0)  # what is subtracted twice is then small
    gap, shift = z - middle, (whiten @ (mean - middle)[..., None])[..., 0]
    for some in blocks(len(mean), max(1, FLOATS // max(1, len(z) * d))):
        u = (whiten[some].reshape(-1, d) @ gap.T).reshape(-1, d, len(z))
        out[some] = u.sub_(shift[some][..., None]).square_().sum(1)


def trainable_full_mixture_log_prob(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    log_weight: Float[Tensor, " k"],
) -> Float[Tensor, " m"]:
    """The same with gradients of any order in everything, for few components: all m k d differences are held at once.

    Computed in the inputs' dtype.
    """
    gap = (z - mean[:, None]).mT  # [k, d, m]
    u: Tensor = torch.linalg.solve_triangular(scale_tril, gap, upper=False)
    constant = log_weight - log_volume(mean, scale_tril) - 0.5 * z.shape[1] * LOG_2PI
    return torch.logsumexp(constant[:, None] - 0.5 * u.square().sum(1), 0)


def _added(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    """Log of the sum of exp, entry by entry in the order of the parts.

    NumPy's function takes entries one by one. Of torch's, `logsumexp` and `logaddexp`, the last bits depend on where in
    a block an entry lies.
    """
    with np.errstate(invalid="ignore"):  # of points that are not finite
        return reduce(np.logaddexp, [part.numpy() for part in parts])


class FullMixture:
    """A mixture of Gaussians with full covariance, with the methods of a `DiagonalMixture` that measures need."""

    def __init__(
        self, mean: Float[Tensor, "k d"], scale_tril: Float[Tensor, "k d d"], log_weight: Float[Tensor, " k"]
    ) -> None:
        """Take means, Cholesky factors, log-weights (-inf is allowed; nothing is normalised)."""
        self.mean, self.scale_tril, self.log_weight = mean, scale_tril, log_weight

    def log_prob(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, " m"]:
        """Log sum_k w_k N(z; mean_k, L_k L_k^T) in nats, float64; all terms are computed, whatever the tolerance."""
        return full_mixture_log_prob(z, self.mean, self.scale_tril, self.log_weight, leave_out=leave_out)


def _whitening(
    scale_tril: Float[Tensor, "k d d"], log_weight: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "k d d"], Float[Tensor, " k"]]:
    """Inverse factors, and the log of each component's weight times its largest density."""
    tril = scale_tril.double()
    d = tril.shape[1]
    eye = torch.eye(d, dtype=torch.float64, device=tril.device)
    whiten: Tensor = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
    return whiten.contiguous(), log_weight.double() - 0.5 * d * LOG_2PI - tril.diagonal(dim1=1, dim2=2).log().sum(1)


@torch.no_grad()
def full_log_ratio(
    mu: Float[Tensor, "m d"],
    s: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
    mean: Float[Tensor, "k d"],
    scale_tril: Float[Tensor, "k d d"],
    *,
    inverse: Float[Tensor, "k d d"] | None = None,
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k d"], Float[Tensor, "m k d d"]]:
    """Log E_q[N(z; mean_k, L_k L_k^T) / N(z; 0, I)] for q = N(mu_i, R_i), with the product's own moments.

    R is `diag(s^2)`, or `s s^T` where s are Cholesky factors. The product q N_k / p has precision
    `P = R^-1 + C^-1 - I`. Where P is not positive definite the integral
    is +inf and the mean NaN. Returns the log-ratio in nats, the product's mean, the Cholesky factor of P, all float64.
    Means of more than 1e4 standard deviations, and scales beyond 1e4 or its reciprocal, take another form (`far`).
    `inverse` may give C^-1, float64, where it is known from other rows: to compute it costs as much as two rows.

    Raises:
        NumericalError: scales so far apart that float64 cannot tell whether it is finite; or such scales and means
            beside posteriors with full covariance, for which that other form is not known.
    """
    full = is_full(mu, s)
    if far.is_far_full(mu, s.diagonal(dim1=-2, dim2=-1) if full else s, mean, scale_tril):
        if full:
            raise NumericalError(
                "E_q[r/p]: a posterior with full covariance, or a component, lies more than 1e4 of its standard "
                "deviations from 0, or has one beyond 1e4 or below 1e-4; scale the latents, or give standard deviations"
            )
        return far.full_log_ratio(mu, s, mean, scale_tril)
    mu, s, mean, tril = mu.double(), s.double(), mean.double(), scale_tril.double()
    d = mu.shape[1]
    inverse = torch.cholesky_inverse(tril) if inverse is None else inverse
    shift = torch.einsum("kij,kj->ki", inverse, mean)
    own = torch.cholesky_inverse(s) if full else s.pow(-2)
    precision = inverse.repeat(len(mu), 1, 1, 1)
    (precision if full else precision.diagonal(dim1=-2, dim2=-1)).add_(own[:, None])
    precision.diagonal(dim1=-2, dim2=-1).sub_(1)
    factor, info = torch.linalg.cholesky_ex(precision)
    bad = info != 0
    if bool(bad.any()):
        factor = torch.where(bad[..., None, None], torch.eye(d, dtype=torch.float64, device=mu.device), factor)
    pull = (own @ mu[..., None])[..., 0] if full else mu / s.square()
    h = pull[:, None] + shift
    u = torch.linalg.solve_triangular(factor, h[..., None], upper=False)
    centre = torch.linalg.solve_triangular(factor.transpose(-1, -2), u, upper=True)[..., 0]
    quadratic = u[..., 0].square().sum(-1) - whitened(mu, s).square().sum(-1)[:, None] - (mean * shift).sum(-1)
    log_det = (
        2 * log_volume(mu, s)[:, None]
        + 2 * tril.diagonal(dim1=1, dim2=2).log().sum(1)
        + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    )
    centre = centre.masked_fill(bad[..., None], torch.nan)  # there is no such product
    return (0.5 * (quadratic - log_det)).masked_fill(bad, torch.inf), centre, factor

"""Mixtures of Gaussians whose covariances are a diagonal and a few factors: density, score, draws, products with q.

No d x d matrix is ever made: all is by Woodbury's identity in r x r matrices (docs/theory.md, section 3). A Gaussian
with r factors is `z = m + F u + v^1/2 e`, u ~ N(0, I) in r dimensions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, cholesky, is_full, row_major, weighed
from zprime.components import Full, Tilted, choose, choose_rows, differentiable
from zprime.kernels import LowRankMixture

NUMBERS = 1 << 24  # numbers handled at once


@dataclass(frozen=True)
class LowRank:
    """Mixture of N(mean, diag(scale^2) + factor factor^T): log-weights, means, standard deviations, factors."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"]
    factor: Float[Tensor, "k d r"]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @cached_property
    def prepared(self) -> LowRankMixture:
        """The kernel that evaluates the density; it is prepared once."""
        return LowRankMixture(self.mean, self.scale, self.factor, self.log_weight)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log-density in nats, float64; differentiable in z."""
        return differentiable(z, self)

    @property
    def precisions(self) -> Float[Tensor, "k d"]:
        """The diagonals of the inverse covariances, float64."""
        return self.prepared.precisions

    def terms(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log weight and log-density of every component, float64."""
        return self.prepared.terms(z)

    def value(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-density without a gradient."""
        return self.prepared.log_prob(z)

    def value_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z."""
        return self.prepared.log_prob_and_score(z)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws."""
        which = choose(self.log_weight, n, rng)
        u = torch.randn(n, self.factor.shape[2], generator=rng, dtype=self.mean.dtype)
        z = torch.randn(n, self.d, generator=rng, dtype=self.mean.dtype)
        for k in range(len(self.mean)):
            at = (which == k).nonzero().flatten() if len(self.mean) > 1 else slice(None)
            z[at] = self.mean[k] + self.scale[k] * z[at] + u[at] @ row_major(self.factor[k]).T
        return z

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted:
        """Log E_q[r/p] and draws of q_r for q = N(mean, scale^2), p = N(0, I) (closed form).

        Given u every dimension stands alone, as in a diagonal mixture; what is left is a Gaussian integral over u, with
        a precision of r x r for each pair of posterior and component. Beside posteriors with full covariance, which are
        d x d each, the components are made full too.
        """
        if is_full(mean, scale):
            factor = self.factor.double()
            spread = factor @ factor.mT + torch.diag_embed(self.scale.double().square())
            whole = Full(self.log_weight, self.mean, cholesky("components of low rank", spread))
            return whole.tilt(mean, scale, draws=draws, rng=rng)
        n, components, rank = len(mean), len(self.mean), self.factor.shape[2]
        ratio = torch.empty(n, dtype=torch.float64)
        pick = torch.rand(n, draws, generator=rng, dtype=torch.float64)
        u = torch.randn(n, draws, rank, generator=rng, dtype=torch.float64)
        z = torch.randn(n, draws, self.d, generator=rng, dtype=torch.float64)
        parts = [self._component(k) for k in range(components)]
        for rows in blocks(n, max(1, NUMBERS // (components * (self.d * (1 + rank) + rank**2)))):
            mu, square = mean[rows].double(), scale[rows].double().square()
            pairs = [_Pair(mu, square, *part) for part in parts]
            terms = weighed(torch.stack([p.log_ratio for p in pairs], 1), self.log_weight.double())
            ratio[rows] = torch.logsumexp(terms, 1)
            which = choose_rows(terms, pick[rows])
            for k, p in enumerate(pairs):
                row, at = (which == k).nonzero(as_tuple=True)
                z[rows][row, at] = p.draw(row, u[rows][row, at], z[rows][row, at])
        return Tilted(ratio, z)

    def _component(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variances and factor of one component, float64."""
        return self.mean[k].double(), self.scale[k].double().square(), self.factor[k].double()


class _Pair:
    """One component beside a block of posteriors N(mu, square).

    Attributes:
        log_ratio: log E_q[r/p], shape [b]; +inf where it diverges.
    """

    def __init__(self, mu: Tensor, square: Tensor, m: Tensor, v: Tensor, factor: Tensor) -> None:
        """Integrate z out given u, then u."""
        self.mu, self.square, self.m, self.v, self.factor = mu, square, m, v, factor
        total = v + square - v * square  # the denominator of what is known of z given u
        held = (total > 0).all(1)
        self.total = torch.where(held[:, None], total, 1.0)
        g, h = (1 - square) / self.total, mu / self.total
        weighted = g[:, None] * factor.T  # [b, r, d]
        precision = torch.eye(factor.shape[1], dtype=torch.float64) + weighted @ factor
        tril, info = torch.linalg.cholesky_ex(precision)
        lost = ~(held & (info == 0))
        pull = (h - g * m) @ factor
        solved = torch.cholesky_solve(pull[..., None], tril)[..., 0]
        alone = self.total.log() + g * m.square() - 2 * h * m + mu.square() * (1 - v) / self.total
        log_det = tril.diagonal(dim1=1, dim2=2).log().sum(1)
        self.log_ratio = (-0.5 * alone.sum(1) - log_det + 0.5 * (pull * solved).sum(1)).masked_fill(lost, torch.inf)
        # mean of u under q_r, and the factor of its precision; NaN where there is no q_r
        self.centre = solved.masked_fill(lost[:, None], torch.nan)
        self.tril = tril.masked_fill(lost[:, None, None], torch.nan)

    def draw(self, row: Tensor, u: Tensor, noise: Tensor) -> Float[Tensor, "c d"]:
        """Draws of q_r for posteriors at `row`, from standard normal numbers: u first, then z given u."""
        spread = torch.linalg.solve_triangular(self.tril[row].mT, u[..., None], upper=True)[..., 0]
        t = self.m + (self.centre[row] + spread) @ self.factor.T
        total, s2 = self.total[row], self.square[row]
        z: Tensor = (self.mu[row] * self.v + t * s2) / total + (self.v * s2 / total).sqrt() * noise
        return z

"""The pure-torch form of the log-density of mixtures of low rank: matrix products in blocks that stay in cache."""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.kernels.factors import Factors

NUMBERS = 1 << 18  # numbers of one temporary: 2 MB
EXPANDED = 1e8  # squares of the means up to which squares are expanded: with a rounding of 1e-7 nats at most


class Blocks:
    """Squared distances and gradients, block by block; by matrix products for all components where means are near."""

    def __init__(self, factors: Factors) -> None:
        """Prepare what the products need."""
        self.factors = f = factors
        k, self.rank, d = f.factor.shape
        self.precision = f.inverse.square()
        centre = f.mean.mean(0)
        mean = f.mean - centre
        # where means are far apart, in units of the widths, nothing would be left of an expanded square
        self.near = k > 1 and float((mean * f.inverse).square().sum(1).max()) < EXPANDED
        if self.near:
            self.centre, solved = centre, f.factor * f.inverse[:, None]
            pull = self.precision * mean
            self.columns = torch.cat([solved.reshape(k * self.rank, d), pull])
            self.along = (solved @ mean[..., None]).reshape(1, k * self.rank)
            self.constant = (pull * mean).sum(1)

    def evaluate(
        self, z: Float[Tensor, "n d"], *, terms: bool, score: bool
    ) -> tuple[Float[Tensor, "m k"], Float[Tensor, " n"], Float[Tensor, "n d"] | None]:
        """Log-terms (none if not asked for), log-density in nats, and its gradient in z if asked for, all float64."""
        k, n = len(self.factors.mean), len(z)
        every = torch.empty(n if terms else 0, k, dtype=torch.float64, device=z.device)
        log_prob = torch.empty(n, dtype=torch.float64, device=z.device)
        gradient = torch.empty(z.shape, dtype=torch.float64, device=z.device) if score else None
        wide = max(1, z.shape[1], k * (self.rank + 1) if self.near else self.rank)
        for rows in blocks(n, max(16, NUMBERS // wide)):
            part = every[rows] if terms else every.new_empty(rows.stop - rows.start, k)
            slope = None if gradient is None else gradient[rows]
            (self._expanded if self.near else self._direct)(z[rows].double(), part, log_prob[rows], slope)
        return every, log_prob, gradient

    def _direct(self, z: Tensor, terms: Tensor, log_prob: Tensor, gradient: Tensor | None) -> None:
        """Component by component, from differences."""
        f = self.factors
        for k in range(len(f.mean)):
            u = (z - f.mean[k]).mul_(f.inverse[k])
            along = u @ f.factor[k].T
            terms[:, k] = f.constant[k] - 0.5 * (_squares(u) - _squares(along))
        log_prob.copy_(torch.logsumexp(terms, 1))
        if gradient is None:
            return
        share = torch.softmax(terms, 1)
        gradient.zero_()
        for k in range(len(f.mean)):
            u = (z - f.mean[k]).mul_(f.inverse[k])
            u.addmm_(u @ f.factor[k].T, f.factor[k], alpha=-1)
            gradient.addcmul_(u.mul_(share[:, k, None]), f.inverse[k], value=-1)

    def _expanded(self, z: Tensor, terms: Tensor, log_prob: Tensor, gradient: Tensor | None) -> None:
        """All components at once, about the mean of their means."""
        k, r = len(self.factors.mean), self.rank
        z = z - self.centre
        products = z @ self.columns.T
        along = products[:, : k * r].sub_(self.along).view(len(z), k, r)
        torch.addmm(self.constant, z.square(), self.precision.T, out=terms)
        terms.sub_(products[:, k * r :], alpha=2).sub_(torch.linalg.vecdot(along, along))
        terms.mul_(-0.5).add_(self.factors.constant)
        log_prob.copy_(torch.logsumexp(terms, 1))
        if gradient is None:
            return
        share = torch.softmax(terms, 1)
        along.mul_(share[..., None])
        products[:, k * r :] = share
        torch.mm(products, self.columns, out=gradient)
        gradient.addcmul_(z, share @ self.precision, value=-1)


def _squares(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    squares: Tensor = torch.linalg.vecdot(x, x)
    return squares

"""E_q[N_k/p] and the products q N_k / p of diagonal posteriors and components with full covariance, p = N(0, I)."""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from zprime.arrays import is_full, log_volume
from zprime.kernels import compiled, far
from zprime.kernels.dense import full_log_ratio

NUMBERS = 1 << 20  # of all pairs of a block of posteriors, or of all draws, that are held at once
COMPILED = 64  # dimensions up to which the compiled kernel is used: its columns stay in the first two caches
WIDE = 32  # dimensions above which it is not used for fewer than
FEWEST = 4  # components,
LANES = 8  # since it takes so many together

Chosen = Callable[[Int[Tensor, "m c"]], tuple[Float[Tensor, "m c d"], Float[Tensor, "m c d d"]]]
"""Which components of each posterior -> mean and Cholesky factor of the precision of their products."""


class Products:
    """Components with full covariance, prepared to stand beside blocks of posteriors.

    Compiled where they can be: for up to 64 dimensions (32 for fewer than 4 components), and posteriors given by
    standard deviations. Otherwise by `full_log_ratio`.
    """

    @torch.no_grad()
    def __init__(self, mean: Float[Tensor, "k d"], scale_tril: Float[Tensor, "k d d"]) -> None:
        """Take means and Cholesky factors."""
        self.mean, self.tril = mean, scale_tril
        self.inverse = torch.cholesky_inverse(scale_tril.double())

    def fast(self, mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"] | Float[Tensor, "m d d"]) -> bool:
        """Whether the compiled kernel takes these posteriors, all of them."""
        k, d = self.mean.shape
        if d > (COMPILED if k >= FEWEST else WIDE) or is_full(mu, s) or not compiled.usable(mu, self.mean):
            return False
        return not far.is_far_full(mu.detach(), s.detach(), self.mean.detach(), self.tril.detach())

    def size(self, *, fast: bool, draws: int = 0) -> int:
        """Posteriors of a block, each with so many draws of products."""
        k, d = self.mean.shape
        if not fast:
            return max(1, NUMBERS // (k * d**2))
        return max(1, min(NUMBERS // max(k, draws * d**2), compiled.WORK // (LANES * k * d**3)))

    @torch.no_grad()
    def beside(
        self, mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"] | Float[Tensor, "m d d"], *, fast: bool
    ) -> tuple[Float[Tensor, "m k"], Chosen]:
        """Log E_q[N_k/p] in nats, float64, +inf where the integral diverges, and what gives chosen products.

        Args:
            mu: means of at most `size` posteriors.
            s: their standard deviations, or Cholesky factors.
            fast: what `fast` says of these posteriors, and of others beside them.
        """
        if fast:
            return self._compiled(mu.double(), s.double())
        terms, centre, factor = full_log_ratio(mu, s, self.mean, self.tril, inverse=self.inverse)

        def chosen(k: Tensor) -> tuple[Tensor, Tensor]:
            row = torch.arange(len(k), device=k.device)[:, None]
            return centre[row, k], factor[row, k]

        return terms, chosen

    def _compiled(self, mu: Tensor, s: Tensor) -> tuple[Tensor, Chosen]:
        own = s.pow(-2)
        pull = mu * own
        terms = torch.empty(len(mu), len(self.mean), dtype=torch.float64)
        threads = torch.get_num_threads() if terms.numel() * mu.shape[1] ** 2 > compiled.SMALL else 1
        offset = -(mu / s).square().sum(1) - 2 * log_volume(mu, s)
        compiled.module.product(own, pull, offset, *self._packed, terms, threads)

        @torch.no_grad()
        def chosen(k: Tensor) -> tuple[Tensor, Tensor]:
            # each pair once, however many of the draws have it
            pair = torch.arange(len(k))[:, None] * len(self.mean) + k
            which, back = torch.unique(pair, return_inverse=True)
            row, at = which // len(self.mean), which % len(self.mean)
            precision = self.inverse[at]
            precision.diagonal(dim1=-2, dim2=-1).add_(own[row]).sub_(1)
            factor, info = torch.linalg.cholesky_ex(precision)
            bad = (info != 0)[:, None]
            factor = torch.where(bad[..., None], torch.eye(mu.shape[1], dtype=torch.float64), factor)
            u = torch.linalg.solve_triangular(factor, (pull[row] + self._shift[at])[..., None], upper=False)
            centre = torch.linalg.solve_triangular(factor.mT, u, upper=True)[..., 0]
            return centre.masked_fill(bad, torch.nan)[back], factor[back]  # where it diverges there is no such product

        return terms, chosen

    @cached_property
    def _shift(self) -> Float[Tensor, "k d"]:
        """C^-1 mean."""
        return torch.einsum("kij,kj->ki", self.inverse, self.mean.double())

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Columns of C^-1 from the diagonal on, C^-1 mean, and what belongs to a component: some components abreast."""
        k, d = self.mean.shape
        column, row = torch.triu_indices(d, d)  # in the order of columns of the lower triangle
        constant = -(self.mean.double() * self._shift).sum(1)
        constant -= 2 * self.tril.double().diagonal(dim1=1, dim2=2).log().sum(1)

        def abreast(values: Float[Tensor, "k c"]) -> Float[Tensor, "b c l"]:
            padded = functional.pad(values, (0, 0, 0, -k % LANES), value=1.0)
            return padded.view(-1, LANES, values.shape[1]).mT.contiguous()

        return abreast(self.inverse[:, row, column]), abreast(self._shift), abreast(constant[:, None]).flatten()

"""Densities of mixtures of Gaussians whose covariances are a diagonal and a few factors."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from zprime.arrays import LOG_2PI, blocks
from zprime.kernels import compiled, low_rank_torch
from zprime.kernels.factors import Factors

LINE = 8  # float64 numbers of a cache line: rows of the compiled kernel are filled up to as many
Evaluated = tuple[Float[Tensor, "m k"], Float[Tensor, " n"], Float[Tensor, "n d"] | None]


class LowRankMixture:
    """A mixture of N(mean_k, diag(scale_k^2) + F_k F_k^T), prepared for being evaluated more than once.

    All is by Woodbury's identity (docs/theory.md, section 3), in float64; no d x d matrix is made. Compiled where it
    can be, else in torch. The compiled form takes differences first, so that it is as exact for means far apart;
    torch multiplies squares out where means are near enough to each other. Points that are not finite give NaN.
    Memory beside inputs and results is bounded, whatever the number of points.
    """

    def __init__(
        self,
        mean: Float[Tensor, "k d"],
        scale: Float[Tensor, "k d"],
        factor: Float[Tensor, "k d r"],
        log_weight: Float[Tensor, " k"],
    ) -> None:
        """Take means, standard deviations, factors F_k, log-weights (-inf is allowed; nothing is normalised)."""
        self.mean, self.scale, self.factor, self.log_weight = (t.detach() for t in (mean, scale, factor, log_weight))

    @cached_property
    def factors(self) -> Factors:
        """What the kernels take, float64; `torch.linalg.LinAlgError` where a covariance is none."""
        inverse, factor = self.scale.double().reciprocal(), self.factor.double()
        scaled = factor.mT * inverse[:, None]
        eye = torch.eye(factor.shape[2], dtype=torch.float64, device=factor.device)
        tril = torch.linalg.cholesky(eye + scaled @ scaled.mT)
        log_det = 2 * (tril.diagonal(dim1=1, dim2=2).log().sum(1) - inverse.log().sum(1))
        constant = self.log_weight.double() - 0.5 * (self.mean.shape[1] * LOG_2PI + log_det)
        solved = torch.linalg.solve_triangular(tril, scaled, upper=False)
        return Factors(self.mean.double(), inverse, solved, constant)

    @property
    def precisions(self) -> Float[Tensor, "k d"]:
        """The diagonals of the inverse covariances, float64."""
        f = self.factors
        return f.inverse.square() * (1 - f.factor.square().sum(1))

    def terms(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log weight and log-density of every component in nats, float64."""
        return self._evaluate(z, terms=True, score=False)[0]

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log sum_k w_k N(z; mean_k, diag(scale_k^2) + F_k F_k^T) in nats, float64."""
        return self._evaluate(z, terms=False, score=False)[1]

    def log_prob_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z, float64; shares below 2^-100 add nothing to a compiled gradient."""
        _, value, gradient = self._evaluate(z, terms=False, score=True)
        assert gradient is not None  # asked for
        return value, gradient

    @torch.no_grad()
    def _evaluate(self, z: Tensor, *, terms: bool, score: bool) -> Evaluated:
        z = z.detach() if z.dtype in (torch.float32, torch.float64) else z.detach().double()
        if compiled.usable(z, self.mean):
            made = self._compiled(z, terms=terms, score=score)
        else:
            made = self._in_torch.evaluate(z, terms=terms, score=score)
        if not bool(torch.isfinite(z.sum())):
            lost = ~torch.isfinite(z).all(1)
            for t in made:
                if t is not None and len(t):
                    t[lost] = torch.nan
        return made

    @cached_property
    def _in_torch(self) -> low_rank_torch.Blocks:
        return low_rank_torch.Blocks(self.factors)

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows filled up to whole cache lines, those of factors with a line more.

        Without it rows of a power of two numbers would push each other out of the cache.
        """
        f = self.factors
        more = -f.mean.shape[1] % LINE
        mean, inverse, factor = pad(f.mean, (0, more)), pad(f.inverse, (0, more)), pad(f.factor, (0, more + LINE))
        return mean.contiguous(), inverse.contiguous(), factor.contiguous(), f.constant.contiguous()

    def _compiled(self, z: Tensor, *, terms: bool, score: bool) -> Evaluated:
        (n, d), (k, wide) = z.shape, self._packed[0].shape
        z = (pad(z, (0, wide - d)) if wide > d else z).contiguous()
        every = torch.empty(n if terms else 0, k, dtype=torch.float64)
        value = torch.empty(n, dtype=torch.float64)
        gradient = torch.empty(n, wide, dtype=torch.float64) if score else None
        work = max(1, k * wide * (self.factor.shape[2] + 3))
        threads = torch.get_num_threads() if n * work > compiled.SMALL else 1
        for rows in blocks(n, max(1024, compiled.WORK // work)):
            part, slope = every[rows] if terms else None, None if gradient is None else gradient[rows]
            compiled.module.low_rank(z[rows], *self._packed, part, value[rows], slope, threads)
        return every, value, None if gradient is None else gradient[:, :d]

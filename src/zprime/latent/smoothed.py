"""Mixture of Gaussians that share a full covariance and add a diagonal one each: density, draws and tilt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks, is_full, row_major, weighed
from zprime.components import Tilted, choose, choose_rows, differentiable
from zprime.kernels import full_log_ratio
from zprime.kernels.mixture_torch import FLOOR, accumulate, mask

COMPONENTS = 2048
POINTS = 256
FLOATS = 1 << 23  # entries of the points' features held at once (64 MB)
PAIRS = 1 << 22  # pairs of posterior and component, times d^2, held at once
CLOSED_FORM = 1024  # components up to which `tilt` is offered


@dataclass(frozen=True)
class Smoothed:
    """`sum_k w_k N(mean_k, diag(scale_k^2) + L L^T)`, with one L for all: N covariances in N d + d^2 numbers.

    Cholesky factors of the components are made on the fly, a block of components at a time, and never kept.
    """

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"]
    tril: Float[Tensor, "d d"]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log-density in nats, float64; differentiable in z."""
        return differentiable(z, self)

    @torch.no_grad()
    def value(self, z: Float[Tensor, "n d"], *, leave_out: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """The log-density without a gradient, streamed over blocks of points and of components.

        In coordinates `y = L^-1 (z - m)` component k has the covariance `I + L^-1 diag(scale_k^2) L^-T`, so its
        precision has eigenvalues in (0, 1] and the expanded square is accurate in float64; it is one
        matrix product over the features `[y y^T, y, 1]`.

        Args:
            z: points.
            leave_out: for every point the position of a component to leave out, or -1; the rest is not renormalised.
        """
        d = self.d
        centre, whiten, upper = self._coordinates()
        top = torch.full((len(z),), -torch.inf, dtype=torch.float64, device=z.device)
        total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        size = max(POINTS, FLOATS // (upper.shape[1] + d + 1))
        for panel in blocks(len(z), size):
            y = (z[panel].double() - centre) @ whiten.T
            features = _features(y, upper)
            for columns in blocks(len(self.mean), max(POINTS, min(COMPONENTS, FLOATS // d**2))):
                weights = self._weights(columns, centre, whiten, upper)
                for rows in blocks(len(y), POINTS):
                    tile = features[rows] @ weights.T
                    here = slice(panel.start + rows.start, panel.start + rows.stop)
                    if leave_out is not None:
                        mask(tile, leave_out[here] - columns.start)
                    accumulate(tile, top[here], total[here])
        return top + total.log() - self.tril.double().diagonal().log().sum()

    @torch.no_grad()
    def value_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z: that of the features, weighted by responsibilities."""
        value = self.value(z)
        centre, whiten, upper = self._coordinates()
        y = (z.double() - centre) @ whiten.T
        features = _features(y, upper)
        log_prob = value + self.tril.double().diagonal().log().sum()
        mean = torch.zeros_like(features)
        for columns in blocks(len(self.mean), max(POINTS, min(COMPONENTS, FLOATS // self.d**2))):
            weights = self._weights(columns, centre, whiten, upper)
            for rows in blocks(len(y), POINTS):
                responsibility = (features[rows] @ weights.T - log_prob[rows, None]).clamp_(min=FLOOR).exp_()
                mean[rows] += responsibility @ weights
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((_features(y.requires_grad_(), upper) * mean).sum(), y)
        return value, gradient @ whiten

    def _coordinates(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"], Int[Tensor, "2 u"]]:
        """The centre m, L^-1, and the indices of the upper triangle."""
        tril = self.tril.double()
        eye = torch.eye(self.d, dtype=torch.float64, device=tril.device)
        whiten = torch.linalg.solve_triangular(tril, eye, upper=False)
        return self.mean.double().mean(0), whiten, torch.triu_indices(self.d, self.d, device=tril.device)

    def _weights(
        self, columns: slice, centre: Float[Tensor, " d"], whiten: Float[Tensor, "d d"], upper: Int[Tensor, "2 u"]
    ) -> Float[Tensor, "b f"]:
        """What the features are multiplied with to give the log-terms of some components, in y."""
        d = self.d
        mean = (self.mean[columns].double() - centre) @ whiten.T
        factor = self._factors(columns, whiten)
        inverse = torch.cholesky_inverse(factor)
        shift = torch.einsum("kij,kj->ki", inverse, mean)
        # an off-diagonal entry of a symmetric matrix counts twice in the quadratic form
        twice = torch.where(upper[0] == upper[1], -0.5, -1.0).double()
        constant = (
            self.log_weight[columns].double()
            - 0.5 * d * LOG_2PI
            - factor.diagonal(dim1=1, dim2=2).log().sum(1)
            - 0.5 * (shift * mean).sum(1)
        )
        return torch.cat([inverse[:, upper[0], upper[1]] * twice, shift, constant[:, None]], 1)

    def _factors(self, columns: slice, whiten: Float[Tensor, "d d"]) -> Float[Tensor, "b d d"]:
        """Cholesky factors of `I + L^-1 diag(scale^2) L^-T` for some components."""
        spread = whiten * self.scale[columns].double()[:, None, :]
        eye = torch.eye(self.d, dtype=torch.float64, device=whiten.device)
        factor: Tensor = torch.linalg.cholesky(spread @ spread.mT + eye)
        return factor

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws: `mean_k + scale_k e + L e'`, no factor of a component needed."""
        which = choose(self.log_weight, n, rng)
        own = torch.randn(n, self.d, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        common = torch.randn(n, self.d, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean[which] + self.scale[which] * own + common @ row_major(self.tril).T

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """Log E_q[r/p] and draws of q_r (closed form); None above 1,024 components.

        Every pair of posterior and component takes a Cholesky factor of its own, 12 microseconds at d = 16: two
        minutes for 10,000 posteriors and 1,024 components, two hours for 60,000.
        """
        k = len(self.mean)
        if k > CLOSED_FORM:
            return None
        device, d = mean.device, self.d
        eye = torch.eye(d, dtype=torch.float64, device=device)
        ratio = torch.empty(len(mean), dtype=torch.float64, device=device)
        # for all rows at once, so that no draw depends on the size of blocks
        u = torch.rand(len(mean), draws, generator=rng, dtype=torch.float64, device=device)
        z = torch.randn(len(mean), draws, d, generator=rng, dtype=torch.float64, device=device)
        some = max(1, PAIRS // (k * d**2))
        for rows in blocks(len(mean), some):
            mu, s = mean[rows].double(), scale[rows].double()
            terms = torch.empty(len(mu), k, dtype=torch.float64, device=device)
            for columns in blocks(k, max(1, PAIRS // (some * d**2))):
                terms[:, columns] = full_log_ratio(mu, s, self.mean[columns], self._tril(self.scale[columns]))[0]
            terms = weighed(terms, self.log_weight.double())
            ratio[rows] = torch.logsumexp(terms, 1)
            if draws:
                picked = choose_rows(terms, u[rows])
                # the product q N_k / p again, for the pairs that were drawn
                inverse = torch.cholesky_inverse(self._tril(self.scale[picked.flatten()])).reshape(*picked.shape, d, d)
                own = torch.cholesky_inverse(s) if is_full(mu, s) else torch.diag_embed(s.pow(-2))
                precision = own[:, None] + inverse - eye
                factor, info = torch.linalg.cholesky_ex(precision)
                factor = factor.masked_fill((info != 0)[..., None, None], torch.nan)  # there is no such product
                shift = (own @ mu[..., None])[:, None] + inverse @ self.mean[picked].double()[..., None]
                half = torch.linalg.solve_triangular(factor, shift, upper=False) + z[rows, :, :, None]
                z[rows] = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
        return Tilted(ratio, z)

    def _tril(self, scale: Float[Tensor, "b d"]) -> Float[Tensor, "b d d"]:
        """Cholesky factors of `diag(scale^2) + L L^T`."""
        tril = self.tril.double()
        factor: Tensor = torch.linalg.cholesky(torch.diag_embed(scale.double().square()) + tril @ tril.T)
        return factor


def _features(y: Float[Tensor, "n d"], upper: Int[Tensor, "2 u"]) -> Float[Tensor, "n f"]:
    """Products of coordinates, the coordinates, and 1."""
    return torch.cat([y[:, upper[0]] * y[:, upper[1]], y, torch.ones_like(y[:, :1])], 1)

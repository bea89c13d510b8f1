"""A Gaussian prior N(loc, S S^T) as origin and units of the latent space: there it is N(0, I).

docs/theory.md, section 9. The change u = S^-1 (z - loc) takes prior, posteriors and candidates along, so that no gain
changes: r and p have the same Jacobian. All closed forms for the prior N(0, I) then hold. S is diagonal where the
dimensions of the prior are independent; where they are not, posteriors get full covariances.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from zprime.arrays import is_full, log_volume, variances
from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.latent.affine import Affine, from_units, to_units
from zprime.latent.priors import Given, prior_of
from zprime.low_rank import LowRank
from zprime.measure.prior import closed
from zprime.vae import Model

MOST = 200_000
"""Numbers, rows x d x d, up to which posteriors of independent dimensions get a factor each, for a prior with a full
covariance. With 3,000 rows of 16 dimensions, four times as many, an audit takes 20 times as long as by draws."""


@dataclass(frozen=True)
class Coordinates:
    """Where N(0, I) stands for the prior of the model.

    Attributes:
        loc: shape [d], float64: mean of the prior; [n, d] for the priors of n rows.
        scale: of the same shape: its standard deviations. Or [d, d], the Cholesky factor of its covariance.
    """

    loc: Float[Tensor, "*n d"]
    scale: Float[Tensor, "*n d"] | Float[Tensor, "d d"]

    @property
    def full(self) -> bool:
        """Whether dimensions of the prior depend on each other."""
        return is_full(self.loc, self.scale)

    @property
    def width(self) -> Float[Tensor, "*n d"]:
        """Standard deviation of the prior in each dimension."""
        return variances(self.loc, self.scale).sqrt() if self.full else self.scale

    @property
    def log_volume(self) -> Float[Tensor, "*n"]:
        """Log-determinant of dz/du: log p(z) is log N(u; 0, I) less this."""
        return log_volume(self.loc, self.scale)

    def into(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Points of the model's z in these coordinates, float64."""
        return to_units(z, self.loc, self.scale)

    def out(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Points in these coordinates as ones of the model's z, float64."""
        return from_units(u, self.loc, self.scale)

    def of(
        self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    ) -> tuple[Tensor, Tensor]:
        """Means, and standard deviations or factors, of the model's z in these coordinates; rounded once."""
        wide, whole = scale.double(), is_full(mean, scale)
        if self.full:
            wide = self._inverse @ wide if whole else self._inverse * wide[:, None]
        else:
            wide = wide / (self.scale[..., None] if whole else self.scale)
        return self.into(mean).to(mean.dtype), wide.to(scale.dtype)

    def inside(self, r: LatentDistribution) -> Affine:
        """A distribution of the model's z, as one in these coordinates."""
        return Affine(r, self.into(torch.zeros_like(self.loc)[None])[0], self._inverse)

    def outside(self, r: LatentDistribution) -> Affine:
        """A distribution in these coordinates, as one of the model's z."""
        return Affine(r, self.loc, self.scale)

    @property
    def _inverse(self) -> Tensor:
        """The inverse of the scale; lower triangular, too."""
        if not self.full:
            return 1 / self.scale
        one = torch.eye(len(self.scale), dtype=self.scale.dtype)
        inverse: Tensor = torch.linalg.solve_triangular(self.scale, one, upper=False)
        return inverse.tril()


@dataclass(frozen=True)
class Moved:
    """A model whose latents are taken and given in other coordinates."""

    model: Model
    coordinates: Coordinates

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """Mean of q(u|x), and its standard deviations or Cholesky factor."""
        return self.coordinates.of(*self.model.encode(x))

    def outside(self, r: LatentDistribution) -> LatentDistribution:
        """A distribution in these coordinates, as one of the model's z (`vae.Elsewhere`)."""
        return self.coordinates.outside(r)

    @property
    def inner(self) -> Model:
        """The model, which takes its own z."""
        return self.model

    def decode(self, u: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z) at z = loc + scale u."""
        return self.model.decode(self.coordinates.out(u).to(u.dtype))


def coordinates_of(prior: LatentDistribution | Distribution | None, d: int) -> Coordinates | None:
    """The coordinates in which a Gaussian prior is N(0, I); None where it is that already, or where there are none.

    Args:
        prior: ours or torch's. One Gaussian (`Normal`, `Independent`, `MultivariateNormal`), with one latent as its
            event or one parameter for all dimensions, has such coordinates; other priors have none, nor have ours of
            low rank.
        d: latent dimension.

    Raises:
        UsageError: a Gaussian of other dimensions, or one with scales that are not above 0.
    """
    if prior is None:
        return None
    found = _torch(prior) if isinstance(prior, Distribution) else _ours(prior)
    if found is None:
        return None
    loc, scale = (t.detach().double().cpu() for t in found)
    full = is_full(loc, scale)
    if loc.ndim > 1 or (loc.ndim == 1 and len(loc) != d and (full or len(loc) != 1)):
        raise UsageError(f"prior: expected a Gaussian in {d} dimensions, got one of shape {list(loc.shape)}")
    if not full:
        loc, scale = loc.expand(d).clone(), scale.expand(d).clone()
    width = scale.diagonal() if full else scale
    if not bool(torch.isfinite(loc).all() & torch.isfinite(scale).all() & (width > 0).all()):
        raise UsageError(
            "prior: expected finite means and standard deviations above 0, got standard deviations from "
            f"{float(width.min()):g} to {float(width.max()):g}"
        )
    standard = not full and bool((loc == 0).all() and (scale == 1).all())
    return None if standard else Coordinates(loc, scale)


def _torch(prior: Distribution) -> tuple[Tensor, Tensor] | None:
    while isinstance(prior, Independent):
        prior = prior.base_dist
    if isinstance(prior, MultivariateNormal):
        return _plainest(prior.loc, prior.scale_tril)
    return (prior.loc, prior.scale) if isinstance(prior, Normal) else None


def _ours(prior: LatentDistribution) -> tuple[Tensor, Tensor] | None:
    if not isinstance(prior, GaussianDistribution) or len(prior.components.mean) != 1:
        return None
    c = prior.components
    if isinstance(c, Diagonal):
        return c.mean[0], c.scale[0]
    return None if isinstance(c, LowRank) else _plainest(c.mean[0], c.scale_tril[0])


def _plainest(loc: Tensor, tril: Tensor) -> tuple[Tensor, Tensor] | None:
    """Standard deviations in place of a factor that is diagonal; None for several Gaussians that need factors."""
    if torch.equal(tril, torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1))):
        return loc, tril.diagonal(dim1=-2, dim2=-1)
    return (loc, tril) if tril.ndim == 2 else None


def known(prior: Given, d: int, *, factors: int = 0) -> tuple[Coordinates | None, LatentDistribution | None]:
    """The coordinates in which a prior is N(0, I), or the prior itself where there are none; neither for N(0, I).

    Args:
        prior: as it is given.
        d: latent dimension.
        factors: posteriors that would get a factor of d x d numbers each, for a prior with a full covariance. Where
            these are too many numbers the prior itself is returned.
    """
    at = coordinates_of(prior, d)
    if at is not None and at.full and factors * d * d > MOST:
        at = None
    ours = Prior(d) if at is not None else prior_of(prior, d)
    return at, None if closed(ours) else ours

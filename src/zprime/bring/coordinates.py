"""A Gaussian prior N(loc, diag scale^2) as origin and units of the latent space: there it is N(0, I).

docs/theory.md, section 9. The change u = (z - loc) / scale takes prior, posteriors and candidates along, so that no
gain changes: r and p have the same Jacobian. All closed forms for the prior N(0, I) then hold.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from zprime.arrays import is_full
from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.latent.affine import Affine
from zprime.latent.priors import Given, prior_of
from zprime.low_rank import LowRank
from zprime.measure.prior import closed
from zprime.vae import Model


@dataclass(frozen=True)
class Coordinates:
    """Where N(0, I) stands for the prior of the model.

    Attributes:
        loc, scale: shape [d], float64: mean and standard deviation of the prior in every dimension; [n, d] for the
            priors of n rows.
    """

    loc: Float[Tensor, "*n d"]
    scale: Float[Tensor, "*n d"]

    def of(
        self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    ) -> tuple[Tensor, Tensor]:
        """Means, and standard deviations or factors, of the model's z in these coordinates; rounded once."""
        u = (mean.double() - self.loc) / self.scale
        unit = self.scale[:, None] if is_full(mean, scale) else self.scale
        return u.to(mean.dtype), (scale.double() / unit).to(scale.dtype)

    def inside(self, r: LatentDistribution) -> Affine:
        """A distribution of the model's z, as one in these coordinates."""
        return Affine(r, -self.loc / self.scale, 1 / self.scale)

    def outside(self, r: LatentDistribution) -> Affine:
        """A distribution in these coordinates, as one of the model's z."""
        return Affine(r, self.loc, self.scale)


@dataclass(frozen=True)
class Moved:
    """A model whose latents are taken and given in other coordinates."""

    model: Model
    coordinates: Coordinates

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """Mean of q(u|x), and its standard deviations or Cholesky factor."""
        return self.coordinates.of(*self.model.encode(x))

    def decode(self, u: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z) at z = loc + scale u."""
        at = self.coordinates
        return self.model.decode((at.loc + at.scale * u.double()).to(u.dtype))


def coordinates_of(prior: LatentDistribution | Distribution | None, d: int) -> Coordinates | None:
    """The coordinates in which a Gaussian prior is N(0, I); None where it is that already, or where there are none.

    Args:
        prior: ours or torch's. One Gaussian with independent dimensions (`Normal`, `Independent`,
            `MultivariateNormal`), with one latent as its event or one parameter for all dimensions, has such
            coordinates; other priors have none.
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
    if loc.ndim > 1 or (loc.ndim == 1 and len(loc) not in (1, d)):
        raise UsageError(f"prior: expected a Gaussian in {d} dimensions, got one of shape {list(loc.shape)}")
    loc, scale = loc.expand(d).clone(), scale.expand(d).clone()
    if not bool((torch.isfinite(loc) & torch.isfinite(scale) & (scale > 0)).all()):
        raise UsageError(
            "prior: expected finite means and standard deviations above 0, got standard deviations from "
            f"{float(scale.min()):g} to {float(scale.max()):g}"
        )
    return None if bool((loc == 0).all() and (scale == 1).all()) else Coordinates(loc, scale)


def _torch(prior: Distribution) -> tuple[Tensor, Tensor] | None:
    while isinstance(prior, Independent):
        prior = prior.base_dist
    if isinstance(prior, MultivariateNormal):
        tril = prior.scale_tril
        return (prior.loc, tril.diagonal(dim1=-2, dim2=-1)) if torch.equal(tril, _diagonal(tril)) else None
    return (prior.loc, prior.scale) if isinstance(prior, Normal) else None


def _ours(prior: LatentDistribution) -> tuple[Tensor, Tensor] | None:
    if not isinstance(prior, GaussianDistribution) or len(prior.components.mean) != 1:
        return None
    c = prior.components
    if isinstance(c, Diagonal):
        return c.mean[0], c.scale[0]
    if isinstance(c, LowRank):
        return None
    tril = c.scale_tril[0]
    return (c.mean[0], tril.diagonal()) if torch.equal(tril, _diagonal(tril)) else None


def _diagonal(tril: Tensor) -> Tensor:
    return torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1))


def known(prior: Given, d: int) -> tuple[Coordinates | None, LatentDistribution | None]:
    """The coordinates in which a prior is N(0, I), or the prior itself where there are none; neither for N(0, I)."""
    at = coordinates_of(prior, d)
    ours = Prior(d) if at is not None else prior_of(prior, d)
    return at, None if closed(ours) else ours

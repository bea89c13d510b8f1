"""affine: another latent distribution in other coordinates, z = loc + scale u with u drawn from it.

The scale is one number a dimension, or a lower triangular matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.arrays import check_matrix, cholesky, is_full, log_volume, row_major
from zprime.components import Diagonal, Full, Tilted
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.latent.wrapper import Wrapper
from zprime.low_rank import LowRank
from zprime.schema import ANY, FACTOR, FINITE, POSITIVE, Array, Part, Schema, need

Scale = Float[Tensor, " d"] | Float[Tensor, "d d"]


def to_units(z: Float[Tensor, "n d"], loc: Tensor, scale: Tensor) -> Float[Tensor, "n d"]:
    """The u with z = loc + scale u, float64.

    Args:
        z: points.
        loc: shape [d], or [n, d] for an origin a row.
        scale: of the shape of `loc`, above 0; or, beside one origin, lower triangular, [d, d].
    """
    gap = z.double() - loc
    if not is_full(loc, scale):
        return gap / scale
    solved: Tensor = torch.linalg.solve_triangular(scale, gap.mT, upper=False)
    return solved.mT.contiguous()


def from_units(u: Float[Tensor, "n d"], loc: Tensor, scale: Tensor) -> Float[Tensor, "n d"]:
    """The z = loc + scale u, float64; the inverse of `to_units`."""
    return loc + (u.double() @ row_major(scale).mT if is_full(loc, scale) else scale * u.double())


@final
@dataclass(frozen=True, repr=False, eq=False)
class Affine(Wrapper):
    """r(z) = base(scale^-1 (z - loc)) / det scale: what `base` is once its latent space is shifted and stretched.

    Attributes:
        loc: shape [d], float64.
        scale: shape [d], float64, above 0; or [d, d], lower triangular with a diagonal above 0.
    """

    kind: ClassVar[str] = "affine"
    schema: ClassVar[Schema] = Schema(
        {"base": Part()},
        {
            "loc": Array({"d": FINITE}, "real"),
            "scale": Array({"d": POSITIVE, "d d": FACTOR}, "real"),
            "base.*": Array({"*": ANY}, "any"),
        },
    )
    loc: Float[Tensor, " d"]
    scale: Scale

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.base.d

    @property
    def bytes(self) -> int:
        """Of the base, as it counts them, and of shift and scale."""
        return self.base.bytes + 8 * (self.loc.numel() + self.scale.numel())

    @property
    def label(self) -> str:
        """The base's: a shift of coordinates makes no other distribution of x'."""
        return self.base.label

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log base(scale^-1 (z - loc)) less log det scale, in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.d)
        return self.base.log_prob(to_units(z, self.loc, self.scale)) - log_volume(self.loc, self.scale)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws of the base, shifted and stretched."""
        u = self.base.sample(n, rng=rng)
        return from_units(u, self.loc, self.scale).to(u.dtype)

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """In closed form where the base is a mixture of Gaussians: that is one in all coordinates."""
        if not isinstance(self.base, GaussianDistribution):
            return None
        return self._moved(self.base.components).tilt(mean.double(), scale.double(), draws=draws, rng=rng)

    def _moved(self, c: Diagonal | Full | LowRank) -> Diagonal | Full | LowRank:
        """The base's components in these coordinates, float64."""
        weight, centre = c.log_weight.double(), from_units(c.mean, self.loc, self.scale)
        if is_full(self.loc, self.scale):
            return Full(weight, centre, self.scale @ _factors(c))
        if isinstance(c, LowRank):
            return LowRank(weight, centre, self.scale * c.scale.double(), self.scale[:, None] * c.factor.double())
        if isinstance(c, Full):
            return Full(weight, centre, self.scale[:, None] * c.scale_tril.double())
        return Diagonal(weight, centre, self.scale * c.scale.double())

    def tensors(self) -> dict[str, Tensor]:
        """Shift and scale, and the base's."""
        return {"loc": self.loc, "scale": self.scale} | {f"base.{k}": v for k, v in self.base.tensors().items()}

    def config(self) -> dict[str, Any]:
        """The base."""
        return {"base": {"kind": self.base.kind, "config": self.base.config()}}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the base's parts."""
        base, loc = distribution.part("base", config["base"], tensors), tensors["loc"]
        need("loc", len(loc) == base.d, f"{base.d} dimensions, as the base has", len(loc))
        return cls(base, loc.double(), tensors["scale"].double())


def _factors(c: Diagonal | Full | LowRank) -> Float[Tensor, "k d d"]:
    """Cholesky factors of the covariances of components, float64."""
    if isinstance(c, Full):
        return c.scale_tril.double()
    if isinstance(c, Diagonal):
        return torch.diag_embed(c.scale.double())
    factor = c.factor.double()
    return cholesky("components of low rank", factor @ factor.mT + torch.diag_embed(c.scale.double().square()))

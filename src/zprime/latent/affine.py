"""affine: another latent distribution in other coordinates, z = loc + scale u with u drawn from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.arrays import check_matrix
from zprime.components import Diagonal, Full, Tilted
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.latent.wrapper import Wrapper
from zprime.low_rank import LowRank
from zprime.schema import ANY, FINITE, POSITIVE, Array, Part, Schema, need


@final
@dataclass(frozen=True, repr=False, eq=False)
class Affine(Wrapper):
    """r(z) = base((z - loc) / scale) / prod scale: what `base` is once its latent space is shifted and stretched.

    Attributes:
        loc: shape [d], float64.
        scale: shape [d], float64, above 0.
    """

    kind: ClassVar[str] = "affine"
    schema: ClassVar[Schema] = Schema(
        {"base": Part()},
        {
            "loc": Array({"d": FINITE}, "real"),
            "scale": Array({"d": POSITIVE}, "real"),
            "base.*": Array({"*": ANY}, "any"),
        },
    )
    loc: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.base.d

    @property
    def bytes(self) -> int:
        """Of the base, as it counts them, and of shift and scale."""
        return self.base.bytes + 16 * self.d

    @property
    def label(self) -> str:
        """The base's: a shift of coordinates makes no other distribution of x'."""
        return self.base.label

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log base((z - loc) / scale) less the sum of log scale, in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.d)
        return self.base.log_prob((z.double() - self.loc) / self.scale) - self.scale.log().sum()

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws of the base, shifted and stretched."""
        u = self.base.sample(n, rng=rng)
        return (self.loc + self.scale * u.double()).to(u.dtype)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """In closed form where the base is a mixture of Gaussians: that is one in all coordinates."""
        if not isinstance(self.base, GaussianDistribution):
            return None
        c = self.base.components
        centre = self.loc + self.scale * c.mean.double()
        if isinstance(c, LowRank):
            factor = self.scale[:, None] * c.factor.double()
            moved: Diagonal | Full | LowRank = LowRank(
                c.log_weight.double(), centre, self.scale * c.scale.double(), factor
            )
        elif isinstance(c, Full):
            moved = Full(c.log_weight.double(), centre, self.scale[:, None] * c.scale_tril.double())
        else:
            moved = Diagonal(c.log_weight.double(), centre, self.scale * c.scale.double())
        return moved.tilt(mean.double(), scale.double(), draws=draws, rng=rng)

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

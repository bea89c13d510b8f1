"""What log-pool and barycentre have in common: one diagonal Gaussian, from means over all posteriors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.posteriors import Posteriors, Shard
from zprime.schema import FINITE, POSITIVE, Array, Maybe, Real, Schema


@dataclass(frozen=True, repr=False, eq=False)
class Centre(GaussianDistribution):
    """N(mean, diag(scale^2))."""

    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))}, {"mean": Array({"d": FINITE}), "scale": Array({"d": POSITIVE})}
    )
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    least_rows: float | None = None

    @property
    def components(self) -> Diagonal:
        """A mixture of one."""
        one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
        return Diagonal(one, self.mean[None], self.scale[None])

    def tensors(self) -> dict[str, Tensor]:
        """Mean and standard deviations."""
        return {"mean": self.mean, "scale": self.scale}

    def config(self) -> dict[str, Any]:
        """The effective rows behind it."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale"], config["least_rows"])


def averages(
    posteriors: Posteriors, *quantities: Callable[[Shard], Float[Tensor, "b d"]]
) -> tuple[list[Float[Tensor, " d"]], torch.dtype]:
    """Weighted means over all rows of quantities of a shard, float64, and the dtype of the posteriors."""
    weights = posteriors.log_weights.exp()
    totals = [torch.zeros(posteriors.d, dtype=torch.float64) for _ in quantities]
    dtype = torch.float32
    for shard in posteriors.shards():
        dtype = shard.mean.dtype
        totals = [t + weights[shard.rows] @ f(shard) for t, f in zip(totals, quantities, strict=True)]
    return totals, dtype

"""The mixture of Gaussians that the kind `mixture` fits, with covariances of any form."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.low_rank import LowRank
from zprime.schema import FACTOR, FINITE, LOG_WEIGHTS, POSITIVE, Array, Maybe, Real, Schema, need


@final
@dataclass(frozen=True, repr=False, eq=False)
class Mixture(GaussianDistribution):
    """K Gaussians with full covariances (`scale_tril` [k, d, d]) or diagonal ones (`scale_tril` [k, d]).

    Those of low rank, F F^T + diag(scale_tril^2), have `factor`, F, beside a `scale_tril` [k, d].
    """

    kind: ClassVar[str] = "mixture"
    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {
            "log_weight": Array({"k": LOG_WEIGHTS}),
            "mean": Array({"k d": FINITE}),
            "scale_tril": Array({"k d": POSITIVE, "k d d": FACTOR}),
            "factor": Array({"k d r": FINITE}, optional=True),
        },
    )
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale_tril: Float[Tensor, "k d d"] | Float[Tensor, "k d"]
    least_rows: float | None = None
    factor: Float[Tensor, "k d r"] | None = None

    @cached_property
    def components(self) -> Diagonal | Full | LowRank:
        """The K Gaussians."""
        if self.factor is not None:
            return LowRank(self.log_weight, self.mean, self.scale_tril, self.factor)
        shape: type[Diagonal] | type[Full] = Diagonal if self.scale_tril.ndim == 2 else Full
        return shape(self.log_weight, self.mean, self.scale_tril)

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return f"{len(self.mean)} Gaussians fitted to all posteriors"

    @property
    def label(self) -> str:
        """With the number of components, and of the factors of each."""
        return f"mixture({len(self.mean)}{'' if self.factor is None else f', rank {self.factor.shape[2]}'})"

    def tensors(self) -> dict[str, Tensor]:
        """Log-weights, means, Cholesky factors (or standard deviations, and the factors of low rank)."""
        tensors = {"log_weight": self.log_weight, "mean": self.mean, "scale_tril": self.scale_tril}
        return tensors if self.factor is None else {**tensors, "factor": self.factor}

    def config(self) -> dict[str, Any]:
        """The effective rows behind the component that has fewest."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        log_weight, mean, scale = tensors["log_weight"], tensors["mean"], tensors["scale_tril"]
        r = cls(log_weight, mean, scale, config["least_rows"], tensors.get("factor"))
        if r.factor is not None:
            need("scale_tril", scale.ndim == 2, "shape [k, d] beside factors", list(scale.shape))
        return r

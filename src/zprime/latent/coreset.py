"""coreset: K Gaussians of one shared width, which stand for the exemplars of all training rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.schema import FINITE, LOG_WEIGHTS, POSITIVE, Array, Maybe, Real, Schema


@final
@dataclass(frozen=True, repr=False, eq=False)
class Coreset(GaussianDistribution):
    """`r(z) = sum_k w_k N(z; m_k, width^2 I)`, m_k the encoder's mean at pseudo-datum k (Ai et al. 2021).

    It is what a prior learned in training leaves (`zprime.learned.CoresetPrior`); no fit makes one after training. The
    pseudo-data stay behind.

    Attributes:
        log_weight: logarithms of w_k, shape [k].
        mean: m_k, shape [k, d].
        width: one standard deviation for all components and dimensions, shape [].
        least_rows: effective training rows behind the component that has fewest; 1 at most if a pseudo-datum is still a
            training row; None if they were not counted.
    """

    kind: ClassVar[str] = "coreset"
    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {"log_weight": Array({"k": LOG_WEIGHTS}), "mean": Array({"k d": FINITE}), "width": Array({"": POSITIVE})},
    )
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    width: Float[Tensor, ""]
    least_rows: float | None = None

    @cached_property
    def components(self) -> Diagonal:
        """The K Gaussians."""
        return Diagonal(self.log_weight, self.mean, self.width.expand_as(self.mean).contiguous())

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return f"Gaussians of one width at the codes of {len(self.mean)} pseudo-data"

    @property
    def label(self) -> str:
        """With the number of components."""
        return f"coreset({len(self.mean)})"

    def tensors(self) -> dict[str, Tensor]:
        """Log-weights, means, and the width."""
        return {"log_weight": self.log_weight, "mean": self.mean, "width": self.width}

    def config(self) -> dict[str, Any]:
        """The effective rows behind the component that has fewest."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["log_weight"], tensors["mean"], tensors["width"], config["least_rows"])

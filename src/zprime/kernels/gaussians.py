"""What a mixture of diagonal Gaussians consists of."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """Diagonal Gaussians with weights.

    Attributes:
        mean: shape [n, d].
        scale: standard deviations, shape [n, d].
        log_weight: shape [n]; -inf is allowed, nothing is normalised.
    """

    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"]
    log_weight: Float[Tensor, " n"]

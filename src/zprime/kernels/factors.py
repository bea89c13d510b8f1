"""What a mixture of Gaussians of low rank consists of, as its kernels take it."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """Gaussians N(mean, diag(scale^2) + F F^T) by Woodbury's identity, float64.

    With `u = (z - mean) / scale` a squared distance is `|u|^2 - |B u|^2`.

    Attributes:
        mean: shape [k, d].
        inverse: 1 / scale, shape [k, d].
        factor: B, `L^-1 F^T diag(1 / scale)` with `L L^T = I + F^T diag(1 / scale^2) F`, shape [k, r, d].
        constant: log-weight and normaliser in nats, shape [k].
    """

    mean: Float[Tensor, "k d"]
    inverse: Float[Tensor, "k d"]
    factor: Float[Tensor, "k r d"]
    constant: Float[Tensor, " k"]

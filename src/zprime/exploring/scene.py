"""Where things lie on the map: axes to look along, Gaussians as they look along these, and numbers for JSON."""

import base64
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.reporting.figures import principal_axes
from zprime.results.thresholds import THRESHOLDS

PRINCIPAL = 4
DIMENSIONS = 24
"""Axes of the map at most: principal axes, and the dimensions of largest variance."""
DIGITS = 5
"""Significant digits of numbers on the page."""


@dataclass(frozen=True, eq=False)
class Axes:
    """Directions to look along, each of length 1.

    Attributes:
        names: as the page calls them.
        directions: shape [d, m], float64, one in each column.
    """

    names: tuple[str, ...]
    directions: Float[Tensor, "d m"]

    @classmethod
    def of(cls, codes: Float[Tensor, "n d"]) -> "Axes":
        """Principal axes of `codes`, and the dimensions in which these vary most."""
        codes = codes.double()
        d = codes.shape[1]
        plane = principal_axes(codes, min(PRINCIPAL, d))
        variance = codes.var(0, correction=0)
        order = sorted(range(d), key=lambda j: -float(variance[j]))[:DIMENSIONS]
        names = [f"principal axis {i + 1}" for i in range(plane.shape[1])]
        names += [f"dimension {j}{'' if variance[j] > THRESHOLDS.active else ' (collapsed)'}" for j in order]
        return cls(tuple(names), torch.cat([plane, torch.eye(d, dtype=torch.float64)[:, order]], 1))

    def gaussian(
        self, mean: Float[Tensor, " d"], scale: Float[Tensor, " d"] | Float[Tensor, "d d"]
    ) -> dict[str, list[Any]]:
        """A Gaussian along all axes: `mean`, one number an axis, and `covariance`, a row an axis.

        Args:
            mean: of z.
            scale: standard deviations, or a lower triangular factor of the covariance.
        """
        u, scale = self.directions, scale.double()
        half = scale[:, None] * u if scale.ndim == 1 else scale.T @ u
        return {"mean": numbers(mean.double() @ u), "covariance": [numbers(row) for row in half.T @ half]}


def numbers(values: Tensor) -> list[float]:
    """A vector for JSON, in a few digits; what is not finite becomes the largest number of float32."""
    plain = values.double().nan_to_num().clamp(-3.4e38, 3.4e38)
    return [float(f"{v:.{DIGITS}g}") for v in plain.tolist()]


def shown(x: Float[Tensor, "*datum"], *, image: bool) -> dict[str, Any]:
    """One x for JSON: `pixels`, bytes in base64, of an image of range 0 to 1; else `values`."""
    if not image:
        return {"values": numbers(x.flatten())}
    levels = (255 * x.double().nan_to_num().clamp(0, 1)).round().to(torch.uint8)
    return {"pixels": base64.b64encode(levels.flatten().numpy().tobytes()).decode()}

"""What the latent map of the page is drawn from: codes, draws, and axes to look along."""

from typing import Any

import torch
from torch import Tensor

from zprime.reporting.figures import principal_axes
from zprime.reporting.section import Section
from zprime.reporting.words import drawn, latent
from zprime.results.audit import Audit
from zprime.results.names import CODES

POINTS = 700
NUMBERS = 260_000
"""At most this many coordinates go into the page: half a megabyte or so."""


def map_data(audit: Audit) -> dict[str, Any] | None:
    """Codes and draws in hundredths, principal axes, and the names of the axes; None if there is nothing to draw.

    Where the audit has no codes, because it is to be public, the axes are those of the first draws.
    """
    shown = drawn(audit)
    if not shown:
        return None
    codes = audit.tensors.get(CODES)
    spread = audit.tensors[f"map.{shown[0][0]}"] if codes is None else codes
    d = spread.shape[1]
    points = min(POINTS, max(100, NUMBERS // (d * (len(shown) + 1))))
    variance = audit.variance
    order = sorted(range(d), key=lambda j: -variance[j])[:64]
    plane = principal_axes(spread.double(), min(4, d))
    axes = [f"principal axis {i + 1}" for i in range(plane.shape[1])]
    axes += [f"{latent(j)}{'' if variance[j] > audit.thresholds.active else ' (collapsed)'}" for j in order]

    def seen(z: Tensor) -> list[list[int]]:
        """One list an axis: hundredths along it."""
        some = 100 * z[:points].double()
        hundredths: list[list[int]] = torch.cat([some @ plane, some[:, order]], 1).round().to(torch.int64).T.tolist()
        return hundredths

    return {
        "axes": axes,
        "codes": None if codes is None else seen(codes),
        "draws": [{"label": label, "z": seen(audit.tensors[f"map.{n}"])} for n, label in shown],
        "total": int(audit.tensors[f"map.{shown[0][0]}"].shape[0]),
    }


SECTION = Section("map", "The latent space", template="map.html.j2", extra=map_data)

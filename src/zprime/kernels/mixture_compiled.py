"""The compiled log-density of a mixture: float32 where that will do, float64 where it would not."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.kernels import compiled
from zprime.kernels.gaussians import Gaussians
from zprime.kernels.scaling import reach

ROUNDING = 4e-5  # nats that float32 terms may cost; where more is possible they are computed again in float64
DROPPED = 1e-6  # nats that float32 inputs lose at a tolerance of 0; float64 inputs lose 1e-15
SORTED = 256  # points from which on it pays to sort the components by neighbourhood
PANEL = 1 << 23  # numbers of one array of a panel: means of the components that are packed at once
KEPT = 1 << 28  # bytes of packed components that are kept for the next call
LOG2_E = 1 / math.log(2)
FAR = 1e15  # standard deviations, and scales or their reciprocals: beyond, squares would leave the range of float32


class Packed:
    """A mixture of diagonal Gaussians, laid out for the compiled kernel when it is first needed.

    Float32 unless some input is float64. A term's rounding error is at most `(d + 9) 2^-24` of its exponent. Terms that
    are much of the sum, and terms that count and could err by more than `ROUNDING`, are computed again in float64 from
    the inputs, a 64th of the components at most. Points at which the errors of the others, each weighted by its part of
    the sum, could still add up to more than `ROUNDING` are evaluated in float64 altogether. So is everything where a
    square could leave the range of float32 (`FAR`): a term that overflows would be passed over.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self.mean, self.scale = gaussians.mean.detach(), gaussians.scale.detach()
        self.log_weight = gaussians.log_weight.detach().double().contiguous()
        self.broken = any(bool(t.isnan().any()) for t in (self.mean, self.scale, self.log_weight))
        least, most = (float(v) for v in self.scale.aminmax()) if self.scale.numel() else (1.0, 1.0)
        self.wild = not (least > 1 / FAR and most < FAR)
        self.least, self.reach = least, reach(self.mean)
        self.panels: dict[tuple[torch.dtype, bool], list[tuple[slice, Any]]] = {}

    def evaluate(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None, tolerance: float, score: bool
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m d"] | None]:
        """The log-density in nats, and its gradient in z if asked for."""
        if self.broken:  # the sweep would pass over a component that is not a number
            lost = torch.full((len(z),), torch.nan, dtype=torch.float64)
            return lost, torch.full_like(z, torch.nan, dtype=torch.float64) if score else None
        wide = torch.float64 in (z.dtype, self.mean.dtype, self.scale.dtype) or self._overflows(z.detach())
        without = None if leave_out is None else leave_out.to(torch.int64).contiguous()
        log_prob, gradient, unsure = self._sweep(z.detach(), without, tolerance, score=score, wide=wide)
        rows = unsure.nonzero().flatten()
        if len(rows):
            some = None if without is None else without[rows]
            log_prob[rows], again, _ = self._sweep(z.detach()[rows], some, tolerance, score=score, wide=True)
            if gradient is not None and again is not None:
                gradient[rows] = again
        return log_prob, gradient

    def _overflows(self, z: Tensor) -> bool:
        """Whether a square could leave the range of float32; looks at every number of the points once."""
        return self.wild or not reach(z) + self.reach < FAR * self.least

    def _sweep(
        self, z: Tensor, without: Tensor | None, tolerance: float, *, score: bool, wide: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Log-density, gradient, and at which points float32 does not do."""
        (m, d), n = z.shape, len(self.mean)
        points = z.to(torch.float64 if wide else torch.float32).contiguous()
        shift = torch.full((m,), -torch.inf, dtype=torch.float64)
        total, doubt = torch.zeros(m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
        gradient = torch.zeros(m, d, dtype=torch.float64) if score else None
        dropped = math.log2(n / max(tolerance, 1e-15 if wide else DROPPED))
        threads = torch.get_num_threads() if m * n * d > compiled.SMALL else 1
        for columns, panel in self._panels(points.dtype, sort=m >= SORTED and n >= SORTED):
            inside = None if without is None else torch.where(without >= columns.start, without - columns.start, -1)
            for rows in blocks(m, max(1024, compiled.WORK // (n * d))):
                panel.sweep(
                    points[rows],
                    shift[rows],
                    total[rows],
                    doubt[rows],
                    None if gradient is None else gradient[rows],
                    None if inside is None else inside[rows],
                    dropped,
                    ROUNDING * LOG2_E,
                    threads,
                )
        log_prob = (shift + total.log2()) / LOG2_E
        if gradient is not None:
            gradient /= total[:, None]
        unsure = shift.isnan()
        if (
            not wide
        ):  # a sum of nothing may be one of terms beyond float32; else one errs by `slack` of mixture_sums.hpp
            unsure |= (total == 0) | (doubt * (d + 9) * 2.0**-24 * 1.01 > ROUNDING * LOG2_E * total)
        if not bool(torch.isfinite(points.sum())):
            lost = ~torch.isfinite(points).all(1)
            log_prob[lost], unsure[lost] = torch.nan, False
        return log_prob, gradient, unsure

    def _panels(self, dtype: torch.dtype, *, sort: bool) -> Iterable[tuple[slice, Any]]:
        """The components in one piece or several, packed; generated anew for each call where they are many."""
        key = (dtype, sort)
        if key in self.panels:
            return self.panels[key]
        kind = compiled.module.Double if dtype == torch.float64 else compiled.module.Single
        n, d = self.mean.shape

        def pack(rows: slice) -> tuple[slice, Any]:
            mean, scale = (t[rows].to(dtype).contiguous() for t in (self.mean, self.scale))
            return rows, kind(mean, scale, self.log_weight[rows], sort)

        pieces = (pack(rows) for rows in blocks(n, max(1, PANEL // d)))
        if n * d * dtype.itemsize * 4 > KEPT:
            return pieces
        self.panels[key] = list(pieces)
        return self.panels[key]

"""The pure-torch form of the mixture's log-density: matrix products in tiles, with a running log-sum-exp."""

import math
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.kernels.gaussians import Gaussians

POINTS = 256
COMPONENTS = 2048
PANEL = 65536  # components whose features are held at once
FLOOR = -80.0  # exp(-80) is nothing beside 1, and exp of less is 13 to 38 times slower (denormals)
DROPPED = 1e-12  # nats that may be lost at a tolerance of 0
FEW = 32  # where less than one pair in so many can matter, these are computed one by one
GIVE_UP = 8  # tiles without that in a row, after which it is not tried any more
LOSSY = 1e-5  # nats that an expanded square may cost in float64; where more is possible the direct form is taken
BEYOND = 1e30  # sizes of terms from which on the float32 product could overflow, so that the product is not taken
NUMBERS = 1 << 22  # differences that are held at once in the direct form


def evaluate(
    z: Float[Tensor, "m d"],
    gaussians: Gaussians,
    *,
    leave_out: Int[Tensor, " m"] | None,
    tolerance: float,
    score: bool,
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m d"] | None]:
    """The log-density in nats, and its gradient in z if asked for, both float64.

    A float32 product bounds every term from above (the bound of its rounding is added in); pairs that can matter are
    computed one by one in float64 by the direct form. Where they are many, the tile is one float64 product instead:
    on centred points its error is 4e-9 nats at scale 0.003 and d = 32.
    """
    mean, scale, log_weight = gaussians.mean, gaussians.scale, gaussians.log_weight
    sums = _Sums(z, mean.double().mean(0), leave_out, score=score)
    dropped = math.log(len(mean) / max(tolerance, DROPPED))
    dense = 0
    for start in range(0, len(mean), PANEL):
        panel = slice(start, start + PANEL)
        part = _Panel(sums, mean[panel], scale[panel], log_weight[panel], start)
        for rows in blocks(len(z), POINTS):
            for columns in blocks(len(part.mean), COMPONENTS):
                pairs = None if dense >= GIVE_UP else part.near(rows, columns, dropped)
                dense = dense + 1 if pairs is None else 0
                if pairs is None:
                    sums.add_tile(rows, part, columns)
                else:
                    sums.add_pairs(rows, part, *pairs)
    log_prob = (sums.top + sums.total.log()).masked_fill_(~z.isfinite().all(1), torch.nan)
    return log_prob, None if sums.score is None else sums.score / sums.total[:, None]


class _Sums:
    """Running sums over components at every point, in units of exp(top)."""

    def __init__(self, z: Tensor, centre: Tensor, leave_out: Tensor | None, *, score: bool) -> None:
        self.raw, self.centre, self.leave_out = z.double(), centre, leave_out
        self.points = self.raw - centre
        self.features = torch.cat([self.points.square(), self.points, torch.ones_like(self.points[:, :1])], 1)
        self.rough = self.features.float()
        self.rough[:, : z.shape[1]] *= -0.5  # here, and not at every component
        self.top = torch.full_like(self.points[:, 0], -torch.inf)
        self.total = torch.zeros_like(self.top)
        self.score = torch.zeros_like(self.points) if score else None

    def mask(self, tile: Tensor, rows: slice, start: int) -> None:
        """Set what is to be left out to -inf in a tile whose first component has position `start`."""
        if self.leave_out is not None:
            mask(tile, self.leave_out[rows] - start)

    def add_tile(self, rows: slice, part: "_Panel", columns: slice) -> None:
        """Every pair of some points and components, by the expanded square in float64, or by the direct form."""
        if part.lossy(rows):
            step = max(1, NUMBERS // (self.raw[rows].numel()))
            for some in blocks(columns.stop - columns.start, step):
                self._add_direct(rows, part, slice(columns.start + some.start, columns.start + some.stop))
            return
        weights = part.weights[columns]
        tile = self.features[rows] @ weights.T
        self.mask(tile, rows, part.start + columns.start)
        before = self.top[rows].clone()
        accumulate(tile, self.top[rows], self.total[rows])
        if self.score is not None:
            d = self.points.shape[1]
            self._rescale(rows, before)
            self.score[rows] += tile @ weights[:, d : 2 * d] + 2 * self.points[rows] * (tile @ weights[:, :d])

    def _add_direct(self, rows: slice, part: "_Panel", columns: slice) -> None:
        """Every pair, from the numbers as they were given: no square is expanded, and no centre is taken off."""
        u = (self.raw[rows][:, None] - part.given[columns]) * part.inverse[columns]
        tile = part.constant[columns] - 0.5 * u.square().sum(2)
        self.mask(tile, rows, part.start + columns.start)
        before = self.top[rows].clone()
        counts = tile >= torch.maximum(before, tile.amax(1))[:, None] + FLOOR
        accumulate(tile, self.top[rows], self.total[rows])
        if self.score is not None:
            self._rescale(rows, before)
            slope = u.mul_(part.inverse[columns]).masked_fill_(~counts[..., None], 0.0)
            self.score[rows] -= torch.einsum("mk,mkd->md", tile, slope)

    def add_pairs(self, rows: slice, part: "_Panel", row: Tensor, column: Tensor) -> None:
        """Some pairs, by the direct form in float64; `row` counts from the first of `rows`."""
        if self.leave_out is not None:
            kept = self.leave_out[rows][row] != column + part.start
            row, column = row[kept], column[kept]
        top = self.top[rows]
        before = top.clone()
        u = (self.raw[rows][row] - part.given[column]) * part.inverse[column]
        term = part.constant[column] - 0.5 * u.square().sum(1)
        top.scatter_reduce_(0, row, term, "amax")
        scaled = (term - top[row]).exp_().nan_to_num_(0.0)  # -inf - -inf
        self.total[rows] *= _factor(before, top)
        self.total[rows].index_add_(0, row, scaled)
        if self.score is not None:
            self._rescale(rows, before)
            self.score[rows].index_add_(0, row, -scaled[:, None] * u * part.inverse[column])

    def _rescale(self, rows: slice, before: Tensor) -> None:
        if self.score is not None:
            self.score[rows] *= _factor(before, self.top[rows])[:, None]


def _factor(before: Tensor, now: Tensor) -> Tensor:
    """From units of exp(before) to units of exp(now)."""
    return torch.where(before == now, 1.0, (before - now).exp())


class _Panel:
    """Some components, as what the features of points are multiplied with."""

    def __init__(self, sums: _Sums, mean: Tensor, scale: Tensor, log_weight: Tensor, start: int) -> None:
        d = mean.shape[1]
        self.sums, self.start = sums, start
        self.given, self.inverse = mean.double(), scale.double().reciprocal()
        self.mean = self.given - sums.centre
        self.constant = log_weight.double() - 0.5 * d * LOG_2PI + self.inverse.log().sum(1)
        precision, natural, spread = self._natural()
        constant = self.constant - 0.5 * spread
        # A float32 product errs by at most (2 d + 8) 2^-24 of the sum of its terms' sizes, which is at most
        # z^2 W + mu^2 w + |c| with the largest precisions W (Higham 2002, 3.1): one part for points, one for components
        rounding = (2 * d + 8) * 2.0**-24
        reach = self.sums.points.square() @ precision.amax(0)
        self.slack = rounding * reach
        empty = self.constant == -torch.inf  # components of weight zero
        extra = (rounding * (spread + constant.abs())).masked_fill(empty, 0.0)
        self.extra = float(extra.amax())
        self.size = reach + self.extra / rounding
        self.rough = torch.empty(len(mean), 2 * d + 1, device=mean.device)
        self.rough[:, :d] = precision
        self.rough[:, d : 2 * d] = natural
        self.rough[:, -1] = (constant + extra * (1 + 1e-6)).float() + 1e-6

    @cached_property
    def weights(self) -> Tensor:
        """What float64 features are multiplied with; made where a tile needs it."""
        precision, natural, spread = self._natural()
        return torch.cat([-0.5 * precision, natural, (self.constant - 0.5 * spread)[:, None]], 1)

    def _natural(self) -> tuple[Tensor, Tensor, Tensor]:
        """Precisions, means in their units, and mu^2 / s^2 summed; made twice rather than kept in float64."""
        precision = self.inverse.square()
        natural = self.mean * precision
        return precision, natural, (natural * self.mean).sum(1)

    def lossy(self, rows: slice) -> bool:
        """Whether the expanded square could err by more than `LOSSY` in float64 at some of these points."""
        error = (2 * self.mean.shape[1] + 8) * 2.0**-53
        return not float(self.size[rows].amax()) * error < LOSSY

    def near(self, rows: slice, columns: slice, dropped: float) -> tuple[Tensor, Tensor] | None:
        """Pairs of points and components that can matter; None where they are many, or float32 cannot tell."""
        if not float(self.size[rows].amax()) < BEYOND:
            return None
        tile = self.sums.rough[rows] @ self.rough[columns].T
        self.sums.mask(tile, rows, self.start + columns.start)
        slack = self.slack[rows]
        known = self.sums.top[rows] + self.sums.total[rows].log()
        best = tile.amax(1)
        low = torch.maximum(known.nan_to_num(-torch.inf), best - slack - 2 * self.extra)
        least = (low - dropped - slack).float()
        # not >=: what is not a number can matter
        rows_near = (~(best < least)).nonzero().flatten()
        row, column = (~(tile[rows_near] < least[rows_near, None])).nonzero().unbind(1)
        return None if FEW * len(row) > tile.numel() else (rows_near[row], column + columns.start)


def mask(tile: Tensor, position: Tensor) -> None:
    """Set the entry `position` of each row to -inf where it lies inside the tile."""
    row = ((position >= 0) & (position < tile.shape[1])).nonzero().flatten()
    tile[row, position[row]] = -torch.inf


def accumulate(tile: Tensor, top: Tensor, total: Tensor) -> None:
    """Add a tile of log-terms to the running sums, total * exp(top), in place; the tile then holds exp(terms - top)."""
    peak = torch.maximum(top, tile.amax(1))
    # where all is -inf so far, any finite shift will do
    shift = torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))
    tile.sub_(shift[:, None]).clamp_(min=FLOOR).exp_()
    total.mul_((top - shift).exp()).add_(tile.sum(1))
    top.copy_(peak)

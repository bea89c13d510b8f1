"""By how much is a difference of two log-densities wrong? From rows that were drawn from each (Bennett 1976)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

WIDEST = 1e4  # nats


@dataclass(frozen=True)
class Shift:
    """The shift that makes g = log p_r(x) - log p_p(x) right.

    Attributes:
        delta: nats; below 0 where g is too large.
        of_p: by how much each row drawn from p_p moves delta, nats; infinite where the two do not overlap.
        of_r: the same of the rows drawn from p_r.
    """

    delta: float
    of_p: Float[Tensor, " n"]
    of_r: Float[Tensor, " m"]

    @property
    def stderr(self) -> float:
        """Standard error of delta, nats."""
        return spread([self.of_p, self.of_r])


def spread(parts: list[Float[Tensor, " _"]]) -> float:
    """Standard error of a number that independent samples of rows move by so much each; infinite of one row."""
    total = sum(len(p) * float(p.var()) if len(p) > 1 else math.inf for p in parts)
    return math.sqrt(total) if math.isfinite(total) else math.inf


def bennett(from_p: Float[Tensor, " n"], from_r: Float[Tensor, " m"]) -> Shift:
    """Solve for the shift.

    If g + delta is the log-ratio, a row of the n + m came from r with probability `sigma(g + delta + log m/n)`. So
    `sum_p sigma(g + delta + log m/n) = sum_r sigma(-g - delta - log m/n)`: the left side rises in delta, the right side
    falls. Every term is between 0 and 1, whatever the tails of g.

    Args:
        from_p: g of independent rows drawn from p_p.
        from_r: g of independent rows drawn from p_r.
    """
    a, b = (v.double() + math.log(len(from_r) / len(from_p)) for v in (from_p, from_r))
    low, high = -WIDEST, WIDEST
    for _ in range(80):
        middle = (low + high) / 2
        excess = float(torch.sigmoid(a + middle).sum() - torch.sigmoid(-b - middle).sum())
        low, high = (middle, high) if excess < 0 else (low, middle)
    delta = (low + high) / 2
    in_p, in_r = torch.sigmoid(a + delta), torch.sigmoid(-b - delta)
    slope = float((in_p * (1 - in_p)).sum() + (in_r * (1 - in_r)).sum())
    if slope <= 1e-12:
        return Shift(delta, torch.full_like(in_p, math.inf), torch.full_like(in_r, math.inf))
    return Shift(delta, -in_p / slope, in_r / slope)

"""Gains with a known mean, on which the rule of the verdict is run alone: what verdict.py and before.py share."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from zprime.latent import Defensive, Gaussian, Mixture
from zprime.measure.candidates import Candidates
from zprime.results.names import CandidateId
from zprime.rng import stream

ROWS = 300
INFINITE = 5
SHARE = 0.01
RARE = {share: 0.3 / (0.3 - math.log(share)) for share in (0.01, 0.1)}
"""Share of the prior -> how often a row loses its log, for a mean of 0: 0.0612 and 0.1153."""


class Planted(NamedTuple):
    """Held-out gains of the candidate that is best on the selection split.

    Attributes:
        values: nats a row.
        bound: no row loses more.
        groups: rows of a group share their gain.
    """

    values: Tensor
    bound: float
    groups: Tensor | None = None


class Split(NamedTuple):
    """Gains of two candidates and of the prior, by every estimator."""

    elbo: dict[CandidateId, Tensor]
    exact_posterior: dict[CandidateId, Tensor]
    likelihood: dict[CandidateId, Tensor]
    quarter: dict[CandidateId, Tensor]
    draws: int


def losing(loss: float, rare: float, bound: float, rows: int, kinds: int, seed: int) -> Planted:
    """+0.3, and a loss in few rows, for every candidate and split."""

    def values(name: str) -> Tensor:
        lost = torch.rand(rows, generator=stream(seed, "planted", name), dtype=torch.float64) < rare
        return torch.where(lost, loss, 0.3)

    best = max(range(kinds), key=lambda k: float(values(f"selection {k}").mean()))
    return Planted(values(f"heldout {best}"), bound)


def grouped(size: int, seed: int) -> Planted:
    """Gains with mean 0 that the rows of a group share, 300 rows."""
    rng = stream(seed, "grouped", size)
    groups = torch.arange(ROWS) // size
    shared = torch.randn(ROWS // size, generator=rng, dtype=torch.float64)
    values = (shared[groups] + 0.3 * torch.randn(ROWS, generator=rng, dtype=torch.float64)).clamp(min=-4)
    return Planted(values, -math.log(0.01), groups)


def rule_cases() -> dict[str, Callable[[int], Planted]]:
    """Name -> gains of a seed, whose mean is 0 or less."""
    found: dict[str, Callable[[int], Planted]] = {}
    for share, rare in RARE.items():
        for rows in (50, 300, 1000):
            for kinds in (1, 13):
                name = f"planted mean 0, log {share:g} in few rows, {rows} rows, {kinds} candidates"
                found[name] = partial(losing, math.log(share), rare, -math.log(share), rows, kinds)
    for rows in (50, 300, 1000):
        name = f"planted mean -0.3, -120 nats in a row of 200, {rows} rows, 13 candidates"
        found[name] = partial(losing, -120.0, 0.005, math.inf, rows, 13)
    return found | {f"planted mean 0, groups of {size}": partial(grouped, size) for size in (5, 10)}


def panel() -> Candidates:
    """Two candidates, each with 1 % of the prior."""
    small = Gaussian(torch.zeros(2), torch.ones(2))
    large = Mixture(torch.zeros(50).log_softmax(0), torch.zeros(50, 2), torch.ones(50, 2))
    return Candidates({"small": Defensive(small, SHARE), "large": Defensive(large, SHARE)})


def gains(candidates: Candidates, name: str, seed: int, case: tuple[dict[str, float], str, int]) -> Split:
    """Gains with these means and a spread of 1.3 nats, of which one candidate's moves by 0.1 nats with the draws.

    The exact-posterior gain is infinite in 5 rows. ELBO gains are 0.3 nats less.
    """
    means, moved, rows = case
    noise = 1.3 * torch.randn(rows, generator=stream(seed, "believed", name), dtype=torch.float64)
    zero = torch.zeros(rows, dtype=torch.float64)
    ids = {i: means.get(i.name) for i in candidates.eligible}
    values = {i: zero if mean is None else (mean + noise).clamp(min=math.log(SHARE)) for i, mean in ids.items()}
    posterior = {i: v.clone() for i, v in values.items()}
    for i, mean in ids.items():
        posterior[i][: 0 if mean is None else INFINITE] = math.inf
    quarter = {i: v - 0.1 * (i.name == moved) for i, v in values.items()}
    return Split({i: v - 0.3 for i, v in values.items()}, posterior, values, quarter, 400)


BELIEVED: dict[str, tuple[dict[str, float], str, int]] = {
    "100 rows, the better one's gain moves by 0.1": ({"small": 0.5, "large": 1.7}, "large", 100),
    "2,000 rows, the better one's gain moves by 0.1": ({"small": 0.5, "large": 1.7}, "large", 2000),
    "2,000 rows, the worse one's gain moves by 0.1": ({"small": 1.7, "large": 0.5}, "large", 2000),
}
"""Name -> means, the candidate whose estimate moves, and rows."""


def believed(case: tuple[dict[str, float], str, int], seed: int) -> tuple[Candidates, Split, Split]:
    """Candidates, and their gains on the selection and on the held-out split."""
    candidates = panel()
    first, second = (gains(candidates, s, seed, case) for s in ("selection", "heldout"))
    return candidates, first, second

"""Samples with planted faults, and the formulas of others, for tests of fidelity and copying."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from zprime.rng import stream

CENTRES = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]], dtype=torch.float64)


def clumps(n: int, seed: int, *, modes: int = 4, blur: float = 1.0, features: int = 6) -> Float[Tensor, "n f"]:
    """Rows in up to four clumps of two dimensions, with noise in the others; `blur` below 1 narrows every clump."""
    rng = stream(seed, "clumps")
    which = torch.randint(modes, (n,), generator=rng)
    x = blur * torch.randn(n, features, generator=rng, dtype=torch.float64)
    x[:, :2] += CENTRES[which]
    return x


def junk(n: int, seed: int, features: int = 6) -> Float[Tensor, "n f"]:
    """Rows far from every clump."""
    return 25 + 6 * torch.randn(n, features, generator=stream(seed, "junk"), dtype=torch.float64)


def mixed(a: Tensor, b: Tensor, share: float, seed: int) -> Tensor:
    """Rows of `b` with this share, of `a` else, in random order."""
    rng = stream(seed, "mixed")
    coin = torch.zeros(len(a), dtype=torch.bool)
    coin[torch.randperm(len(a), generator=rng)[: round(share * len(a))]] = True
    return torch.where(coin[:, None], b, a)


def prdc(real: Tensor, fake: Tensor, k: int) -> list[float]:
    """Precision, recall, density, coverage after Kynkaanniemi 2019 and Naeem 2020, row by row."""
    rr, ff, rf = (np.linalg.norm(a[:, None] - b[None], axis=2) for a, b in _pairs(real, fake))
    radius, radius2 = np.sort(rr, 1)[:, k], np.sort(ff, 1)[:, k]  # column 0 is the row itself
    precision = np.mean([any(rf[i, j] < radius[i] for i in range(len(rf))) for j in range(rf.shape[1])])
    recall = np.mean([any(rf[i, j] < radius2[j] for j in range(rf.shape[1])) for i in range(len(rf))])
    density = sum(rf[i, j] < radius[i] for i in range(len(rf)) for j in range(rf.shape[1])) / (k * rf.shape[1])
    coverage = np.mean([rf[i].min() < radius[i] for i in range(len(rf))])
    return [float(precision), float(recall), float(density), float(coverage)]


def _pairs(real: Tensor, fake: Tensor) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    a, b = real.numpy(), fake.numpy()
    return [(a, a), (b, b), (a, b)]

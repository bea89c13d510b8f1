"""Sliced Wasserstein distance: how far two samples are from each other along random directions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.rng import stream
from zprime.statistics.resampling import GROUPS, Groups, group_of, leave_out

DIRECTIONS = 64


def directions(features: int) -> Float[Tensor, "f l"]:
    """Random directions of length 1, the same for every pair of samples."""
    along: Tensor = torch.randn(features, DIRECTIONS, generator=stream(0, "sliced", features), dtype=torch.float64)
    along /= along.norm(dim=0)
    return along


def sliced(real: Float[Tensor, "n f"], fake: Float[Tensor, "n f"]) -> float:
    """Sliced W2 of two samples of one size, in the units of the features."""
    return float(_Sorted(real, fake, 1)(torch.ones(1, 1, dtype=torch.bool)))


def sliced_replicates(real: Float[Tensor, "n f"], fake: Float[Tensor, "n f"]) -> Groups:
    """Sliced W2 (Bonneel et al. 2015), in the units of the features, with groups left out of both samples together."""
    groups = min(GROUPS, len(real) // 2)
    return leave_out(_Sorted(real, fake, groups), groups=groups, pairs=False)


class _Sorted:
    """Both samples sorted along every direction once; leaving rows out keeps them sorted."""

    def __init__(self, real: Tensor, fake: Tensor, groups: int) -> None:
        along = directions(real.shape[1])
        group = group_of(len(real), groups)
        ranked = [(x.double() @ along).T.sort(dim=1) for x in (real, fake)]
        self.parts = [(r.values.numpy(), group[r.indices].to(torch.int16).numpy()) for r in ranked]

    def __call__(self, keep: Bool[Tensor, "b g"]) -> Float[Tensor, "b 1"]:
        return torch.stack([self._one(row) for row in keep])[:, None]

    def _one(self, keep: Bool[Tensor, " g"]) -> Float[Tensor, ""]:
        wanted = keep.numpy()  # numpy picks by a mask in half of torch's time
        real, fake = (torch.from_numpy(x[wanted[g]]) for x, g in self.parts)
        return (real - fake).square().mean().sqrt()

"""Ways from one z to another: straight, and through draws of a latent distribution."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

POWER = 4.0
"""Steps are counted by this power of their length, so that many short ones are shorter than a long one."""


def straight(start: Float[Tensor, " d"], end: Float[Tensor, " d"], n: int) -> Float[Tensor, "n d"]:
    """`n` points at equal distances, the ends among them."""
    return at_equal_distances(torch.stack([start, end]).double(), n)


def through(
    start: Float[Tensor, " d"],
    end: Float[Tensor, " d"],
    draws: Float[Tensor, "m d"],
    n: int,
    *,
    dims: list[int] | None = None,
    power: float = POWER,
) -> Float[Tensor, "n d"]:
    """`n` points along the way from draw to draw whose sum of `length^power` is least, the ends among them.

    Where the draws are dense the steps are short, so the way stays where the distribution has its mass: it is the
    power-weighted shortest path of a sample (Hwang, Damelin & Hero 2016). It needs no density.

    Args:
        start: a z.
        end: another one.
        draws: of the latent distribution.
        n: how many points.
        dims: dimensions in which lengths are measured; None for all. In collapsed ones they say nothing.
        power: of lengths; 1 is the straight way.
    """
    corner = torch.cat([torch.stack([start, end]).double(), draws.double()])
    seen = corner if dims is None else corner[:, dims]
    if torch.equal(seen[0], seen[1]):  # a graph takes an edge of length 0 for none
        return straight(start, end, n)
    cost = torch.cdist(seen, seen).pow(power).numpy()
    _, before = dijkstra(cost, indices=0, return_predecessors=True)
    way = [1]
    while way[-1] != 0:
        way.append(int(before[way[-1]]))
    return at_equal_distances(corner[way[::-1]], n)


def at_equal_distances(corners: Float[Tensor, "k d"], n: int) -> Float[Tensor, "n d"]:
    """`n` points on a line of straight pieces, equally far apart along it; the first and last are its ends."""
    length = (corners[1:] - corners[:-1]).norm(dim=1)
    place = torch.cat([torch.zeros(1, dtype=torch.float64), length.cumsum(0)]).numpy()
    wanted = np.linspace(0.0, place[-1], n)
    columns = [np.interp(wanted, place, corners[:, j].numpy()) for j in range(corners.shape[1])]
    points = torch.from_numpy(np.stack(columns, 1))
    points[0], points[-1] = corners[0], corners[-1]
    return points

"""Exact nearest neighbours, a block of queries at a time."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks

PAIRS = 20_000_000  # entries of a block of distances
SPARE = 4  # candidates beyond k that the direct form decides between


def nearest(
    queries: Float[Tensor, "m f"], points: Float[Tensor, "n f"], k: int
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """Euclidean distances to the k nearest points, ascending, and which they are."""
    queries, points = queries.float(), points.float()
    centre = points.mean(0)
    queries, points = queries - centre, points - centre
    square = points.square().sum(1)
    wanted = min(k + SPARE, len(points))
    distance, index = [], []
    for part in blocks(len(queries), max(1, PAIRS // len(points))):
        q = queries[part]
        close = torch.addmm(square, q, points.T, alpha=-2).topk(wanted, largest=False).indices
        # the expanded square cancels near 0: the direct form decides
        exact = (points[close].double() - q[:, None].double()).square().sum(2).sqrt()
        found = exact.sort(dim=1, stable=True)
        distance.append(found.values[:, :k])
        index.append(close.gather(1, found.indices[:, :k]))
    return torch.cat(distance), torch.cat(index)

"""Seeds of k-means: each point once, by squared distance and weight."""

import pytest
import torch

from zprime.arrays import WIDE
from zprime.rng import stream
from zprime.statistics import kmeans
from zprime.statistics.kmeans import seeds


def test_points_that_coincide_are_each_taken_once() -> None:
    for seed in range(20):
        taken = seeds(torch.zeros(5, 2).double(), 5, first=2, rng=stream(seed, "seeds"))
        assert taken[0] == 2
        assert sorted(taken) == list(range(5))


def test_the_chance_is_in_proportion_to_squared_distance_and_weight() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [2.0]]).double()
    weight = torch.tensor([1.0, 4.0, 1.0, 0.0]).double()
    rng = stream(0, "chance")
    plain, weighted = (
        torch.bincount(
            torch.tensor([seeds(points, 2, first=0, rng=rng, weight=w)[1] for _ in range(4000)]), minlength=4
        )
        / 4000
        for w in (None, weight)
    )
    torch.testing.assert_close(plain, torch.tensor([0, 1, 4, 4]) / 9, rtol=0, atol=0.03)
    torch.testing.assert_close(weighted, torch.tensor([0.0, 0.5, 0.5, 0.0]), rtol=0, atol=0.03)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_in_many_dimensions_are_those_of_differences(offset: float) -> None:
    """Above 1,024 dimensions squares are expanded; points that coincide are at distance 0 all the same."""
    points = torch.randn(40, WIDE + 1, generator=stream(0, "wide"), dtype=torch.float64) + offset
    points[7] = points[3]
    found = kmeans._distances(points)(3)
    torch.testing.assert_close(found, (points - points[3]).square().sum(1), rtol=1e-6, atol=0)
    assert float(found[7]) == float(found[3]) == 0
    assert sorted(seeds(points[[3, 7, 7, 0]], 4, first=0, rng=stream(0)))[:2] == [0, 1]

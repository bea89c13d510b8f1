"""The latent side's coverage benchmark: its groups run, and no truth is far from its interval."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from coverage_latent import GROUPS


@pytest.mark.parametrize("group", [pytest.param(g, marks=pytest.mark.slow) if g == "memorised" else g for g in GROUPS])
def test_every_group_gives_intervals_and_their_truths(group: str) -> None:
    for seed in (0, 1):
        found = GROUPS[group](seed)
        assert len({name for name, *_ in found}) == len(found)
        for name, low, high, truth in found:
            assert low < high, name
            assert math.isfinite(truth), name
            if math.isfinite(high - low):
                assert abs(truth - (low + high) / 2) < 5 * (high - low), name

"""The coverage benchmarks themselves: their groups run, their table calls a short interval short."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

# by its path: another package is called coverage
spec = importlib.util.spec_from_file_location("coverage_likelihood", BENCHMARKS / "coverage.py")
assert spec is not None
assert spec.loader is not None
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)
table = sys.modules["harness"].table
latent = importlib.import_module("coverage_latent").GROUPS
samples = importlib.import_module("generation")
samples.TRUTHS = 200  # pairs behind each truth: enough for what is asked here
GROUPS = {**coverage.GROUPS, **latent, **samples.GROUPS}
LONG = [pytest.param("memorised", marks=pytest.mark.slow)]


@pytest.mark.parametrize("group", [*(g for g in GROUPS if g != "memorised"), *LONG])
def test_every_group_gives_intervals_and_their_truths(group: str) -> None:
    """Two data sets, the same at every run: enough to see a truth that is computed wrongly, two half-widths off."""
    for seed in (0, 1):
        found = GROUPS[group](seed)
        assert len({name for name, *_ in found}) == len(found)
        for name, low, high, truth in found:
            assert low < high, name
            assert math.isfinite(truth), name
            if math.isfinite(high - low):
                assert abs(truth - (low + high) / 2) <= high - low, name


def test_the_table_tells_short_from_wide_from_right() -> None:
    def count(held: int) -> dict[str, float]:
        return {"n": 2000, "held": held, "below": 2000 - held, "above": 0, "width": 2000.0}

    page = table("Title", {"right": count(1895), "short": count(1850), "wide": count(1990)}, "Notes.")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert rows["right"].endswith("| holds |")
    assert rows["short"].endswith("| **short: 92.5%** |")
    assert rows["wide"].endswith("| wider than needed |")
    assert "0.05 / 3" in page

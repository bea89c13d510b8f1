"""The pages of false alarms say what the stored results say, and what stands as *before* is of the same cases."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PAGES = Path(__file__).parent.parent / "docs" / "results"
sys.path.insert(0, str(BENCHMARKS))

harness = importlib.import_module("harness")
verdict, alarms, clearing = (importlib.import_module(name) for name in ("verdict", "alarms", "clearing"))
pools = importlib.import_module("pools")


@pytest.mark.parametrize("name", ["verdict", "alarms"])
def test_a_page_is_made_of_the_stored_results(name: str) -> None:
    module = {"verdict": verdict, "alarms": alarms}[name]
    assert module.table(harness.stored(name)) == (PAGES / f"{name}.md").read_text()


def test_the_page_of_clearing_is_made_of_the_stored_results() -> None:
    found = json.loads((BENCHMARKS / "results" / "clearing.json").read_text())
    seeds = sum(n for case, n in found.items() if case.startswith("rows 0.1 50 "))
    assert clearing.page(found, seeds) == (PAGES / "clearing.md").read_text()


@pytest.mark.parametrize("name", ["verdict", "alarms"])
def test_every_stored_case_is_still_a_case(name: str) -> None:
    """No result is left of a case that was renamed."""
    cases = set({"verdict": verdict, "alarms": alarms}[name].cases())
    assert set(harness.before(name)) <= cases
    assert set(harness.stored(name)) <= cases


def test_clearing_before_has_every_sample() -> None:
    samples = {f"{kind} {share:g} {n}" for n in pools.SIZES for kind in pools.KINDS for share in pools.SHARES}
    for one in harness.stored("before")["clearing"]:
        assert set(one) == samples
        assert set(one.values()) <= {"copies", "passes"}


def test_planted_gains_have_the_mean_that_their_name_says() -> None:
    """Within four standard errors over 300 seeds; the best of 13 on the selection split is no better on the other."""
    for name, make in importlib.import_module("planted").rule_cases().items():
        means = [float(make(seed).values.mean()) for seed in range(300 if "1000" not in name else 60)]
        centre = sum(means) / len(means)
        error = (sum((m - centre) ** 2 for m in means) / len(means) ** 2) ** 0.5
        assert abs(centre - (-0.3015 if "-120" in name else 0.0)) < 4 * error, name


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_many_duplicates_are_refused_in_the_benchmark(share: float) -> None:
    make, kinds = importlib.import_module("worlds").duplicate_cases()[f"{100 * share:g} % duplicates"]
    assert alarms.duplicates(make, {"gaussian": kinds["gaussian"]}, False, 0) == ("refused", "", "refused", "")

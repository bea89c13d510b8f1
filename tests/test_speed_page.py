"""The page of speed shows what was measured at one commit; what fails loses nothing else."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / "speed"), str(BENCHMARKS)]

store, timing, trees = (importlib.import_module(name) for name in ("store", "timing", "trees"))
elbo = importlib.import_module("elbo")
page = importlib.import_module("page")


def program(name: str) -> ModuleType:
    """A file of benchmarks whose name is another module's."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(name).stem}", BENCHMARKS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = program("speed/__main__.py")
audits = program("audit.py")
HERE = {"commit": "abc1234", "machine": "a machine"}


def rows() -> list[object]:
    return [timing.Row("a job", "a peer", [2.0, 3.0, 4.0], 1.0, 3.0, least=5.0)]


def broken() -> object:
    raise ValueError("no such thing")


def missing() -> object:
    raise timing.Missing("no compiler")


def test_a_group_that_fails_loses_no_other(tmp_path: Path) -> None:
    results = store.Results(HERE, tmp_path / "speed.json")
    failed = bench.measure({"pruning": rows, "scores": broken, "peak": missing, "memory": lambda: {"x": 1.0}}, results)
    assert failed == ["scores"]
    assert [results.done(name) for name in ("pruning", "scores", "peak", "memory")] == [True, False, False, True]
    text = page.page(results, ["pruning", "scores", "peak", "memory"])
    assert "| a job | a peer | 3 x | 2 to 4 | 5 | **not reached** | 1 | 3 |" in text
    assert "*scores*: **failed**: ValueError: no such thing." in text
    assert "*peak*: **not measured**: no compiler." in text
    assert "x: 1 MB" in text


def test_the_page_says_of_what_it_is(tmp_path: Path) -> None:
    results = store.Results(HERE, tmp_path / "speed.json")
    bench.measure({"pruning": rows}, results)
    text = page.page(results, ["pruning", "growth"])
    assert "at commit abc1234 without changes, 20" in text
    assert "seed 0" in text
    assert "*growth*: **failed**: it was not run." in text
    assert "On a GPU: **not measured**" in text


def test_what_was_measured_at_this_commit_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    bench.measure({"pruning": rows, "scores": broken}, store.Results(HERE, file))
    again = store.Results(HERE, file)
    assert bench.measure({"pruning": broken, "scores": rows}, again) == []
    assert again.done("scores")


@pytest.mark.parametrize(
    "now",
    [{**HERE, "commit": "def5678"}, {**HERE, "commit": "abc1234, changed"}, {**HERE, "machine": "another"}],
    ids=["another commit", "changes", "another machine"],
)
def test_nothing_is_kept_of_anything_else(tmp_path: Path, now: dict[str, str]) -> None:
    file = tmp_path / "speed.json"
    for _ in "ab":  # for changes: those of the first time may be others
        bench.measure({"pruning": rows}, store.Results(now, file))
        bench.measure({"memory": lambda: {"x": 1.0}}, store.Results(now, file))
    if now["commit"].endswith("changed"):
        assert set(json.loads(file.read_text())["groups"]) == {"memory"}
    assert store.Results(HERE, file).groups == {}


def test_a_commit_says_whether_sources_differ(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1\n")
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "speed.json").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = trees.commit(tmp_path)
    assert len(clean) == 7
    (results / "speed.json").write_text("2\n")
    (tmp_path / "page.md").write_text("2\n")
    assert trees.commit(tmp_path) == clean
    (tmp_path / "src" / "a.py").write_text("2\n")
    assert trees.commit(tmp_path) == f"{clean}, changed"


def test_rounds_end_where_ratios_agree() -> None:
    """Three of them; seven where ratios differ; each task once a round, however many pairs it is in."""
    for noise, expected in ((0.0, timing.ROUNDS), (1.0, timing.MORE)):
        calls: list[str] = []

        def clock(name: str, task: object, noise: float = noise, calls: list[str] = calls) -> float:
            calls.append(name)
            return {"ours": 0.1, "other": 0.2 + noise * (len(calls) % 2), "peer": 0.4}[name]

        tasks = dict.fromkeys(["peer", "other", "ours"], timing.Task(lambda: None, 10.0))
        pairs = [timing.Pair("ours", "peer"), timing.Pair("ours", "other"), timing.Pair("other", "peer")]
        found = timing.compared(tasks, pairs, clock)
        assert len(calls) == 3 * expected
        assert found[0].ratio == 4.0
        assert (found[0].ours, found[0].peer) == (1.0, 4.0)


def test_the_fastest_way_is_found() -> None:
    assert timing.fastest({"slow": lambda: sum(range(300_000)), "fast": lambda: None}) == "fast"


def test_verdicts_that_differ_are_told() -> None:
    def verdict(decision: str, choice: str) -> dict[str, object]:
        return {"verdict": {"decision": decision, "choice": choice}, "generation": None}

    one, other = verdict("leave the prior", "mixture"), verdict("keep the prior", "mixture")
    assert audits.agree(one, one) == []
    assert audits.agree(one, other) == ["verdict: leave the prior -> keep the prior"]


def test_trainings_are_compared_at_the_same_elbo() -> None:
    """Before: 3 is best, after 20 s. Now 3 is first reached after 5 s, on the way to 4."""
    before = elbo.Trained(30.0, [10.0, 20.0, 30.0], [1.0, 3.0, 2.0], 2.5)
    now = elbo.Trained(9.0, [5.0, 8.0], [3.5, 4.0], 3.9)
    assert elbo.row("digits", 1, [before, now]) == [
        "digits",
        "1",
        "30.0 -> 9.0",
        "20.0 -> 8.0",
        "5.0 (4.00 x)",
        "3.00 -> 4.00",
        "2.50 -> 3.90",
    ]
    assert elbo.row("digits", 1, [now, before])[4] == "not reached"


def test_a_case_is_a_name_or_its_parts() -> None:
    assert elbo.case_of("digits") == elbo.Case("digits", "mlp", 8)
    assert elbo.case_of("rows.npy:conv:4:100") == elbo.Case("rows.npy", "conv", 4, 100)
    assert elbo.case_of(":".join(map(str, elbo.Case("digits", "mlp", 8)))) == elbo.Case("digits", "mlp", 8)

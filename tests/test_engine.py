"""Work side by side: the same answers in the same order, and an end to all of it where one fails."""

import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import small
from zprime import latent, threads
from zprime.data import DataSettings
from zprime.engine import in_processes, in_threads
from zprime.errors import NumericalError
from zprime.progress import Progress, silent
from zprime.results.audit import Audit
from zprime.running import Run


def times(factor: int, progress: Progress) -> tuple[int, int]:
    progress("times", factor, 3)
    time.sleep(0.02 * (3 - factor))  # the last is done first
    return 10 * factor, torch.get_num_threads()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_answer_in_order_and_give_torch_s_threads_back(workers: int) -> None:
    before, heard = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        found = in_threads(
            [partial(times, i) for i in range(3)],
            workers=workers,
            progress=lambda *what: heard.append(what),
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [f[0] for f in found] == [0, 10, 20]
    assert {f[1] for f in found} == {2 if workers == 1 else 1}
    assert sorted(heard) == [("times", i, 3) for i in range(3)]


def test_a_thread_that_fails_stops_the_others() -> None:
    steps = []

    def long(progress: Progress) -> None:
        for i in range(2000):
            progress("long", i, 2000)
            steps.append(i)
            time.sleep(0.005)

    def fails(progress: Progress) -> None:
        time.sleep(0.02)
        raise NumericalError("no number")

    with pytest.raises(NumericalError, match="no number"):
        in_threads([long, fails], workers=2, progress=silent)
    assert len(steps) < 1000


def write(folder: Path, name: str) -> None:
    (folder / name).write_text(str(torch.get_num_threads()))


def fail_or_wait(folder: Path, name: str) -> None:
    if name == "fails":
        raise NumericalError("no number in this process")
    (folder / "began").touch()
    time.sleep(60)
    (folder / "ended").touch()


def test_processes_do_all_tasks_with_a_thread_each(tmp_path: Path) -> None:
    done: list[int] = []
    in_processes(write, [(tmp_path, name) for name in "abc"], workers=2, done=done.append)
    assert done == [1, 2, 3]
    assert [(tmp_path / name).read_text() for name in "abc"] == ["1", "1", "1"]


def test_a_process_that_fails_stops_the_others(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(NumericalError, match="no number in this process"):
        in_processes(fail_or_wait, [(tmp_path, "waits"), (tmp_path, "fails")], workers=2, done=lambda i: None)
    assert time.monotonic() - start < 40
    assert not (tmp_path / "ended").exists()
    assert not multiprocessing.active_children()


def test_a_run_side_by_side_is_the_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits in processes and measures in threads: the same numbers, to the bit."""
    monkeypatch.setattr(threads, "HEAVY", 0)
    table = small.table(tmp_path / "table.npz", 300)
    found: dict[int, tuple[dict[str, object], Audit]] = {}
    kinds = [latent.settings_for(k) for k in ("gaussian", "mixture", "exemplars")]
    for workers in (1, 2):
        job = Run.create(tmp_path / str(workers))
        job.train(DataSettings(str(table)), small.NETWORK, small.TRAINING, seed=0)
        job.encode()
        fits = job.fit(kinds, seed=0, workers=workers)
        audit = job.audit(small.AUDIT, seed=0, workers=workers)
        found[workers] = {k: f.distribution for k, f in fits.items()}, audit
    (alone, one), (beside, two) = found[1], found[2]
    assert list(alone) == list(beside)
    for name, r in alone.items():
        theirs = beside[name].tensors()  # type: ignore[attr-defined]
        assert all(torch.equal(t, theirs[k]) for k, t in r.tensors().items())  # type: ignore[attr-defined]
    assert one.samples is not None
    assert set(one.tensors) == set(two.tensors)
    assert all(torch.equal(t, two.tensors[k]) for k, t in one.tensors.items())
    assert one.verdict == two.verdict
    assert one.samples == two.samples

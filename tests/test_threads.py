"""Threads: the library sets none unless told, and a run that is told sets them by the work."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small
import zprime
from zprime import threads
from zprime.data import DataSettings
from zprime.running import Run
from zprime.threads import Threads, cores, large, one_thread


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every number of threads that torch is told."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def test_threads_by_work() -> None:
    there = len(os.sched_getaffinity(0))
    assert cores() == there
    assert cores(3) == 3
    assert Threads.by_work() == Threads(light=1, heavy=there)
    assert Threads.by_work(3) == Threads(light=3, heavy=3)
    assert not large(99_999)
    assert large(100_000)


def test_only_what_was_told_is_set(counts: list[int]) -> None:
    for heavy in (False, True):
        Threads().use(heavy=heavy)
    assert counts == []
    for heavy in (False, True):
        Threads(2, 5).use(heavy=heavy)
    Threads(light=None, heavy=7).use(heavy=False)
    assert counts == [2, 5]


def test_one_thread_gives_back_what_was_there() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_library_sets_no_threads_unless_told(tmp_path: Path, counts: list[int]) -> None:
    small.run(tmp_path / "run", small.table(tmp_path / "t.npz"))
    assert counts == []


def test_a_run_sets_them_by_the_work(tmp_path: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSettings(str(small.table(tmp_path / "t.npz")))

    def told() -> set[int]:
        seen = set(counts)
        counts.clear()
        return seen

    job = Run.create(tmp_path / "run", threads=Threads(light=11, heavy=22), replace=True)
    job.train(data, small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["gaussian"], seed=0)
    assert told() == {11}
    job.audit(replace(small.AUDIT, draws=0, samples=0, simulated=0), seed=0)
    assert told() == {11}
    monkeypatch.setattr(threads, "HEAVY", 0)
    job.fit(["gaussian"], seed=1)
    assert told() == {11, 22}
    job.audit(replace(small.AUDIT, draws=0, samples=0, simulated=0), seed=1)
    assert told() == {22}
    x = np.random.default_rng(0).random((40, 1, 16, 16), dtype=np.float32)
    np.savez(tmp_path / "pictures.npz", x=x)
    job = Run.create(tmp_path / "conv", threads=Threads(light=11, heavy=22))
    job.train(DataSettings(str(tmp_path / "pictures.npz")), zprime.VAESettings(2, width=2), small.TRAINING, seed=0)
    assert counts[-1] == 22
    counts.clear()
    job.encode()
    assert told() == {22}

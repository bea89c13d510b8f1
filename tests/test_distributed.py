"""Several processes end in the numbers of one; one that is gone ends the job in words; a restart goes on."""

import copy
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

import job
import small
from zprime import artifact, distributed, peers, shards
from zprime.data import DataSettings
from zprime.errors import ArtifactError, ResourceError, UsageError
from zprime.peers import Group, packed
from zprime.posteriors import MemoryPosteriors, ShardedPosteriors
from zprime.rng import stream
from zprime.running import Run
from zprime.threads import cores

JOB = Path(__file__).parent / "job.py"
WORLDS = (1, 2, 4)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(command: list[str], world: int, **more: str) -> list[subprocess.Popen[str]]:
    """A command in several processes, as torchrun starts it; one without any of that where `world` is 1."""
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    env = alone | {"OMP_NUM_THREADS": "1", **more}
    several = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    of_each = [env | several | {"RANK": str(r)} for r in range(world)] if world > 1 else [env]
    return [
        subprocess.Popen(command, env=e, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for e in of_each
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 100) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of each."""
    found = []
    try:
        for p in processes:
            out, err = p.communicate(timeout=seconds)
            found.append((p.returncode, out, err))
    finally:
        for p in processes:
            p.kill()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model and no more."""
    folder = tmp_path_factory.mktemp("trained")
    run = Run.create(folder / "run")
    run.train(DataSettings(str(small.table(folder / "t.npz", 400))), small.NETWORK, small.TRAINING, seed=0)
    return folder / "run"


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> folder with all that they made."""
    folders = {}
    for world in WORLDS:
        folders[world] = tmp_path_factory.mktemp(f"world{world}")
        shutil.copytree(trained, folders[world] / "run")
        shutil.copy(trained.parent / "t.npz", folders[world])
        found = ended(start([sys.executable, str(JOB), "whole", str(folders[world])], world))
        assert [code for code, _, _ in found] == [0] * world, found
        alone = [line for _, _, err in found for line in err.splitlines() if "work alone" in line]
        assert len(alone) == (world > 1), alone
        assert all("No module named 'only_here'" in line for line in alone)
    return folders


def test_threads_that_wait_for_pythons_lock_have_it_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of gloo, that let go of the last message; Python aborts one that asks while it ends."""
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    gate, ran, interval = threading.Lock(), [], sys.getswitchinterval()
    gate.acquire()
    thread = threading.Thread(target=lambda: (gate.acquire(), ran.append(True)))
    thread.start()
    sys.setswitchinterval(1000)  # nobody takes it from this thread
    try:
        gate.release()
        assert not ran
        peers.part()
        assert ran
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_numbers_are_those_of_one_process(made: dict[int, Path], world: int) -> None:
    one, several = (np.load(made[w] / "numbers.npz") for w in (1, world))
    assert {"density", "step", "covariance", "x"} < set(one.files) == set(several.files)
    assert several["alone"].tolist() == [0, 2, 4, 6, 8]
    assert [name for name in one.files if not np.array_equal(one[name], several[name], equal_nan=True)] == []


@pytest.mark.parametrize("world", WORLDS[1:])
def test_training_is_that_of_one_process_but_for_rounding(made: dict[int, Path], world: int) -> None:
    one, several = (np.load(made[w] / "training.npz") for w in (1, world))
    assert set(one.files) == set(several.files)
    gradients = [name for name in one.files if name != "history"]
    assert len(gradients) > 10
    for name in gradients:
        np.testing.assert_allclose(several[name], one[name], rtol=1e-10, atol=1e-12, err_msg=name)
    assert len(one["history"]) == small.TRAINING.epochs
    np.testing.assert_allclose(several["history"], one["history"], rtol=1e-4)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_artefact_is_that_of_one_process(made: dict[int, Path], world: int) -> None:
    """Posteriors, fits and audit have the same files, bit for bit."""
    names = ["posteriors/train", "posteriors/heldout", *(f"latent/{k}" for k in ("gaussian", "mixture", "barycentre"))]
    for name in names:
        one, several = (artifact.read(made[w] / "run" / name) for w in (1, world))
        assert one.files == several.files, name
        assert one.hash == several.hash, name


SHARED = ("_share", "_encode_shard", "_of_shard", "_statistics", "_shares", "sample_rows", "_finished")
"""The function of each kind of work: training, encoding, moments, a step of EM, gains, samples."""


@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_process_does_units_of_each_kind_of_work(made: dict[int, Path], world: int) -> None:
    lines = [line.split() for f in made[world].glob("did-*") for line in f.read_text().splitlines()]
    done = {name: {int(rank) for who, rank, n in lines if who == name and int(n)} for name in SHARED}
    assert done == dict.fromkeys(SHARED, set(range(1, world)))
    assert not list(made[1].glob("did-*"))


def test_an_error_in_another_process_is_raised_in_the_first_one_alone() -> None:
    (code, _, err), other = ended(start([sys.executable, str(JOB), "fails", "."], 2))
    assert code == 1
    assert "zprime.errors.NumericalError: unit 3 is wrong" in err
    assert other[:2] == (0, "")
    assert "Traceback" not in other[2]


def test_a_process_that_is_killed_ends_the_job_in_words() -> None:
    begun = time.monotonic()
    first, *_, killed = ended(start([sys.executable, str(JOB), "dies", "."], 2))
    assert time.monotonic() - begun < 60
    assert killed[0] == -9
    assert first[0] != 0
    assert re.search(r"ResourceError: process 0 of 2: process 1 of this job ended, or did not answer", first[2])
    assert "start the same command again" in first[2]


@pytest.mark.parametrize("world", [2, 3])
def test_an_error_where_all_work_at_once_is_raised_in_the_first_process(world: int) -> None:
    """Not the closed connection that follows from it in all others."""
    first, *_ = ended(start([sys.executable, str(JOB), "failing", "."], world))
    assert first[0] == 1
    assert re.search(r"zprime\.errors\.NumericalError: step 2 is wrong$", first[2], re.MULTILINE)


@pytest.mark.parametrize("world", [2, 3])
def test_a_process_that_is_killed_where_all_work_at_once_ends_the_job_in_words(world: int) -> None:
    first, *_, killed = ended(start([sys.executable, str(JOB), "dying", "."], world))
    assert killed[0] == -9
    assert first[0] != 0
    assert re.search(rf"errors\.ResourceError: process 0 of {world}: a process of this job ended, or did", first[2])


def test_all_processes_decide_by_the_elbo_of_the_first_and_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    (code, out, err), _ = ended(start([sys.executable, str(JOB), "checkpoints", str(tmp_path)], 2))
    assert out.startswith("["), err
    assert code != 0
    assert "ArtifactError" in err
    assert re.search(r"other: expected the checkpoint that process 0 has, of epoch 3, got 0; let all", err)


def test_a_process_that_does_not_answer_ends_the_job_in_time() -> None:
    first, second = start([sys.executable, str(JOB), "sleeps", "."], 2, ZPRIME_PROCESS_TIMEOUT="5")
    _, err = first.communicate(timeout=60)
    second.kill()
    second.communicate()
    assert first.returncode != 0
    assert "process 1 of this job ended, or did not answer within 5 s" in err


def test_processes_that_do_not_come_end_the_job_in_words() -> None:
    first, second = start([sys.executable, str(JOB), "fails", "."], 2, ZPRIME_PROCESS_TIMEOUT="4")
    second.kill()
    second.communicate()
    _, err = first.communicate(timeout=60)
    assert first.returncode != 0
    assert re.search(r"process 0 of 2 waits up to 4 s for the others \(RANK=0, WORLD_SIZE=2, MASTER_ADDR=127", err)
    assert re.search(r"process 0 of 2: did not find the others within 4 s \(RANK=0, WORLD_SIZE=2, MASTER_ADDR=127", err)


def test_torchrun_starts_again_and_goes_on_from_finished_shards(trained: Path, tmp_path: Path) -> None:
    """The last of two processes is killed after its first shard; no shard that is there is encoded again."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--standalone", str(JOB), "command", str(tmp_path), "encode", str(run)]
    ((code, out, err),) = ended(start(torchrun, 1))
    assert code == 0, err
    assert (tmp_path / "killed").exists()
    noted = [f.name.split("-of-") for f in tmp_path.glob("*-of-*")]
    shards = {name: [who for n, who in noted if n == name] for name, _ in noted}
    assert len({who for _, who in noted}) == 4  # two processes, twice
    total = {s: artifact.read(run / "posteriors" / s).config["shards"] for s in ("train", "selection", "heldout")}
    assert len(shards) == sum(map(len, total.values()))
    assert [n for n, whose in shards.items() if len(whose) > 1] == []
    assert out.count("posteriors in 2 dimensions") == 3  # rank 0 says it of three splits, nobody else does


def test_without_torchrun_nothing_is_different() -> None:
    assert distributed.world() == 1
    assert distributed.lead(lambda: distributed.world()) == 1
    assert distributed.each(job.fails, (), range(3)) == [0, 1, 2]
    assert distributed.together(abs, -3) == 3


def test_a_job_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"expected RANK below WORLD_SIZE.*got RANK=3, WORLD_SIZE=2.*unset WORLD_SIZE"):
        distributed.lead(lambda: None)


@pytest.mark.parametrize("words", [["--version"], ["kinds"], ["run", "--help"]])
def test_verbs_that_share_no_work_wait_for_nobody(words: list[str]) -> None:
    first, second = start([sys.executable, "-m", "zprime", *words], 2)
    second.kill()
    second.communicate()
    out, err = first.communicate(timeout=20)
    assert (first.returncode, err) == (0, "")
    assert out


def test_a_script_with_a_group_of_its_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert distributed.lead(distributed.world) == 1
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_a_process_that_waits_hears_that_the_first_one_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another program keeps the store, and rank 0 ended with exit code 0: its code caught the error."""
    monkeypatch.setattr(peers, "NAP", timedelta(milliseconds=20))
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    distributed._dismiss(Group(0, 2, store, broken=True))
    with pytest.raises(ResourceError, match="process 0 of 2 ended before all had answered"):
        distributed._serve(Group(1, 2, store))
    peers.leave(Group(0, 2, store), UsageError("later"))
    assert isinstance(peers.lost(Group(1, 2, store), RuntimeError("gloo")), ResourceError)  # the first one stays


def test_handlers_of_signals_are_restored_where_processes_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for name, value in {"RANK": "3", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        with pytest.raises(UsageError):
            distributed.lead(lambda: None)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_large_sums_are_added_up_by_each_process_first() -> None:
    """What `total` sends above `MOST` bytes: one sum a process."""
    group = Group(1, 2, None)
    parts = [[torch.full((4,), float(i))] for i in range(6)]
    few = distributed._done(group, "total", lambda u: u, (), parts, len(parts))
    assert [float(p[0][0]) for p in few] == [1, 3, 5]
    many = distributed._done(group, "total", lambda u: u, (), parts, distributed.MOST)
    assert [type(p) for p in many] == [distributed._Sum]
    assert float(many[0][0][0]) == 9


def test_of_a_part_of_a_tensor_that_part_is_sent() -> None:
    part = torch.arange(100_000.0)[:5]
    message = packed((part, stream(3, "x")))
    assert len(message) < 20_000
    again, rng = pickle.loads(message)
    assert torch.equal(again, part)
    assert torch.equal(torch.randn(3, generator=rng), torch.randn(3, generator=stream(3, "x")))
    empty = pickle.loads(packed(torch.empty(0, 3, dtype=torch.long)))
    assert empty.shape == (0, 3)
    assert empty.dtype == torch.long


def stored(folder: Path, seed: int) -> ShardedPosteriors:
    mean = torch.randn(30, 2, generator=torch.Generator().manual_seed(seed))
    MemoryPosteriors(mean, torch.ones(30, 2)).save(folder)
    return ShardedPosteriors(folder)


def test_posteriors_on_disk_are_opened_again_by_the_others_of_a_job(tmp_path: Path) -> None:
    rows = stored(tmp_path / "p", 0)
    message = packed(rows)
    assert len(message) < 300 + len(str(tmp_path)) < len(pickle.dumps(rows))
    assert pickle.loads(message) is pickle.loads(message)
    stored(tmp_path / "p", 1)
    shards._opened.cache_clear()
    with pytest.raises(ArtifactError, match=r"expected the posteriors that process 0 has open, got others"):
        pickle.loads(message)


def test_a_copy_of_posteriors_on_disk_is_one_of_its_own(tmp_path: Path) -> None:
    """With its attributes; what was changed since it was read is sent to the others of a job as it is."""
    rows = stored(tmp_path / "p", 0)
    rows.weights = torch.arange(30.0) / torch.arange(30.0).sum()
    for again in (copy.copy(rows), copy.deepcopy(rows), *(pickle.loads(f(rows)) for f in (pickle.dumps, packed))):
        assert again is not rows
        assert torch.equal(again.weights, rows.weights)
        assert torch.equal(again.gather().mean, rows.gather().mean)
    moved = pickle.loads(pickle.dumps(rows))
    stored(tmp_path / "p", 1)
    with pytest.raises(ArtifactError):
        moved.gather()


def test_a_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores() == 2
    assert cores(5) == 5

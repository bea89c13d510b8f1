"""Several processes end in the numbers of one; one that is gone ends the job in words; a restart goes on."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import job
import small
from zprime import artifact
from zprime.data import DataSettings
from zprime.running import Run

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
        for code, _, err in ended(start([sys.executable, str(JOB), "whole", str(folders[world])], world)):
            assert code == 0, err
    return folders


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_numbers_are_those_of_one_process(made: dict[int, Path], world: int) -> None:
    one, several = (np.load(made[w] / "numbers.npz") for w in (1, world))
    assert {"density", "step", "covariance", "x"} < set(one.files) == set(several.files)
    assert [name for name in one.files if not np.array_equal(one[name], several[name], equal_nan=True)] == []


@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_artefact_is_that_of_one_process(made: dict[int, Path], world: int) -> None:
    """Posteriors, fits and audit have the same files, bit for bit."""
    names = ["posteriors/train", "posteriors/heldout", *(f"latent/{k}" for k in ("gaussian", "mixture", "barycentre"))]
    for name in names:
        one, several = (artifact.read(made[w] / "run" / name) for w in (1, world))
        assert one.files == several.files, name
        assert one.hash == several.hash, name


def test_the_work_was_divided(made: dict[int, Path]) -> None:
    assert len(artifact.read(made[1] / "run" / "posteriors" / "train").config["shards"]) > max(WORLDS)


def test_an_error_in_another_process_is_raised_in_the_first_one_alone() -> None:
    (code, _, err), other = ended(start([sys.executable, str(JOB), "fails", "."], 2))
    assert code == 1
    assert err.rstrip().splitlines()[-1].startswith("zprime.errors.NumericalError: unit 3 is wrong") or "unit 3" in err
    assert other == (0, "", other[2])
    assert "Traceback" not in other[2]


def test_a_process_that_is_killed_ends_the_job_in_words() -> None:
    begun = time.monotonic()
    first, *_, killed = ended(start([sys.executable, str(JOB), "dies", "."], 2))
    assert time.monotonic() - begun < 60
    assert killed[0] == -9
    assert first[0] != 0
    assert re.search(r"ResourceError: process 0 of 2: process 1 of this job ended, or did not answer", first[2])
    assert "start the same command again" in first[2]


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
    assert re.search(r"process 0 of 2: did not find the others within 4 s \(RANK=0, WORLD_SIZE=2, MASTER_ADDR=127", err)


def test_the_command_line_encodes_with_two_processes_and_goes_on_from_finished_shards(
    trained: Path, tmp_path: Path
) -> None:
    """Only rank 0 prints; a shard that is there is not made again."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(JOB.parent)!r}); import job; job.settle(); "
               "from zprime.cli import main; main()", "encode", str(run)]
    several = [*command[:2], command[2].replace("job.settle();", "job.settle(); job.stop_after_two();"), *command[3:]]
    for code, _, err in ended(start(several, 2)):
        assert code != 0, err

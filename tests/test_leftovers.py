"""What a killed process leaves behind is cleared away when the run is opened; what a living one writes is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zprime import artifact
from zprime.running import Run

WRITER = """
import sys, time
from pathlib import Path
from zprime import artifact
with artifact.staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of writing the artefact `path`, and the folder that it writes to."""
    made = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    return made, Path(made.stdout.readline().strip())


def age(folder: Path, seconds: float = 3600) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_a_killed_writer_s_folder_goes_and_a_living_one_s_stays(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run").path
    (dead, left), (alive, held) = writer(run / "latent" / "mixture"), writer(run / "latent" / "flow")
    try:
        dead.kill()
        assert dead.wait() == -signal.SIGKILL
        assert left.name.startswith(".mixture.new-")
        age(left)
        age(held)
        Run.open(run)
        assert not left.exists()
        assert (held / "half").exists()
    finally:
        alive.kill()
        alive.wait()
    Run.open(run)
    assert not held.exists()


def test_a_folder_that_was_just_made_stays(tmp_path: Path) -> None:
    """Its maker may not have locked it yet."""
    run = Run.create(tmp_path / "run").path
    (run / ".model.new-0123abcd").mkdir()
    Run.open(run)
    assert (run / ".model.new-0123abcd").exists()


@pytest.mark.parametrize(
    "name", ["posteriors/.train.partial-0123", "latent/.notes", ".model.new-file", "model.new-x", ".model.new-0123abcg"]
)
def test_nothing_else_is_touched(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / "run").path
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("file"):
        path.write_text("someone's")
    else:
        path.mkdir()
    age(path)
    Run.open(run)
    assert path.exists()


def test_an_artefact_that_was_on_its_way_out_goes_back(tmp_path: Path) -> None:
    """Where folders cannot be swapped, a kill between two renames leaves the old one aside and nothing in its place."""
    run = Run.create(tmp_path / "run").path
    made = artifact.write(run / "model", artifact.Manifest("model"), tensors={"a": torch.ones(2)})
    (run / ".model.old-0123abcd").mkdir()
    os.rename(run / "model", run / ".model.old-0123abcd" / "artifact")
    age(run / ".model.old-0123abcd")
    Run.open(run)
    assert artifact.read(run / "model").hash == made.hash
    assert not (run / ".model.old-0123abcd").exists()


def test_an_artefact_whose_place_is_taken_does_not_go_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run").path
    artifact.write(run / "model", artifact.Manifest("model"), tensors={"a": torch.ones(2)})
    (run / ".model.old-0123abcd").mkdir()
    os.rename(run / "model", run / ".model.old-0123abcd" / "artifact")
    newer = artifact.write(run / "model", artifact.Manifest("model"), tensors={"a": torch.zeros(2)})
    age(run / ".model.old-0123abcd")
    Run.open(run)
    assert artifact.read(run / "model").hash == newer.hash
    assert not (run / ".model.old-0123abcd").exists()


@pytest.mark.parametrize(
    "name", [".report.html.new-0123abcd", "samples/.prior.npz.new-0123abcd", ".staged/latent/.m.new-0123abcd"]
)
def test_a_file_beside_goes_when_it_is_old(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / "run").path
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    Run.open(run)
    assert path.exists()
    age(path)
    Run.open(run)
    assert not path.exists()

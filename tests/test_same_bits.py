"""Two undisturbed runs end in the same bits, wherever they and their data lie; what is the machine's is beside."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import small
from zprime import artifact
from zprime.errors import ArtifactError
from zprime.results.audit import load as load_audit
from zprime.running import Run

MAKE = """
import sys
from pathlib import Path
import torch
import small
torch.set_num_threads(1)  # other numbers of threads add up in another order: rounding differs
small.run(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run that is hashed, and the manifests that say so."""
    files = [p for p in run.rglob("*") if p.is_file() and p.name != artifact.MEASURED]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def made(folder: Path, *, data: str, hashing: str) -> Path:
    """A run by a process of its own."""
    folder.mkdir()
    table = small.table(folder / data)
    places = [str(Path(artifact.__file__).parent.parent), str(Path(small.__file__).parent)]
    environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": os.pathsep.join(places)}
    words = [sys.executable, "-c", MAKE, str(folder / "run"), str(table)]
    subprocess.run(words, env=environment, check=True, cwd=folder)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("one") / "here", data="t.npz", hashing="1")


def test_two_runs_elsewhere_and_with_other_orders_of_sets_are_the_same(run: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "there", data="t.npz", hashing="2")
    one, two = content(run), content(other)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert len(one) > 15


def test_nothing_that_is_hashed_says_where_the_data_or_the_run_lie(run: Path) -> None:
    for name, found in content(run).items():
        assert str(run.parent).encode() not in found, name
    assert artifact.read(run / "data").source == str(run.parent / "t.npz")


def test_the_command_of_an_audit_leads_to_the_data_of_this_machine(run: Path, tmp_path: Path) -> None:
    assert f"--data {run.parent / 't.npz'} " in load_audit(run).command
    shutil.copytree(run / "audit", tmp_path / "audit")
    assert "--data t.npz " in load_audit(tmp_path / "audit").command


def test_a_run_that_was_moved_with_its_data_goes_on(run: Path, tmp_path: Path) -> None:
    """Nothing is made again; only the path is noted. The file may have another name there."""
    shutil.copytree(run, tmp_path / "moved")
    data = Path(shutil.move(shutil.copy(run.parent / "t.npz", tmp_path), tmp_path / "renamed.npz"))
    before = content(tmp_path / "moved")
    artifact.note(tmp_path / "moved" / "data", {artifact.SOURCE: "/nowhere/t.npz"})
    with pytest.raises(ArtifactError, match=r"/nowhere/t\.npz: the data of the run .* `zprime train --data PATH"):
        _ = Run.open(tmp_path / "moved").folder.dataset
    small.run(tmp_path / "moved", data)
    assert content(tmp_path / "moved") == before
    assert artifact.read(tmp_path / "moved" / "data").source == str(data)
    assert f"--data {data} " in load_audit(tmp_path / "moved").command


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seconds": "soon", "source": 3}', '{"source": null}', "\x00"])
def test_what_is_beside_may_be_anything(run: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    wanted = load_audit(run)
    for file in (tmp_path / "run").rglob(artifact.MEASURED):
        file.write_text(text)
    found = load_audit(tmp_path / "run")
    assert found.verdict == wanted.verdict
    assert [e.scores for e in found.entries] == [e.scores for e in wanted.entries]


def test_measured_numbers_are_kept_beside(run: Path) -> None:
    audit = load_audit(run)
    assert min(e.draws_per_second for e in audit.entries) > 0
    assert json.loads((run / "audit" / "audit.json").read_text())["entries"][0]["draws_per_second"] == 0

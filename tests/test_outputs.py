"""What a user has is not lost by a page, an answer or samples that are written in its place."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import small
from zprime.cli import main
from zprime.data import DataSettings
from zprime.data.csv_file import read_csv
from zprime.running import Run


def call(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["--quiet", *map(str, argv)])
    code = end.value.code
    return code if isinstance(code, int) else 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    small.run(folder / "run", small.table(folder / "rows.npz", n=240))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "all")
    run = tmp_path / "all" / "run"
    note = run / "data" / "measured.json"
    there = {**json.loads(note.read_text()), "source": str(tmp_path / "all" / "rows.npz")}
    note.write_text(json.dumps(there))  # a copy of the data, which may be lost
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


VERBS = ("report", "explain", "sample")
PARTS = ("manifest.json", "model/manifest.json", "model/tensors.safetensors", "data/measured.json", "audit/audit.json")


@pytest.mark.parametrize("verb", VERBS[:2])
@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_an_artefact_is_not_written_over(
    verb: str, part: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (run / part).is_file()
    before = content(run.parent)
    assert call(verb, run, "--out", run / part) == 2
    assert "that is a file of the artefact" in " ".join(capsys.readouterr().err.split())
    assert content(run.parent) == before


@pytest.mark.parametrize("argv", [("report",), ("report", "audit"), ("explain",), ("sample",), ("sample", "generator")])
def test_the_data_of_a_run_are_not_written_over(
    argv: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run.parent)
    data = run.parent / ("rows" if argv[0] == "sample" else "rows.npz")  # samples have their own ending
    assert call(argv[0], run.joinpath(*argv[1:]), "--out", data) == 2
    assert "the data of the run" in " ".join(capsys.readouterr().err.split())
    (run.parent / "link").symlink_to(run.parent)
    assert call(argv[0], run.joinpath(*argv[1:]), "--out", run.parent / "link" / data.name) == 2
    (run.parent / "link").unlink()
    assert content(run.parent) == before


def test_pages_of_two_runs_spare_the_data_of_both(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert call("report", other / "audit", run, "--out", run.parent / "rows.npz") == 2
    assert call("report", other / "audit", run, "--out", tmp_path / "both.html") == 0


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("out", ["", ".", "/", "..", "folder/.."])
def test_a_folder_is_no_file_to_write(
    verb: str, out: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "folder").mkdir()
    before = content(run.parent)
    monkeypatch.chdir(run.parent)
    assert call(verb, run, "--out", out) == 2
    assert "expected the path of" in " ".join(capsys.readouterr().err.split())
    assert content(run.parent) == before


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_regular_file_stays(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    ending = ".npz" if verb == "sample" else ""
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"link{ending}").symlink_to(precious)
    for name in ("pipe", "link"):
        assert call(verb, run, "--out", tmp_path / name) == 2
        assert "something else than a regular file" in " ".join(capsys.readouterr().err.split())
        assert (tmp_path / f"{name}{ending}").is_fifo() or (tmp_path / f"{name}{ending}").is_symlink()
    assert precious.read_text() == "mine"


def rows_of(file: Path) -> np.ndarray:
    with np.load(file) as found:
        return np.asarray(found["x"])


@pytest.mark.parametrize("ending", ["", ".npz", ".csv"])
def test_the_ending_of_a_path_says_which_file_is_written(ending: str, run: Path, tmp_path: Path) -> None:
    """A table: with an ending that file alone, and no second ending behind it; a .csv has the numbers of the .npz."""
    folder = tmp_path / "out"
    assert call("sample", run, "-n", "7", "--from", "prior", "--out", folder / f"s{ending}") == 0
    assert {p.name for p in folder.iterdir()} == ({f"s{ending}"} if ending else {"s.npz", "s.csv"})
    assert call("sample", run, "-n", "7", "--from", "prior") == 0
    kept = rows_of(run / "samples" / "prior.npz")
    assert kept.shape == (7, 5)
    assert 0 < kept.mean() < 200  # in the units of the data, which are about 90
    if ending != ".csv":
        np.testing.assert_array_equal(rows_of(folder / "s.npz"), kept)
    if ending != ".npz":
        read = read_csv(folder / "s.csv")
        assert read.names == ("x0", "x1", "x2", "x3", "x4")  # an .npz has no names of columns
        np.testing.assert_array_equal(np.asarray(read.x, dtype=kept.dtype), kept)


def test_a_table_of_samples_has_the_names_of_the_columns(tmp_path: Path) -> None:
    names = ("weight, kg", 'the "best"', "plain")
    rows = np.random.default_rng(0).normal(50, 10, (90, 3)).round(3)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows.tolist()])
    Run.create(tmp_path / "run").train(DataSettings(str(tmp_path / "rows.csv")), small.NETWORK, small.TRAINING, seed=0)
    assert call("sample", tmp_path / "run", "-n", "5", "--from", "prior", "--out", tmp_path / "s.csv") == 0
    read = read_csv(tmp_path / "s.csv")
    assert read.names == names
    assert read.x.shape == (5, 3)
    assert 20 < read.x.mean() < 80


@pytest.mark.parametrize("out", ["s.png", "s/"])
def test_rows_of_numbers_are_no_pictures(
    out: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("sample", run, "-n", "2", "--from", "prior", "--out", f"{tmp_path}/none/{out}") == 2
    assert "is of pictures, and x' are rows of numbers; take NAME.npz or NAME.csv" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_an_older_page_is_written_again(verb: str, run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert call(verb, run, "--out", tmp_path / "page") == 0

"""Artefacts of a run belong together: whoever reads one checks all it was made from, whatever a killed process left."""

import errno
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from crash import Crash, crash_at, fails_at
from zprime import artifact, atomic, chain
from zprime.artifact import Artifact, Manifest
from zprime.errors import ArtifactError, UsageError
from zprime.run_folder import RunFolder
from zprime.stages import NewFolder, reuse_or_make

ORDER = ("data", "model", "posteriors/train", "latent/r", "audit", "generator")


def make(run: Path, name: str, seed: int, *sources: str) -> Artifact:
    """An artefact of a run, made from others."""
    inputs = {s: artifact.read(run / s).hash for s in sources}

    def write(path: Path, key: str) -> Artifact:
        return artifact.write(
            path, Manifest("thing", {"seed": seed}, key, inputs=inputs), tensors={"n": torch.tensor(seed)}
        )

    return reuse_or_make(run, name, f"{name} {seed} {inputs}", write)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path / "run")


def whole(path: Path, seed: int = 0) -> Path:
    """A run in which each artefact is made from the one before."""
    path.mkdir()
    chain.start(path)
    for name, source in zip(ORDER, (None, *ORDER), strict=False):
        make(path, name, seed, *([source] if source else []))
    return path


def names(run: Path) -> list[str]:
    return sorted(chain.listed(run))


def test_a_whole_run_is_read_by_path_and_by_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ORDER:
        assert chain.check(run, name) == chain.read(run / name)
    assert chain.read(run).kind == chain.RUN
    monkeypatch.chdir(run)
    assert chain.read("audit").kind == "thing"
    monkeypatch.chdir(run / "latent")
    assert chain.read("r").kind == "thing"


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("read", ORDER)
def test_an_artefact_of_another_run_is_found_by_all_that_stand_on_it(
    run: Path, tmp_path: Path, name: str, read: str
) -> None:
    other = whole(tmp_path / "other", seed=1)
    shutil.rmtree(run / name)
    shutil.copytree(other / name, run / name)
    if ORDER.index(read) < ORDER.index(name):
        chain.read(run / read)
    else:
        with pytest.raises(
            ArtifactError, match=f"{name}: not the one that .* made there .*; put the right one back, or"
        ):
            chain.read(run / read)


@pytest.mark.parametrize("name", ORDER[:-1])
def test_what_was_made_from_something_that_is_gone_is_refused(run: Path, name: str) -> None:
    shutil.rmtree(run / name)
    for later in ORDER[ORDER.index(name) + 1 :]:
        with pytest.raises(ArtifactError, match=f"made from {name}, which is not in .* any more; run `zprime"):
            chain.read(run / later)


@pytest.mark.parametrize("what", ["pipe", "link", "folder", "other"])
def test_a_manifest_that_cannot_be_read_is_not_said_to_be_gone(run: Path, tmp_path: Path, what: str) -> None:
    file = run / "model" / artifact.MANIFEST
    file.rename(tmp_path / "elsewhere")
    {
        "pipe": os.mkfifo,
        "link": lambda file: file.symlink_to(tmp_path / "elsewhere"),
        "folder": Path.mkdir,
        "other": lambda file: file.write_text("{}"),
    }[what](file)
    why = {"pipe": "not a regular file", "link": "Too many levels of symbolic links", "folder": "Is a directory"}
    told = rf"model/manifest.json: not a readable zprime manifest \({why.get(what, 'KeyError')}"
    for act in (lambda: chain.check(run, "audit"), lambda: RunFolder(run).need("model", None, "train")):
        with pytest.raises(ArtifactError, match=told):
            act()
    with pytest.raises(ArtifactError, match=r"model/manifest.json: not a readable .*; move .*/model elsewhere and run"):
        make(run, "model", 0, "data")
    (run / "model").rename(tmp_path / "moved")
    make(run, "model", 0, "data")
    assert names(run) == ["data", "model"]


def test_a_whole_chain_that_the_run_did_not_make_is_refused(run: Path, tmp_path: Path) -> None:
    """Hashes that fit one another do not make artefacts those of this run."""
    other = whole(tmp_path / "other", seed=1)
    for name in ("data", "model"):
        shutil.rmtree(run / name)
        shutil.copytree(other / name, run / name)
    with pytest.raises(ArtifactError, match="not the one that"):
        chain.read(run / "model")
    shutil.copytree(other / "latent" / "r", run / "latent" / "s")
    with pytest.raises(ArtifactError, match=r"latent/s: .*run does not list it, so it was not made in this run"):
        chain.read(run / "latent" / "s")


@pytest.mark.parametrize("damage", ["cut", "format", "empty", "garbage"])
def test_the_artefacts_of_a_run_whose_list_is_damaged_are_not_read_by_themselves(run: Path, damage: str) -> None:
    file = run / "manifest.json"
    whole = file.read_text()
    file.write_text(
        {"cut": whole[:-3], "format": whole.replace('"zprime"', '"zqrime"'), "empty": "", "garbage": "[1]"}[damage]
    )
    for name in ORDER:
        with pytest.raises(ArtifactError, match=r"manifest\.json: (not a readable|its own SHA-256)"):
            chain.read(run / name)


def test_a_manifest_of_another_program_above_an_artefact_does_not_matter(run: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web page", "config": {}}')
    shutil.copytree(run / "generator", site / "generator")
    assert chain.read(site / "generator").kind == "thing"


def test_what_stands_on_an_older_artefact_leaves_with_it(run: Path) -> None:
    assert chain.below(run, "posteriors/train") == ["audit", "generator", "latent/r"]
    (run / "report.html").write_text("of the older one")
    (run / "notes.txt").write_text("of the user")
    make(run, "posteriors/train", 1, "model")
    assert names(run) == ["data", "model", "posteriors/train"]
    assert sorted(p.name for p in run.iterdir()) == ["data", "manifest.json", "model", "notes.txt", "posteriors"]


DRAWN = {
    "prior": ["prior.npz", "prior.png", "prior.csv"],
    "r": ["r.npz", "r.png", "r+p10.npz", "r+p0.5.png", "r+p1e-05.npz", "r-3.npz", "r+p10--1.png"],
    "r-1": ["r-1.npz", "r-1+p5.png"],
    "generator": ["generator.npz", "generator-3.png"],
    "none": ["mine.npz", "r.txt", "r-notes.npz", "prior.npz.bak"],
}


@pytest.mark.parametrize(
    ("leaves", "goes"),
    [("data", ["prior", "r", "r-1", "generator"]), ("latent/r", ["r", "generator"]), ("audit", ["generator"])],
)
@pytest.mark.parametrize("how", ["dropped", "replaced"])
def test_samples_leave_with_what_they_were_drawn_from(run: Path, leaves: str, goes: list[str], how: str) -> None:
    make(run, "latent/r-1", 0, "posteriors/train")
    (run / chain.SAMPLES).mkdir()
    for file in (f for files in DRAWN.values() for f in files):
        (run / chain.SAMPLES / file).write_text("of the older one")
    told = {f"samples/{f}" for name in goes for f in DRAWN[name]}
    assert set(chain.outputs(run, [leaves, *chain.below(run, leaves)])) == told
    if how == "dropped":
        chain.drop(run, [leaves, *chain.below(run, leaves)])
    else:
        make(run, leaves, 1, *artifact.read(run / leaves).inputs)
    left = {f"samples/{f}" for name, files in DRAWN.items() if name not in goes for f in files}
    assert {p.relative_to(run).as_posix() for p in (run / chain.SAMPLES).iterdir()} == left


def test_samples_and_pages_of_what_stays_stay(run: Path) -> None:
    (run / chain.SAMPLES).mkdir()
    for file in ("report.html", "samples/r.npz"):
        (run / file).write_text("whole")
    make(run, "latent/new", 0, "posteriors/train")
    make(run, "latent/r", 0, "posteriors/train")
    assert chain.outputs(run, ["model", "latent/r"]) == ["report.html", "samples/r.npz"]
    make(run, "latent/r", 1, "posteriors/train")
    assert chain.outputs(run, ["model", "latent/r"]) == []
    assert not (run / chain.SAMPLES).exists()


def test_samples_behind_a_link_are_the_user_s(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "r.npz").write_text("whole")
    (run / chain.SAMPLES).symlink_to(tmp_path / "elsewhere")
    make(run, "latent/r", 1, "posteriors/train")
    assert (run / chain.SAMPLES / "r.npz").read_text() == "whole"


CALLS = ("fsync", "replace", "rename", "rmdir", "unlink")


@pytest.mark.parametrize("swap", [True, False], ids=["folders swapped", "two renames"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("action", ["replace", "drop"])
def test_a_crash_at_any_step_leaves_a_run_that_is_whole_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swap: bool, call: str, action: str
) -> None:
    if not swap:
        monkeypatch.setattr(atomic, "_swap", lambda a, b: False)

    def act(run: Path) -> None:
        if action == "replace":
            make(run, "latent/r", 1, "posteriors/train")
        else:
            chain.drop(run, ["latent/r", *chain.below(run, "latent/r")])

    for at in range(1, 60):
        run = whole(tmp_path / f"{at}")
        crashed = crash_at(monkeypatch, call, at, lambda run=run: act(run))  # type: ignore[misc]
        for name in names(run):
            if atomic.is_artifact(run / name):
                chain.read(run / name)  # what is listed and there is whole, or was taken out with all below it
        with_old = {"latent/r", "audit", "generator"} & set(names(run))
        assert with_old in ({"latent/r", "audit", "generator"}, {"latent/r"}, set())
        for left in run.rglob(".*.old-*"):
            os.utime(left, (0, 0))
        artifact.sweep(run / "latent")
        chain.tidy(run)
        act(run)
        assert names(run) == sorted(["data", "model", "posteriors/train", *["latent/r"] * (action == "replace")])
        there = {p.relative_to(run).as_posix() for p in run.rglob("manifest.json")}
        assert there == {"manifest.json", *(f"{n}/manifest.json" for n in names(run))}
        if not crashed:
            return
    pytest.fail(f"{call} was called more than 60 times")


@pytest.mark.parametrize("call", ["unlink", "rmdir", "open"])
def test_what_cannot_be_deleted_now_goes_with_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An error of the disk while an artefact is deleted: it left the run, and is not forgotten."""
    left = 0
    for at in range(1, 200):
        run = whole(tmp_path / f"{at}")
        leaving = ["latent/r", *chain.below(run, "latent/r")]
        failed = fails_at(monkeypatch, call, at, partial(chain.drop, run, leaving))
        left += any((run / name).exists() for name in leaving)
        chain.tidy(run)
        chain.drop(run, leaving)
        make(run, "latent/r", 1, "posteriors/train")
        assert sorted(p.name for p in run.iterdir()) == ["data", "latent", "manifest.json", "model", "posteriors"]
        assert artifact.read(run).config["dropped"] == {}
        if not failed:
            assert left
            return
    pytest.fail(f"os.{call} was called more than 200 times")


def test_what_was_put_in_place_before_a_kill_is_then_listed_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(run, "latent/r", 1, "posteriors/train")
    wanted = (run / artifact.MANIFEST).read_bytes()
    other = whole(tmp_path / "other")
    real, calls = chain._write, 0

    def crash(*parts: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Crash
        real(*parts)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(chain, "_write", crash)
        with pytest.raises(Crash):
            make(other, "latent/r", 1, "posteriors/train")
    assert len(chain.listed(other)["latent/r"]) == 2
    chain.tidy(other)
    assert (other / artifact.MANIFEST).read_bytes() == wanted


def test_a_reader_between_two_writes_of_the_list_looks_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = chain.listed, 0

    def late(path: Path) -> dict[str, list[str]]:
        nonlocal calls
        calls += 1
        return {"audit": ["0" * 64]} if calls == 1 else real(path)

    monkeypatch.setattr(chain, "listed", late)
    assert chain.check(run, "data").kind == "thing"
    assert calls == 2


def test_the_list_of_a_run_is_covered_by_its_hash(run: Path) -> None:
    file = run / artifact.MANIFEST
    text = file.read_text()
    file.write_text(text.replace('"audit"', '"audio"', 1))
    with pytest.raises(ArtifactError, match="its own SHA-256 does not fit"):
        chain.read(run / "audit")


def test_an_artefact_in_the_way_of_another_is_not_lost(run: Path) -> None:
    artifact.write(run / "latent" / "mine", Manifest("thing"))
    with pytest.raises(ArtifactError, match="latent/mine: .* does not list it"):
        make(run, "latent/mine", 0)
    (run / "latent" / "theirs").mkdir()
    (run / "latent" / "theirs" / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="this folder holds files that zprime did not write"):
        make(run, "latent/theirs", 0)


@pytest.mark.parametrize("name", ["latent/r", "latent", f"{chain.STAGED}/latent/r", chain.STAGED])
@pytest.mark.parametrize("what", ["file", "pipe", "link"])
def test_what_is_no_folder_in_the_place_of_one_is_refused(run: Path, tmp_path: Path, name: str, what: str) -> None:
    path = run / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    {
        "file": Path.touch,
        "pipe": os.mkfifo,
        "link": lambda path: path.symlink_to(tmp_path / "elsewhere"),
    }[what](path)
    told = rf"{re.escape(name)}: expected a folder, got a .*{what}; (move it elsewhere|put the folder itself there)"
    with pytest.raises(UsageError, match=told):
        chain.check_folders(run, ["data", "latent/r"])
    chain.check_folders(run, ["data", "posteriors/train"] if name.endswith("latent/r") else [])
    assert path.lstat()


def test_a_pipe_in_the_place_of_what_left_is_neither_waited_for_nor_deleted(run: Path) -> None:
    shutil.rmtree(run / "audit")
    os.mkfifo(run / "audit")
    chain.drop(run, ["audit", "generator"])
    assert "audit" not in names(run)
    assert artifact.read(run).config["dropped"] == {}
    assert (run / "audit").is_fifo()
    with pytest.raises(UsageError, match="audit: expected a folder, got a pipe"):
        make(run, "audit", 0, "latent/r")


def test_a_run_whose_manifest_cannot_be_read_for_once_keeps_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk must not look like a folder without a run, which would be started anew."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    real, calls = os.open, 0

    def broken(path: object, *args: object, **kwargs: object) -> int:
        nonlocal calls
        calls += str(path).endswith("manifest.json")
        if calls == at and str(path).endswith("manifest.json"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    ended = set()
    for n in range(1, 12):
        at, calls = n, 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", broken)
            try:
                with NewFolder(run, worth=("model",), scrap=("data",)).attempt():
                    make(run, "data", 0)
                ended.add("done")
            except ArtifactError:
                ended.add("refused")
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert ended == {"done", "refused"}


@pytest.mark.parametrize("call", ["open", "lstat"])
def test_what_cannot_be_read_for_once_is_not_left_behind(call: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made from an artefact that is replaced leaves with it, or the command ends and is run again."""
    assert chain.below(run, "latent/r") == ["audit", "generator"]
    real = getattr(os, call)

    def broken(path: object, *args: object, **kwargs: object) -> object:
        if str(path).endswith("audit/manifest.json"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        with pytest.raises(ArtifactError, match=r"audit/manifest.json: .*Input/output error"):
            chain.below(run, "latent/r")
    (run / "audit" / "manifest.json").write_text("damaged")
    assert chain.below(run, "latent/r") == []  # what is damaged stands in nobody's way


def test_folders_where_artefacts_were_made_go_though_one_of_them_is_gone_already(run: Path) -> None:
    (run / chain.STAGED).mkdir()
    make(run, "posteriors/train", 0, "model")
    assert not (run / chain.STAGED).exists()

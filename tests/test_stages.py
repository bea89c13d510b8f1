"""Stages: an artefact with the same key is used again if it is whole; a first attempt that fails leaves nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zprime import artifact, chain
from zprime.artifact import Artifact, Manifest
from zprime.errors import ArtifactError
from zprime.stages import NewFolder, key_of, reuse_or_make


class Maker:
    """Writes an artefact and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path, key: str) -> Artifact:
        self.calls += 1
        return artifact.write(path, Manifest("thing", key=key), tensors={"n": torch.tensor(self.calls)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    chain.start(tmp_path / "run")
    return tmp_path / "run"


def test_the_same_key_is_made_once_and_another_key_again(run: Path) -> None:
    make = Maker()
    first = reuse_or_make(run, "deep/thing", "a", make, kind="thing")
    assert reuse_or_make(run, "deep/thing", "a", make, kind="thing") == first
    assert make.calls == 1
    assert int(reuse_or_make(run, "deep/thing", "b", make).tensors()["n"]) == 2
    assert int(reuse_or_make(run, "deep/thing", "a", make).tensors()["n"]) == 3
    assert [p.name for p in run.rglob(".*")] == []


def test_another_kind_with_the_same_key_is_not_used(run: Path) -> None:
    reuse_or_make(run, "thing", "a", lambda path, key: artifact.write(path, Manifest("other", key=key)))
    make = Maker()
    assert reuse_or_make(run, "thing", "a", make, kind="thing").kind == "thing"
    assert make.calls == 1


def test_what_was_altered_is_refused_and_not_made_again(run: Path) -> None:
    make = Maker()
    reuse_or_make(run, "thing", "a", make)
    file = run / "thing" / artifact.TENSORS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"thing/tensors.safetensors: its SHA-256 is not the one in"):
        reuse_or_make(run, "thing", "a", make)
    assert make.calls == 1
    reuse_or_make(run, "thing", "b", make)  # of another key it is replaced, whole or not
    assert make.calls == 2


def test_what_a_run_did_not_make_is_not_replaced(run: Path) -> None:
    artifact.write(run / "thing", Manifest("thing", key="a"))
    with pytest.raises(ArtifactError, match=r"thing: .*run does not list it, so it was not made in this run; move it"):
        reuse_or_make(run, "thing", "a", Maker())
    assert artifact.is_artifact(run / "thing")


def test_what_was_made_and_not_put_in_place_is_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed after it made an artefact, and before it moved it."""
    make = Maker()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def interrupted(key: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(chain, "place", killed)
            with pytest.raises(KeyboardInterrupt):
                reuse_or_make(run, "thing", key, make)

    interrupted("a")
    assert not chain.has(run, "thing")
    assert int(reuse_or_make(run, "thing", "a", make).tensors()["n"]) == 1
    interrupted("b")
    assert int(reuse_or_make(run, "thing", "c", make).tensors()["n"]) == 3  # of another key it is not


def test_a_key_follows_from_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key_of(*parts) for parts in [(), (1,), (1, {"a": 2}), (1, {"a": 3}), ({"a": 2}, 1)]}
    assert len(keys) == 5
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    before = key_of(1)
    monkeypatch.setattr(artifact, "SCHEMA", artifact.SCHEMA + 1)
    assert key_of(1) != before


def folder(path: Path) -> NewFolder:
    return NewFolder(path, worth=("model",), scrap=("data",))


def fail(new: NewFolder, work: Callable[[], object]) -> None:
    """An attempt that does its work and fails."""

    def attempt() -> None:
        with new.attempt():
            work()
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        attempt()


def test_a_failure_removes_what_was_made_and_nothing_else(tmp_path: Path) -> None:
    new = folder(tmp_path / "a" / "b")
    with new.attempt():
        assert artifact.read(tmp_path / "a" / "b").kind == "run"
    (tmp_path / "a" / "b" / "data").mkdir()
    with pytest.raises(KeyboardInterrupt), new.attempt():
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    fail(new, lambda: (tmp_path / "a" / "mine").write_text("x"))
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "mine"]


def test_a_failure_with_something_to_go_on_from_removes_nothing(tmp_path: Path) -> None:
    new = folder(tmp_path / "a")
    fail(new, lambda: (tmp_path / "a" / "model").mkdir())
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [artifact.MANIFEST, "model"]
    older = folder(tmp_path / "a")
    (tmp_path / "a" / "model").rmdir()
    fail(older, lambda: None)
    assert artifact.is_artifact(tmp_path / "a")  # it was there before

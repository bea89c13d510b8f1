"""Folders on disk: whole or not at all, verified when read, the same bytes for the same content."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crash import crash_at
from zprime import artifact, atomic, chain, latent
from zprime.artifact import MANIFEST, TENSORS, Manifest
from zprime.errors import ArtifactError, UsageError
from zprime.rng import stream


def tensors(seed: int = 0) -> dict[str, Tensor]:
    rng = stream(seed, "tensors")
    return {
        "b": torch.randn(4, 3, generator=rng),
        "a": torch.randn(2, generator=rng, dtype=torch.float64),
        "count": torch.arange(5),
        "step": torch.tensor(3.0),
    }


def write(path: Path, seed: int = 0) -> artifact.Artifact:
    return artifact.write(path, Manifest("model", {"seed": seed, "hidden": [1, 2]}, seed=seed), tensors=tensors(seed))


def litter(folder: Path) -> list[str]:
    """What temporary files were left."""
    return sorted(p.name for p in folder.rglob("*") if p.name.startswith("."))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_written_is_read_to_the_same_bits(tmp_path: Path) -> None:
    written = artifact.write(
        tmp_path / "deep" / "a",
        Manifest("model", {"x": [1, {"y": None}]}, key="k", seed=7, inputs={"data": "h"}, measured={"seconds": 1.5}),
        tensors=tensors(),
    )
    found = artifact.read(tmp_path / "deep" / "a", "model")
    assert found == written
    assert found.measured == {"seconds": 1.5}
    assert (found.config, found.key, found.seed, found.inputs) == ({"x": [1, {"y": None}]}, "k", 7, {"data": "h"})
    back = found.tensors()
    assert back.keys() == tensors().keys()
    for name, value in tensors().items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)
    assert "torch" in found.versions


def test_same_content_gives_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    artifact.write(
        tmp_path / "c",
        Manifest("model", {"hidden": [1, 2], "seed": 0}, seed=0),
        tensors=dict(reversed(tensors().items())),
    )
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")
    assert a.hash == b.hash
    assert a.hash != write(tmp_path / "d", seed=1).hash


def test_views_strides_and_shared_memory_are_stored_as_the_values_they_are(tmp_path: Path) -> None:
    x = torch.randn(3, 4, generator=stream(0))
    given = {"whole": x, "same": x, "turned": x.T, "part": x[1:], "column": x[:, 2], "wide": x[:1].expand(5, 4)}
    back = artifact.write(tmp_path / "a", Manifest("model"), tensors=given).tensors()
    for name, value in given.items():
        assert torch.equal(back[name], value), name


def test_extra_files_are_kept_and_hashed(tmp_path: Path) -> None:
    found = artifact.write(tmp_path / "a", Manifest("model"), extra={"curve.csv": b"1,2\n"})
    assert (tmp_path / "a" / "curve.csv").read_bytes() == b"1,2\n"
    assert set(found.files) == {"curve.csv"}


def test_an_older_artefact_is_replaced_and_nothing_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path / "a", seed=0)
    (tmp_path / "a" / "stale").write_text("gone with the old artefact")
    write(tmp_path / "a", seed=1)
    assert torch.equal(artifact.read(tmp_path / "a").tensors()["b"], tensors(1)["b"])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", MANIFEST, TENSORS]


@pytest.mark.parametrize("value", ["1e345", "1" + 400 * "0", "true", "NaN", "Infinity", '"much"'])
def test_what_no_machine_measures_is_left_out(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a"
    write(path)
    (path / "measured.json").write_text(f'{{"seconds": {value}, "draws": 7}}')
    assert artifact.read(path).measured == {"draws": 7}


def test_a_manifest_without_end_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a" / MANIFEST
    file.parent.mkdir()
    with file.open("wb") as sparse:
        sparse.truncate(50 << 30)
    assert not atomic.is_artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="50|53,687,091,200 bytes"):
        artifact.read(tmp_path / "a")
    with pytest.raises(ArtifactError, match="not a readable zprime manifest"):
        chain.read(written(tmp_path / "a" / "b"))


def written(path: Path) -> Path:
    write(path)
    return path


def test_names_that_no_system_has_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected an artefact"):
        artifact.read(tmp_path / ("a" * 300))
    with pytest.raises(UsageError, match="cannot write here"):
        write(tmp_path / ("a" * 300))


def test_a_link_in_the_place_of_an_artefact_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="b: a symbolic link"):
        write(tmp_path / "b")
    left = tmp_path / ".a.new-00000000"
    left.symlink_to(tmp_path / "a")
    os.utime(left, (0, 0), follow_symlinks=False)
    os.utime(tmp_path / "a", (0, 0))
    artifact.sweep(tmp_path)
    assert not left.is_symlink()
    artifact.read(tmp_path / "a").verify()


def test_a_new_write_sweeps_what_an_older_one_of_the_same_name_left(tmp_path: Path) -> None:
    for name in (".a.new-00000000", ".page.html.new-00000000", ".[ab].new-00000000"):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    write(tmp_path / "a")
    atomic.write_file(tmp_path / "page.html", b"whole")
    assert litter(tmp_path) == [".[ab].new-00000000"]
    atomic.write_file(tmp_path / "[ab]", b"whole")
    assert litter(tmp_path) == []


@pytest.mark.parametrize("swap", [True, False], ids=["folders swapped", "two renames"])
@pytest.mark.parametrize("old", [True, False], ids=["over an older one", "new"])
@pytest.mark.parametrize("call", ["fsync", "replace", "rename", "chmod"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_crash_at_any_step_leaves_the_older_artefact_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swap: bool, old: bool, call: str, at: int
) -> None:
    path = tmp_path / "a"
    if old:
        write(path, seed=0)
    before = content(tmp_path)
    if not swap:
        monkeypatch.setattr(atomic, "_swap", lambda a, b: False)
    if crash_at(monkeypatch, call, at, lambda: write(path, seed=1)):
        # either not yet in place, or (a crash of the very last flush) in place and whole
        assert content(tmp_path) == before or artifact.read(path).tensors()["b"].equal(tensors(1)["b"])
    else:
        assert artifact.read(path).tensors()["b"].equal(tensors(1)["b"])
    assert litter(tmp_path) == []
    write(path, seed=2)
    assert artifact.read(path).seed == 2


def test_an_older_artefact_that_cannot_be_put_back_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folders cannot be swapped, and after the first rename no other one works."""
    path = tmp_path / "a"
    write(path, seed=0)
    real, calls = os.rename, 0

    def once(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(5, "the disk has gone")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_swap", lambda a, b: False)
        patch.setattr(os, "rename", once)
        with pytest.raises(UsageError, match=r"nor the older one back \(the disk has gone\); the older one is kept"):
            write(path, seed=1)
    (aside,) = tmp_path.glob(".a.old-*")
    assert torch.equal(artifact.read(aside / "artifact").tensors()["b"], tensors(0)["b"])
    os.utime(aside, (0, 0))
    atomic.sweep(tmp_path)
    assert torch.equal(artifact.read(path).tensors()["b"], tensors(0)["b"])
    assert litter(tmp_path) == []


def test_systems_that_cannot_swap_folders_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not atomic._swap(tmp_path / "a", tmp_path / "missing")
    assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda f: f.write_bytes(f.read_bytes()[:-1]),
            "its SHA-256 is not the one in manifest.json: the file was truncated or altered",
        ),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"\xff"), "its SHA-256 is not the one in manifest.json"),
        (lambda f: f.unlink(), r"cannot be read \(No such file or directory\); make the artefact again"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_damaged_tensors_are_refused_by_name(tmp_path: Path, damage, text: str) -> None:
    found = write(tmp_path / "a")
    damage(tmp_path / "a" / TENSORS)
    with pytest.raises(ArtifactError, match=f"a/{TENSORS}: {text}"):
        found.tensors()


def test_files_that_the_manifest_does_not_list_are_not_read(tmp_path: Path) -> None:
    found = write(tmp_path / "a")
    (tmp_path / "a" / "planted.safetensors").write_bytes(artifact.pack(tensors()))
    with pytest.raises(ArtifactError, match="a: its manifest.json lists no file planted.safetensors"):
        found.tensors("planted.safetensors")


def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ArtifactError, match="x: not a readable safetensors file"):
        artifact.read_tensors(tmp_path / "x", None)


def edit(path: Path, *, sealed: bool = True, **changes: object) -> None:
    """Change a manifest; where it is sealed again, as whoever means to would do."""
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    manifest = {k: v for k, v in manifest.items() if v is not None and k != "sha256"}
    manifest["sha256"] = artifact.digest(manifest) if sealed else json.loads((path / MANIFEST).read_text())["sha256"]
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schema": 4}, r"written with schema 4, this zprime reads up to 3; upgrade zprime"),
        (
            {"schema": 2, "versions": {"zprime": "0.1.0"}},
            r"a/manifest.json: written by zprime 0\.1\.0 with schema 2; this zprime reads schema 3 only; run the same "
            "command again, into a new folder",
        ),
        # an older schema may lack what this one expects, and be refused for its age all the same
        ({"schema": 1, "versions": None, "inputs": None}, r"written by zprime 0\.1 with schema 1; this zprime reads"),
        # a newer schema may well lack what this one expects
        (
            {"schema": 5, "config": None, "files": None},
            r"written with schema 5, this zprime reads up to 3; upgrade zprime",
        ),
        ({"format": "other"}, r"not a readable zprime manifest \(KeyError\('format'\)\); make the artefact again"),
        ({"config": None}, r"not a readable zprime manifest \(KeyError\('config'\)\)"),
        ({"schema": math.inf}, r"schema: expected a number, got inf"),
        ({"schema": True}, r"schema: expected a number, got True"),
        ({"seed": True}, r"seed and sizes: expected numbers, got true"),
        ({"files": 3}, r"files: expected a mapping to str"),
        ({"files": {"../../secret": "0" * 64}}, r"files: expected names without separators, .* got '../../secret'"),
        ({"files": {"a.b": "x"}, "sizes": {"a.b": 1}}, r"files: expected names without separators, .* got 'a.b'"),
        ({"files": {}}, r"files: expected names"),
        ({"sizes": {TENSORS: -1}}, r"files: expected names"),
        ({"kind": "../model"}, r"kind and key: expected words, got '../model'"),
        ({"kind": 3}, r"kind and key: expected words, got 3"),
        ({"seed": "zero"}, r"seed: expected a number or null, got 'zero'"),
        ({"inputs": {"data": 3}}, r"inputs: expected a mapping to str"),
        ({"kind": "posteriors"}, r"a: expected an artefact of kind model, got posteriors"),
    ],
)
def test_manifests_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    write(tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(ArtifactError, match=text):
        artifact.read(tmp_path / "a", "model")


def test_every_flipped_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / MANIFEST
    content = file.read_bytes()
    for at in range(len(content)):
        for bit in (1, 32, 255):
            file.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with pytest.raises(ArtifactError):
                artifact.read(tmp_path / "a", "model")
    for other in (content[:-1], content + b" ", content.replace(b"\n", b"\r\n"), content.replace(b'": ', b'":')):
        file.write_bytes(other)
        with pytest.raises(ArtifactError):
            artifact.read(tmp_path / "a", "model")
    file.write_bytes(content)
    assert artifact.read(tmp_path / "a", "model").seed == 0


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
def test_pipes_and_links_in_the_place_of_files_are_refused_at_once(tmp_path: Path, name: str) -> None:
    found = write(tmp_path / "a")
    file = tmp_path / "a" / name
    elsewhere = file.rename(tmp_path / "elsewhere")

    def load() -> None:
        artifact.read(tmp_path / "a").tensors() if name == MANIFEST else found.tensors()

    os.mkfifo(file)
    with pytest.raises(ArtifactError, match="not a regular file"):
        load()
    file.unlink()
    file.symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match=r"cannot be read|not a readable"):
        load()


def test_a_file_that_grew_is_not_read(tmp_path: Path) -> None:
    found = write(tmp_path / "a")
    file = tmp_path / "a" / TENSORS
    with file.open("ab") as opened:
        opened.truncate(1 << 36)  # 64 GiB of holes, which take no room
    with pytest.raises(ArtifactError, match=r"cannot be read \(68,719,476,736 bytes, expected \d+ at most\)"):
        found.tensors()


def test_files_have_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "a").iterdir()} == {0o640}


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '"zprime"'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    assert not artifact.is_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="manifest.json: not a readable zprime manifest"):
        artifact.read(tmp_path)


def test_a_missing_artefact_is_named_with_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: expected an artefact of kind model, found no manifest.json"):
        artifact.read(tmp_path / "nowhere", "model")
    with pytest.raises(ArtifactError, match=r"nowhere: expected an artefact, found no manifest.json"):
        artifact.read(tmp_path / "nowhere")


def test_a_folder_with_someone_elses_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(
        UsageError, match="this folder holds files that zprime did not write; choose an empty or a new folder"
    ):
        write(tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"all of it"}


def test_an_empty_folder_may_be_used_and_a_file_may_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: expected a folder, got a file; choose another path"):
        write(tmp_path / "file")
    for make in (write, artifact.make_folder):
        with pytest.raises(
            UsageError,
            match=r"below: cannot write here \((Not a directory|a file is in the way)\); choose another folder",
        ):
            make(tmp_path / "file" / "below")


def test_a_pipe_in_the_place_of_an_artefact_is_refused_at_once_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(UsageError, match=r"a: expected a folder, got a pipe; choose another path"):
        write(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("what", [os.mkfifo, Path.touch], ids=["pipe", "file"])
def test_what_came_while_an_artefact_was_made_is_not_replaced(tmp_path: Path, what: Callable[[Path], None]) -> None:
    with (
        pytest.raises(UsageError, match=r"a: expected a folder, got a (pipe|file); move it elsewhere, then run"),
        artifact.staging(tmp_path / "a"),
    ):
        what(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = rf"{re.escape(TENSORS)}: cannot write \(No space left on device\); free some room or choose another folder"
    with pytest.raises(UsageError, match=text):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_the_system_refuses_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(
        UsageError, match=r"a: cannot move the artefact here \(Permission denied\); choose another folder"
    ):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert artifact.digest({"a": 1, "b": [1, 2]}) == artifact.digest({"b": [1, 2], "a": 1})
    assert artifact.digest({"a": 1, "b": [1, 2]}) != artifact.digest({"a": 1, "b": [2, 1]})


def test_loading_an_artefact_of_another_kind_as_a_latent_distribution_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="a: expected a latent distribution, got an artefact of kind model"):
        latent.load(tmp_path / "a")


def test_a_folder_that_vanishes_while_it_is_swept_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may remove it between the look at the folder and that at its content."""
    (tmp_path / "posteriors").mkdir()
    scan = os.scandir

    def gone(path: str) -> object:
        if str(path).endswith("posteriors"):
            (tmp_path / "posteriors").rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", gone)
    artifact.sweep(tmp_path / "posteriors")
    assert not (tmp_path / "posteriors").exists()


def test_a_folder_that_vanishes_while_it_is_read_holds_nothing(tmp_path: Path) -> None:
    """As none that is there, and as what is no folder."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").touch()
    assert atomic.inside(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert atomic.inside(tmp_path / "none") == atomic.inside(tmp_path / "a") == []

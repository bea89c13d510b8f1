"""Runs whose posteriors are flows: training and encoding, killed and gone on, in one process and in several."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

import small
from job import SHARD
from test_cli import call
from test_distributed import JOB, ended, start
from zprime import artifact, chain, encoding, training
from zprime.data import SPLITS, DataSettings
from zprime.encoding import encode
from zprime.errors import ArtifactError, UsageError
from zprime.posteriors import ShardedPosteriors
from zprime.run_posteriors import draws_by_split
from zprime.running import Run

FEW = {"train": 2, "selection": 16, "heldout": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model and no more."""
    return small.flow(tmp_path_factory.mktemp("flow"))


@pytest.fixture
def job(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_draws_with_log_q_are_stored_side_by_side_and_say_so(job: Run) -> None:
    found = job.encode(draws=16)
    assert draws_by_split(job.path) == dict.fromkeys(SPLITS, 16)
    for split, q in found.items():
        rows = job.folder.rows[split]
        alone = encode(job.folder.vae, rows, draws=16).gather()
        assert (q.form, q.data, q.n) == ("points", len(rows), FEW[split] * len(rows))
        assert torch.equal(q.gather().mean, alone.mean)
        assert torch.equal(q.log_q, alone.log_q)
        assert torch.equal(q.row_ids, rows.ids.repeat_interleave(FEW[split]))
        assert torch.equal(q.labels, rows.labels.repeat_interleave(FEW[split]))
        config = artifact.read(q.artifact.path).config
        assert (config["form"], config["draws"], config["data"], config["log_q"]) == ("points", 16, len(rows), True)
    before = artifact.read(job.path / "posteriors" / "train").hash
    job.encode()  # as they are
    assert artifact.read(job.path / "posteriors" / "train").hash == before


def test_files_that_tell_of_other_draws_are_refused(job: Run) -> None:
    job.encode(draws=16)
    place = job.path / "posteriors" / "heldout"
    for changes in ({"log_q": False}, {"draws": 1}, {"form": "diagonal"}, {"n": 1}):
        found = artifact.read(place)
        copy = place.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        files = dict(found.files)
        artifact.seal(copy, artifact.Manifest("posteriors", {**found.config, **changes}, found.key), files=files)
        with pytest.raises(ArtifactError):
            list(ShardedPosteriors(copy).shards())


def test_shards_and_batches_do_not_matter(job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = job.folder.vae, job.folder.rows["selection"]
    whole = encode(model, rows, tmp_path / "whole", draws=6).gather()
    monkeypatch.setattr(encoding, "SHARD", 40)
    monkeypatch.setattr(encoding, "BATCH", 24)
    parts = encode(model, rows, tmp_path / "parts", draws=6)
    assert len(parts.artifact.config["shards"]) == encoding.shard_count(model, rows, 6) == -(-len(rows) // 6)
    torch.testing.assert_close(parts.gather().mean, whole.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.log_q, whole.log_q, rtol=1e-5, atol=1e-5)
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_an_encoding_that_was_killed_goes_on(job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once after log q of a shard was written and its draws were not, once before: all other shards are kept."""
    model, rows = job.folder.vae, job.folder.rows["selection"]
    monkeypatch.setattr(encoding, "SHARD", 40)
    whole = encode(model, rows, tmp_path / "whole", draws=6)
    drawn, write, kills = encoding._drawn, artifact.write_file, ["shard-00003", "log_q-00004"]

    def killed(path: Path, content: bytes) -> None:
        if kills and path.name.startswith(kills[0]):
            kills.pop(0)
            raise KeyboardInterrupt
        write(path, content)

    starts: list[int] = []

    def noted(*args: object) -> object:
        starts.append(args[2].start)  # type: ignore[attr-defined]
        return drawn(*args)

    monkeypatch.setattr(artifact, "write_file", killed)
    monkeypatch.setattr(encoding, "_drawn", noted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            encode(model, rows, tmp_path / "again", key="k", draws=6)
    again = encode(model, rows, tmp_path / "again", key="k", draws=6)
    assert starts == [0, 6, 12, 18, 18, 24, 24, 30]
    assert again.artifact.files == whole.artifact.files


def test_a_training_that_was_killed_ends_with_the_same_bits(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, epoch = [], training._epoch

    def stops(*args: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(*args)  # type: ignore[arg-type]

    data = DataSettings(str(trained.parent / "t.npz"))
    job = Run.create(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", stops)
        with pytest.raises(KeyboardInterrupt):
            job.train(data, small.FLOW, small.TRAINING, seed=0)
    Run.open(tmp_path / "run").train(data, small.FLOW, small.TRAINING, seed=0)
    assert artifact.read(tmp_path / "run" / "model").hash == artifact.read(trained / "model").hash


def test_what_was_made_from_other_draws_is_not_lost_unasked(job: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("encode", job.path, "--draws", "16", "--quiet") == 0
    assert call("fit", job.path, "--kinds", "gaussian", "--quiet") == 0
    assert call("encode", job.path, "--quiet") == 0  # as they are
    capsys.readouterr()
    assert call("encode", job.path, "--draws", "32", "--quiet") != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "encoded with draws=16, and draws=32 was asked for" in said
    assert "latent/gaussian" in said
    assert call("encode", job.path, "--draws", "32", "--replace") == 0
    out = capsys.readouterr()
    n = len(job.folder.rows["heldout"])
    assert f"{32 * n} draws of {n} posteriors" in out.out + out.err
    assert not job.folder.has("latent/gaussian")


def test_splits_of_different_draws_are_refused_and_encode_goes_on(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job.encode(draws=16)
    place, placed = chain.place, []

    def killed(run: Path, name: str, *args: object, **kwargs: object) -> object:
        if placed:
            raise KeyboardInterrupt
        placed.append(name)
        return place(run, name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(chain, "place", killed)
        with pytest.raises(KeyboardInterrupt):
            job.encode(draws=32)
    with pytest.raises(ArtifactError, match=r"different numbers of draws \(train 32, selection 16, heldout 16\)"):
        job.fit(["gaussian"], seed=0)
    job.encode()
    assert draws_by_split(job.path) == dict.fromkeys(SPLITS, 32)


def test_steps_are_refused_before_replacing_is_spoken_of(job: Run) -> None:
    refused = "steps: expected posteriors that are diagonal Gaussians, got flow"
    with pytest.raises(UsageError, match=refused):
        job.encode(steps=3)
    job.encode(draws=16)
    job.fit(["gaussian"], seed=0)
    with pytest.raises(UsageError, match=refused):
        job.encode(steps=3)


def test_draws_of_a_run_with_gaussians_are_refused(tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(small.table(tmp_path / "t.npz"))), small.NETWORK, small.TRAINING, seed=0)
    with pytest.raises(UsageError, match="draws: expected a VAE of zprime with --posterior flow, got draws=9"):
        job.encode(draws=9)
    assert not job.folder.has("posteriors/train")


def test_the_command_line_takes_the_steps_and_names_what_differs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--latents", "2", "--hidden", "8", "--epochs", "1", "--posterior", "flow", "--quiet"]
    train = ["train", "--data", trained.parent / "t.npz", "--out", run, *options]
    assert call(*train, "--flow-steps", "2") == 0
    settings = artifact.read(run / "model").config["vae"]["settings"]
    assert (settings["posterior"], settings["flow_steps"]) == ("flow", 2)
    assert Run.open(run).folder.vae.form == "flow"
    assert call(*train) != 0
    assert "flow_steps 2, now 4" in " ".join(capsys.readouterr().err.split())
    assert call("train", "--data", trained.parent / "t.npz", "--out", tmp_path / "b", *options, "--free-bits", "1") != 0
    assert "free_bits takes diagonal, got flow" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b").exists()


def test_several_processes_encode_the_same_and_go_on_after_one_was_killed(
    job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(job.path, tmp_path / "alone")
    command = [sys.executable, str(JOB), "command", str(tmp_path), "encode", str(job.path), "--draws", "16"]
    (first, _, _), (killed, _, _) = ended(start(command, 2))
    assert first != 0
    assert killed == -9
    again = ended(start(command, 2))
    assert [code for code, _, _ in again] == [0, 0], again
    noted = [f.name.split("-of-")[0] for f in tmp_path.glob("*-of-*")]
    assert len(noted) == len(set(noted))  # no shard was encoded twice
    monkeypatch.setattr(encoding, "SHARD", SHARD)
    alone = Run.open(tmp_path / "alone")
    alone.encode(draws=16)
    for split in SPLITS:
        a, b = (artifact.read(r.path / "posteriors" / split) for r in (job, alone))
        assert len(a.config["shards"]) > 1
        assert a.files == b.files

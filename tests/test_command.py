"""The command that makes a run again: read from what is on disk, run, and compared artefact by artefact."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small
from test_cli import call
from zprime import artifact, chain, latent
from zprime.cli.settings import kinds_with
from zprime.command import changes, command, options, settings_from
from zprime.data import DataSettings
from zprime.latent import ConditionalSettings, ExemplarsSettings, GaussianSettings, MixtureSettings, PriorSettings
from zprime.latent.kind import Settings, fields
from zprime.results.audit import AuditSettings
from zprime.results.audit import load as load_audit
from zprime.running import Run
from zprime.serialise import to_jsonable
from zprime.training import TrainSettings
from zprime.vae import VAESettings

MADE = ["train", "encode", "fit", "refine"]
AUDIT = ["--rows", "12", "--draws", "120", "--grid", "2", "--map", "10", "--simulated", "0", "--samples", "0"]
MODEL = ["--latents", "2", "--hidden", "8", "--epochs", "2", "--batch", "32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in a folder whose name has to be quoted, with a column of weights."""
    folder = tmp_path_factory.mktemp("some data")
    plain = small.table(folder / "t.npz")
    with np.load(plain) as there:
        x, y = there["x"], there["y"]
    np.savez(plain, x=x, y=y, second=y.astype(float))
    return plain


def keys(folder: Path) -> dict[str, str]:
    names = [p.parent for p in folder.rglob("manifest.json") if p.parent != folder]
    return {str(p.relative_to(folder)): artifact.read(p).key for p in names}


def again(folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the command that the audit of `folder` records, in `to`; what it consists of."""
    monkeypatch.chdir(to)
    text = load_audit(folder).command
    calls = [shlex.split(line) for line in text.split(" && \\\n")]
    for words in calls:
        assert words[0] == "zprime"
        assert call(*words[1:]) == 0
    assert keys(to / "runs" / "again") == keys(folder)
    assert load_audit(to / "runs" / "again").command == text
    return [words[1:] for words in calls]


RUNS = {
    "defaults": [],
    "by label": ["--by", "label", "--kinds", "gaussian", "mixture", "--set", "mixture.components=2"],
    "settings of kinds": ["--kinds", "mixture", "prior", "--set", "mixture.components=3", "prior.tau=0.8"],
    "one conditional among others": ["--kinds", "gaussian", "conditional", "--set", "conditional.base=gaussian"],
    "network, beta, split and seed": [
        *("--beta", "0.5", "--lr", "0.002", "--patience", "0", "--scale", "0.3", "--width", "5", "--checkpoint", "0"),
        *("--selection", "0.2", "--limit", "60", "--kinds", "gaussian", "--seed", "3"),
    ],
}


@pytest.mark.parametrize("what", RUNS)
def test_one_run_is_made_again_by_one_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(data.parent)  # the path in the command has to lead there from anywhere
    assert call("--quiet", "run", "--data", data.name, "--out", tmp_path / "run", *MODEL, *AUDIT, *RUNS[what]) == 0
    calls = again(tmp_path / "run", tmp_path, monkeypatch)
    assert [c[0] for c in calls] == ["run"]
    words = calls[0]
    assert words[words.index("--data") + 1] == str(data)
    assert words[words.index("--out") + 1] == "runs/again"
    if what == "defaults":  # and nothing that need not be said
        assert sorted(w for w in words if w.startswith("--")) == sorted(
            ["--data", "--out", *(w for w in (*MODEL, *AUDIT) if w.startswith("--"))]
        )


def test_what_one_run_cannot_make_takes_several_commands(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    quiet = "--quiet"
    assert call(quiet, "train", "--data", data, "--out", folder, *MODEL) == 0
    assert call(quiet, "encode", folder) == 0
    few = ("--kinds", "mixture", "--set", "mixture.components=2")
    assert call(quiet, "fit", folder, *few, "--name", "two", "--seed", "5") == 0
    assert call(quiet, "fit", folder, "--kinds", "gaussian", "--weights", "second", "--name", "second-ones") == 0
    assert call(quiet, "fit", folder, "--kinds", "gaussian", "--by", "label", "--name", "labels") == 0
    assert call(quiet, "fit", folder, "--kinds", "gaussian", "mixture", "aggregated", "--seed", "1") == 0
    assert call(quiet, "fit", folder, "--kinds", "prior", "--set", "prior.tau=0.5") == 0
    assert call(quiet, "fit", folder, "--kinds", "prior", "--set", "prior.tau=2") == 0
    assert call(quiet, "audit", folder, *AUDIT, "--seed", "2") == 2  # which population?
    assert call(quiet, "audit", folder, *AUDIT, "--seed", "2", "--weights", "second") == 0
    calls = again(folder, tmp_path, monkeypatch)
    assert calls[-1][-4:] == ["--weights", "second", "--seed", "2"]
    assert [c[0] for c in calls] == ["train", "encode", *["fit"] * 6, "audit"]
    assert ["fit", "runs/again", "--seed", "1"] in calls
    assert ["fit", "runs/again", "--kinds", "gaussian", "--by", "label", "--name", "labels"] in calls


def test_a_refined_run_is_made_again_from_the_run_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was refined twice; of the runs before it makes what is needed, and no other fit or audit."""
    folder, quiet = tmp_path / "run", "--quiet"
    few = ("--kinds", "gaussian", "mixture", "--set", "mixture.components=2")
    assert call(quiet, "run", "--data", data, "--out", folder, *MODEL, *AUDIT, *few) == 0
    how = ("--learn-prior", "--epochs", "1", "--lr", "0.0005", "--seed", "4")
    assert call(quiet, "refine", folder, "--name", "on", *how) == 0
    first = folder / "refined" / "on"
    assert call(quiet, "encode", first, "--steps", "2") == 0
    assert call(quiet, "fit", first, "--kinds", "gaussian") == 0
    assert call(quiet, "refine", first, "--with", "gaussian", "--epochs", "1") == 0
    second = first / "refined" / "gaussian"
    assert call(quiet, "encode", second, "--steps", "0") == 0  # else it has the 2 of the run before
    assert call(quiet, "fit", second, "--kinds", "gaussian") == 0
    assert call(quiet, "audit", second, *AUDIT) == 0
    text = load_audit(second).command
    calls = [shlex.split(line)[1:] for line in text.split(" && \\\n")]
    assert [c[0] for c in calls] == [*MADE, "encode", "fit", "refine", "encode", "fit", "audit"]
    assert calls[3] == ["refine", "runs/again", *how[:1], "--name", "on", *how[1:]]
    assert calls[4] == ["encode", "runs/again/refined/on", "--steps", "2"]
    assert calls[6] == ["refine", "runs/again/refined/on", "--with", "gaussian", "--epochs", "1"]
    assert calls[7] == ["encode", "runs/again/refined/on/refined/gaussian", "--steps", "0"]
    monkeypatch.chdir(tmp_path)
    for words in calls:
        assert call(quiet, *words) == 0
    made = tmp_path / "runs" / "again" / "refined" / "on" / "refined" / "gaussian"
    assert keys(made) == keys(second)
    assert load_audit(made).command == text

    assert call(quiet, "fit", folder, "--kinds", "mixture", "--set", "mixture.components=3", "--replace") == 0
    job = Run.open(second)
    assert command(job.folder, ["gaussian"], small.AUDIT, seed=0) == ""  # what it went on from is no longer there
    moved = tmp_path / "elsewhere"
    second.rename(moved)
    assert command(Run.open(moved).folder, ["gaussian"], small.AUDIT, seed=0) == ""


def test_an_audit_of_no_run_has_no_command(data: Path, tmp_path: Path) -> None:
    job, audit = small.run(tmp_path / "run", data)
    assert audit.command.startswith("zprime run --data ")
    fit = artifact.read(job.path / "latent" / "gaussian")
    strange = {**fit.config, "fit": {**fit.config["fit"], "settings": {"kind": "of-my-own"}}}
    manifest = artifact.Manifest(fit.kind, strange, fit.key, fit.seed, fit.inputs)
    artifact.write(tmp_path / "staged", manifest, tensors=fit.tensors())
    chain.place(job.path, "latent/gaussian", tmp_path / "staged")
    assert command(job.folder, ["gaussian"], small.AUDIT, seed=0) == ""


SETTINGS: list[Settings] = [
    *(latent.settings_for(kind) for kind in latent.SETTINGS),
    PriorSettings(tau=0.1 + 0.2),
    GaussianSettings("diagonal"),
    MixtureSettings(components=7),
    ExemplarsSettings(),
    ConditionalSettings(GaussianSettings("diagonal")),
    ConditionalSettings(MixtureSettings(components=4)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.kind)
def test_settings_go_through_json_and_the_command_line(settings: Settings) -> None:
    assert settings_from(to_jsonable({"kind": settings.kind, **fields(settings)})) == settings
    assert kinds_with([settings.kind], changes(settings)) == [settings]
    if settings == latent.settings_for(settings.kind):
        assert changes(settings) == []


def test_every_field_of_every_kind_can_be_said() -> None:
    """A value that `--set` could not take would make the command wrong."""
    for kind in latent.SETTINGS:
        default = latent.settings_for(kind)
        for name, value in fields(default).items():
            text = {bool: "true", int: "7", float: "0.125", str: "x", tuple: "5,6"}.get(type(value))
            if text is None:
                continue
            [other] = kinds_with([kind], [f"{kind}.{name}={text}"])
            if getattr(other, name) == getattr(default, name):
                continue
            assert changes(other) == [f"{kind}.{name}={text}"]
            assert settings_from(to_jsonable({"kind": kind, **fields(other)})) == other


def test_only_what_differs_is_said() -> None:
    for defaults in (DataSettings("x"), VAESettings(), TrainSettings(), AuditSettings()):
        assert options(defaults, to_jsonable(vars(defaults))) == []
    assert options(DataSettings("x"), {"data": "x", "binarise": True}) == ["--binarise"]
    assert options(VAESettings(), {"hidden": [3, 4], "scale": 0.1}) == ["--scale", "0.1", "--hidden", "3", "4"]
    assert options(VAESettings(), {"hidden": []}) == ["--empty-hidden"]
    assert options(TrainSettings(), {"lr": 1e-5}) == ["--lr", "1e-05"]


def test_how_often_training_is_saved_changes_no_key(data: Path, tmp_path: Path) -> None:
    hashes = set()
    for seconds in (0.0, 20.0):
        job = Run.create(tmp_path / str(seconds))
        job.train(DataSettings(str(data)), small.NETWORK, replace(small.TRAINING, checkpoint=seconds), seed=0)
        hashes.add(job.folder.model.hash)
    assert len(hashes) == 1


def test_the_page_prints_it(data: Path, tmp_path: Path) -> None:
    from zprime.reporting.page import html

    _, audit = small.run(tmp_path / "run", data)
    page = html(replace(audit, command="zprime run --data 'a b' && \\\nzprime encode"))
    assert re.search(r"zprime run --data &#39;a b&#39; &amp;&amp; \\\s*\n\s*zprime encode", page)

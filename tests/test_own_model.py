"""A VAE of the user's own on the command line: every verb, no code in the run, each mistake by its text."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import own_code
import small
import tampering
import zprime
from test_cli import call
from zprime import artifact, bring, fit_stage, own_model
from zprime.bring.own import Own
from zprime.data import SPLITS, DataSettings
from zprime.errors import ArtifactError, UsageError, ZprimeError
from zprime.latent import settings_for
from zprime.likelihoods import Gaussian
from zprime.own_code import Code
from zprime.own_model import OwnModel
from zprime.results.audit import AuditSettings
from zprime.results.audit import load as load_audit
from zprime.run_folder import RunFolder
from zprime.running import Run

SMALL = {"rows": 12, "draws": 120, "grid": 4, "map": 20, "samples": 0, "simulated": 0, "exchange": 0}
AUDIT = [f"--{name}={value}" for name, value in SMALL.items()]
KINDS = ("gaussian", "aggregated")
QUICK = ["--kinds", *KINDS, *AUDIT, "--quiet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with code, weights, rows and a run in it, which nobody changes."""
    place = own_code.folder(tmp_path_factory.mktemp("own"))
    assert call("run", *model(place), "--data", place / "rows.npz", "--out", place / "run", *QUICK) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it, whose file has not run yet."""
    shutil.copytree(made, tmp_path / "own")
    (tmp_path / "own" / "ran").unlink()
    return tmp_path / "own"


def model(place: Path, function: str = "build", weights: str = "w.pt") -> list[str]:
    return [
        "--model",
        f"{place / 'mymodel.py'}:{function}",
        *(["--model-weights", f"{place / weights}"] if weights else []),
    ]


class Said(str):
    """Text in which line breaks of the terminal do not count."""

    def __contains__(self, text: object) -> bool:
        return "".join(str(text).split()) in "".join(self.split())


def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Standard error."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return Said(err)


# -- what a run holds -------------------------------------------------------------------------------------------------


def test_a_run_names_the_code_and_holds_none(made: Path) -> None:
    there = artifact.read(made / "run" / "model")
    assert there.kind == "own-model"
    assert there.config["code"]["named"] == "mymodel.py:build"
    code = Code.read(f"{made / 'mymodel.py'}:build", str(made / "w.pt"))
    assert there.config["code"]["sha256"] == code.sha256
    assert there.config["weights"] == {"file": "w.pt", "sha256": code.weights_sha256}
    assert (there.config["likelihood"], there.config["gives"], there.config["encoder"]) == ("Normal", "std", "encode")
    assert sorted(p.name for p in there.path.iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert set(there.tensors()) == {"answers"}
    assert {p.name for p in (made / "run" / "generator").iterdir()} == {"manifest.json", "tensors.safetensors"}
    page = (made / "run" / "report.html").read_text()
    assert "mymodel.py:build" in page


def test_posteriors_are_those_of_the_closed_form(made: Path) -> None:
    """Also with a dropout in the encoder, which is in training mode as the file builds it."""
    rows = np.load(made / "rows.npz")
    folder = RunFolder.open(made / "run")
    unseen = [i for s in SPLITS[1:] for i in folder.rows[s].ids.tolist()]
    assert sorted(unseen) == list(range(150, 230))
    for split in SPLITS:
        p = folder.posteriors(split).gather()
        x = np.concatenate([rows["x_train"], rows["x_test"]])[folder.rows[split].ids]
        mean, scale = own_code.MODEL.posterior(torch.from_numpy(x).double())
        torch.testing.assert_close(p.mean.double(), mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(p.scale.double(), scale.expand_as(mean), atol=1e-6, rtol=1e-6)


def test_results_are_those_of_the_model_that_is_brought_in_python(made: Path) -> None:
    folder = RunFolder.open(made / "run")
    linear = own_code.MODEL
    mean, scale = own_code.vae_weights()["mean.weight"], own_code.vae_weights()["scale"]
    bias = own_code.vae_weights()["mean.bias"]
    mine = bring.modules(
        lambda x: (x @ mean.T + bias, scale.expand(len(x), 2)),
        lambda z: z @ linear.weight.float().T + linear.bias.float(),
        {s: folder.rows[s].x for s in SPLITS},
        gives="std",
        likelihood=Gaussian(scale=0.3**0.5),
    )
    fits = {kind: zprime.fit(kind, **mine.splits) for kind in KINDS}
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=AuditSettings(**SMALL))
    found = load_audit(made / "run")
    assert [e.name for e in found.entries] == [e.name for e in audit.entries]
    for a, b in zip(found.entries, audit.entries, strict=True):
        for gain in ("elbo", "exact_posterior", "likelihood"):
            ours, theirs = getattr(a.heldout, gain), getattr(b.heldout, gain)
            assert ours.gain.value == pytest.approx(theirs.gain.value, abs=1e-5), (a.name, gain)
    assert found.verdict.decision == audit.verdict.decision
    assert found.model.settings["built by"] == "mymodel.py:build"


def test_whole_models_parts_and_other_units_give_the_same_gains(place: Path, tmp_path: Path) -> None:
    """A prior N(-1, 2^2) with z = 2 u - 1 is the same model; its latents are in units of the prior."""
    wanted = [e.heldout.elbo.gain.value for e in load_audit(place / "run").entries]
    for function, encoder, tensors in (("parts", "", set()), ("wide", "", {"coordinates.loc", "coordinates.scale"})):
        out = tmp_path / function
        options = model(place, function)
        assert call("run", *options, "--data", place / "rows.npz", "--out", out, *QUICK) == 0
        there = artifact.read(out / "model")
        assert there.config["encoder"] == encoder
        assert set(there.tensors()) == {"answers", *tensors}
        found = [e.heldout.elbo.gain.value for e in load_audit(out).entries]
        assert found == pytest.approx(wanted, abs=2e-4)
        assert call("sample", out, *options, "-n", 4, "--from", "prior", "--out", out / "x.npz", "--quiet") == 0
        assert np.load(out / "x.npz")["x"].shape == (4, 5)


def test_a_prior_of_several_gaussians_is_kept_and_one_that_cannot_be_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two"
    assert call("train", *model(place, "two"), "--data", place / "rows.npz", "--out", out, "--quiet") == 0
    assert RunFolder.open(out).prior.kind == "mixture"
    assert call("train", *model(place, "student"), "--data", place / "rows.npz", "--out", tmp_path / "t") == 2
    assert "prior: a run keeps its prior, and StudentT cannot be saved" in said(capsys)
    assert not (tmp_path / "t").exists()


def test_a_scale_that_is_measured_is_kept(place: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "named", model(place, "named")
    assert call("train", *options, "--data", place / "rows.npz", "--out", out, "--quiet") == 0
    there = artifact.read(out / "model").config
    assert there["likelihood"] == "gaussian"
    folder = RunFolder.open(out, OwnModel(options[1], options[3]))
    assert float(folder.vae.decode(torch.zeros(1, 2)).stddev[0, 0]) == pytest.approx(there["scale"], rel=1e-6)
    assert there["scale"] < 0.3**0.5  # reconstructions at the means miss by less than sigma
    assert any("most likely" in sentence for sentence in there["says"])
    assert RunFolder.open(out).of_model.says == there["says"]


# -- verbs ------------------------------------------------------------------------------------------------------------


def test_verbs_one_by_one_give_what_run_gives(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, options = tmp_path / "steps", model(place)
    assert call("train", *options, "--data", place / "rows.npz", "--out", out) == 0
    assert "taken as it is; nothing was trained" in " ".join(capsys.readouterr().out.split())
    assert call("encode", out, *options) == 0
    assert call("fit", out, "--kinds", *KINDS) == 0
    assert call("audit", out, *options, *AUDIT) == 0
    for name in ("data", "model", "posteriors/train", "latent/aggregated"):
        assert artifact.read(out / name).hash == artifact.read(place / "run" / name).hash, name
    mine, theirs = (artifact.read(f / "audit").files["tensors.safetensors"] for f in (out, place / "run"))
    assert mine == theirs


def test_verbs_that_need_the_model_say_what_to_add(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "run"
    wanted = (
        "this model is made by mymodel.py:build, and zprime runs no code that it was not told to run; add "
        "--model mymodel.py:build --model-weights w.pt"
    )
    for verb in (
        ["fit", run, "--kinds", "vamp"],
        ["audit", run, *AUDIT, "--seed", "1"],
        ["audit", run, "--new-data", place / "rows.npz"],
        ["sample", run],
        ["sample", run, "--from", "aggregated", "--store", "data", "--allow-rows"],
    ):
        assert call(*verb) == 2
        assert wanted in said(capsys), verb
    assert not (place / "ran").exists()


def test_verbs_that_need_it_work_with_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, options = place / "run", model(place)
    assert call("fit", run, "--kinds", "vamp", "--set", "vamp.components=4", "vamp.epochs=2", *options) == 0
    assert call("audit", run, *options, *AUDIT) == 0
    assert call("audit", run, "--new-data", place / "rows.npz", *options) == 0
    assert "No drift" in capsys.readouterr().out
    assert call("sample", run, *options, "-n", 5, "--from", "gaussian", "--noise", "draw") == 0
    drawn = np.load(run / "samples" / "gaussian.npz")
    assert drawn["z"].shape == (5, 2)
    gap = torch.from_numpy(drawn["x"]).double() - (
        torch.from_numpy(drawn["z"]).double() @ own_code.MODEL.weight.T + own_code.MODEL.bias
    )
    assert 0.2 < float(gap.std()) < 1.2


def test_rows_of_numbers_are_drawn_into_a_table(place: Path) -> None:
    out = place / "drawn.csv"
    assert call("sample", place / "run", *model(place), "--from", "gaussian", "-n", 5, "--out", out) == 0
    lines = out.read_text().splitlines()
    assert lines[0].split(",")[:2] == ["x0", "x1"]
    assert len(lines) == 6


def test_what_needs_no_model_runs_no_code(place: Path, tmp_path: Path) -> None:
    """Reading an artefact never imports the file, even where it lies beside."""
    run = place / "run"
    (place / "mymodel.py").rename(place / "run" / "mymodel.py")
    for verb in (
        ["encode", run],
        ["fit", run, "--kinds", "gaussian"],
        ["explain", run, "--out", tmp_path / "answer.md"],
        ["report", run],
        ["report", run, "--public"],
        ["report", run, run, "--out", tmp_path / "both.html"],
        ["card", run],
        ["export", run, "--from", "gaussian", "--out", tmp_path / "out"],
    ):
        assert call(*verb, "--quiet") == 0, verb
    assert not (place / "ran").exists()
    assert not (place / "run" / "ran").exists()
    assert RunFolder.open(run).distribution("aggregated").d == 2
    assert (tmp_path / "both.html").is_file()
    assert json.loads((tmp_path / "out" / "latent.json").read_text())["decoder"] == "mymodel.py:build"
    assert "built by `mymodel.py:build`" in (tmp_path / "out" / "README.md").read_text()
    public = (run / "public.html").read_text()
    assert "mymodel" not in public
    assert "w.pt" not in public


def test_a_run_of_it_is_verified_with_the_code_and_not_without(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is measured again, with the held-out rows wherever they lie now; checking files runs no code."""
    rows = np.load(place / "rows.npz")
    np.savez(place / "seen.npz", x=rows["x_train"])
    np.savez(place / "unseen.npz", x=rows["x_test"])
    source = ["--data", place / "seen.npz", "--heldout-data", place / "unseen.npz"]
    assert call("run", *model(place), *source, "--out", place / "run", "--replace", *QUICK) == 0
    (place / "ran").unlink()
    assert call("verify", place / "run", "--files-only") == 0
    assert call("verify", place / "run") == 2
    assert "zprime runs no code that it was not told to run" in said(capsys)
    assert not (place / "ran").exists()
    assert call("verify", place / "run", *model(place)) == 0
    (place / "unseen.npz").rename(place / "elsewhere.npz")
    assert call("verify", place / "run", *model(place)) == 2
    assert "say where they are now (--heldout-data PATH)" in said(capsys)
    np.savez(place / "other.npz", x=rows["x_test"][::-1])
    assert call("verify", place / "run", *model(place), "--heldout-data", place / "other.npz") == 3
    assert "these are not the rows of the run" in said(capsys)
    assert call("verify", place / "run", *model(place), "--heldout-data", place / "elsewhere.npz") == 0


def test_the_same_command_again_does_nothing_and_runs_no_code(place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (place / "run").rglob("manifest.json")}
    command = ["run", *model(place), "--data", place / "rows.npz", "--out", place / "run", *QUICK]
    assert call(*command) == 0
    assert {p: p.stat().st_mtime_ns for p in (place / "run").rglob("manifest.json")} == before
    assert not (place / "ran").exists()


@pytest.mark.parametrize("stage", ["encode_stage.encode", "fit_stage.fit", "auditing.audit"])
def test_a_run_that_was_interrupted_goes_on(
    stage: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ["run", *model(place), "--data", place / "rows.npz", "--out", out, *QUICK]

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"zprime.{stage}", stop)
        assert call(*command) == 130
    assert artifact.is_artifact(out / "model")
    assert call(*command) == 0
    for name in ("model", "posteriors/heldout", "latent/aggregated"):
        assert artifact.read(out / name).hash == artifact.read(place / "run" / name).hash
    assert load_audit(out).verdict == load_audit(place / "run").verdict


def test_the_command_on_the_page_makes_the_run_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = load_audit(place / "run").command
    assert "--model mymodel.py:build --model-weights w.pt" in command
    monkeypatch.chdir(place)
    words = shlex.split(command.replace("\\\n", ""))
    assert call(*words[1:], "--quiet") == 0
    again = Path(words[words.index("--out") + 1])
    assert (
        artifact.read(again / "audit").files["tensors.safetensors"]
        == artifact.read(place / "run" / "audit").files["tensors.safetensors"]
    )


def test_a_fit_in_a_process_of_its_own_finds_the_model(place: Path) -> None:
    settings = replace(settings_for("vamp"), components=3, epochs=1)
    own = OwnModel(*(model(place)[1::2]))
    fit_stage._fit_one(place / "run", own, settings, "vamp", 0, "")
    assert RunFolder.open(place / "run").has("latent/vamp")


def test_json_is_alone_though_the_file_prints(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", *model(place), "--data", place / "rows.npz", "--out", tmp_path / "run", "--json") == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["settings"]["built by"] == "mymodel.py:build"
    assert "this file talks" in out.err


def test_python_takes_it_too(place: Path, tmp_path: Path) -> None:
    own = zprime.OwnModel(*(model(place)[1::2]))
    audit = zprime.run(
        place / "rows.npz", tmp_path / "run", own=own, kinds=["gaussian"], auditing=AuditSettings(**SMALL)
    )
    assert audit.model.settings["built by"] == "mymodel.py:build"
    job = Run.open(tmp_path / "run", own=own)
    assert job.audit(AuditSettings(**SMALL), seed=0).verdict == audit.verdict


# -- the code and the weights -----------------------------------------------------------------------------------------


def test_a_file_that_changed_is_refused_before_it_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (place / "mymodel.py").open("a") as file:
        file.write("# changed\n")
    assert call("sample", place / "run", *model(place)) == 2
    err = said(capsys)
    assert "mymodel.py is not the file that" in err
    assert "Put the old one back, or make another run" in err
    assert not (place / "ran").exists()
    assert call("run", *model(place), "--data", place / "rows.npz", "--out", place / "run", *AUDIT) == 2
    err = said(capsys)
    assert "this run was made with other settings (code " in err
    assert "Say --replace" in err


def test_other_weights_and_other_functions_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", place / "run", *model(place, "parts")) == 2
    assert "was made by mymodel.py:build, got mymodel.py:parts; give --model mymodel.py:build" in said(capsys)
    assert call("sample", place / "run", *model(place, weights="")) == 2
    assert "model-weights: expected those that" in said(capsys)
    torch.save({k: v + 1 for k, v in own_code.vae_weights().items()}, place / "w.pt")
    assert call("sample", place / "run", *model(place)) == 2
    err = said(capsys)
    assert "model-weights: expected those that" in err
    assert "w.pt (SHA-256" in err
    assert not (place / "ran").exists()


@pytest.mark.parametrize("change", ["FACTOR = 1.1\n", "FACTOR = 1.001\n", "FACTOR = 1.0\nSIGMA = 0.53\n"])
def test_a_model_that_answers_otherwise_is_refused(
    change: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change in a file that the user's file loads."""
    (place / "helper.py").write_text(change)
    sys.modules.pop("helper", None)
    assert call("sample", place / "run", *model(place)) == 2
    sys.modules.pop("helper", None)
    err = said(capsys)
    assert "model: mymodel.py:build answers otherwise than when" in err
    assert "Put them back, or make another run" in err


def test_rounding_is_no_other_answer(place: Path) -> None:
    (place / "helper.py").write_text("FACTOR = 1.00001\n")
    sys.modules.pop("helper", None)
    assert call("sample", place / "run", *model(place), "--quiet") == 0
    sys.modules.pop("helper", None)


def test_models_in_half_precision_may_round_more() -> None:
    def close(vae: torch.nn.Module) -> float:
        parts = {"encoder": lambda x: (vae(x), vae(x)), "decoder": lambda z: vae(z), "gives": "std"}
        return Own.of(parts, Code.read(f"{__file__}:model").guard, seed=0).close

    layer = torch.nn.Linear(2, 2)
    assert close(layer) == 1e-4
    assert close(layer.double()) == 1e-4
    assert close(layer.half()) == 1e-2
    assert close(layer.bfloat16()) == 1e-2


def test_replacing_takes_the_new_model(place: Path) -> None:
    torch.save({**own_code.vae_weights(), "scale": own_code.vae_weights()["scale"] * 1.05}, place / "w.pt")
    options = [*model(place), "--data", place / "rows.npz", "--out", place / "run", "--quiet"]
    before = artifact.read(place / "run" / "model").hash
    assert call("train", *options) == 2
    assert artifact.read(place / "run" / "model").hash == before
    assert call("train", *options, "--replace") == 0
    assert artifact.read(place / "run" / "model").hash != before
    assert not (place / "run" / "posteriors" / "train").exists()


def test_a_model_that_cannot_be_used_replaces_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*model(place, "swapped"), "--data", place / "rows.npz", "--out", place / "run", "--replace"]
    assert call("run", *options) == 5
    assert "gives: a std is above 0" in said(capsys)
    assert artifact.read(place / "run" / "model").config["code"]["named"] == "mymodel.py:build"
    assert RunFolder.open(place / "run").has("audit")


def test_a_module_is_found_from_this_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somewhere" / "ownpackage"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(place / "mymodel.py", package / "vae.py")
    shutil.copy(place / "helper.py", tmp_path / "somewhere" / "helper.py")
    monkeypatch.chdir(package.parent)
    options = ["--model", "ownpackage.vae:build", "--model-weights", place / "w.pt"]
    try:
        assert call("train", *options, "--data", place / "rows.npz", "--out", "run", "--quiet") == 0
        assert artifact.read("run/model").config["code"]["named"] == "ownpackage.vae:build"
        assert call("encode", "run", *options, "--quiet") == 0
    finally:
        for name in ("ownpackage", "ownpackage.vae", "helper"):
            sys.modules.pop(name, None)
    assert str(package.parent) not in sys.path
    for split in SPLITS:
        mine, theirs = (artifact.read(Path(f, "posteriors", split)).files for f in ("run", place / "run"))
        assert mine == theirs


def test_a_module_that_this_python_imported_before_is_run_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "stale_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import one\n")
    (package / "values.py").write_text("BASE = 10\n")
    file, text = package / "one.py", "from .values import BASE\ndef build():\n    return BASE + {}\n"

    def answer() -> int:
        code = Code.read("stale_package.one:build")
        return int(code.run())

    file.write_text(text.format(1))
    assert answer() == 11
    assert answer() == 11
    file.write_text(text.format(2))
    assert sys.modules["stale_package.one"].build() == 11  # what this Python has
    assert answer() == 12
    assert sys.modules["stale_package.one"].build() == 11  # and keeps


def test_weights_go_into_a_module_that_is_built_without_them(place: Path) -> None:
    save_file(own_code.vae_weights(), place / "w.safetensors")
    for weights in ("w.pt", "w.safetensors"):
        vae = Code.read(f"{place / 'mymodel.py'}:bare", str(place / weights)).run()
        assert torch.equal(vae.mean.weight, own_code.vae_weights()["mean.weight"])


def test_weights_with_objects_in_them_run_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self):
            return (Path(place / "evil").touch, ())

    torch.save({"a": Evil()}, place / "w.pt")
    assert call("train", *model(place), "--data", place / "rows.npz", "--out", place / "new") == 2
    err = said(capsys)
    assert "w.pt holds objects of Python, and opening it would run code" in err
    assert "torch.save(vae.state_dict(), FILE)" in err
    assert not (place / "evil").exists()


# -- mistakes ---------------------------------------------------------------------------------------------------------

LINE = 1 + next(i for i, line in enumerate(own_code.CODE.splitlines()) if "x[:, :3]" in line)
WRONG = {
    "build:": "model: expected mymodel.py:build or package.module:function, got",
    "gone": "model: expected a function gone in",
    "raises": "raises() failed: ValueError: no such layer (mymodel.py, line",
    "leaves": "leaves() failed: SystemExit: 3 (mymodel.py, line",
    "needs": "takes 2 arguments; expected build(), or build(weights)",
    "nothing": "got NoneType; let it take the weights, def nothing(weights), and put them where they belong",
    "unknown": "model: expected a dict with some of vae, encoder, decoder, gives, likelihood, prior, beta, check, got "
    "liklihood",
    "silent": "gives: expected what the encoder's second answer is",
    "half": "decoder: expected a module or a function, got NoneType",
    "swapped": "gives: a std is above 0, and the encoder's second answer goes down to",
    "narrow": "the encoder on a batch of shape [2, 5] failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied "
    f"(2x3 and 5x2) (mymodel.py, line {LINE}); give rows as it had them in training",
    "talking": "prior: expected a torch Distribution or a latent distribution of zprime, got function",
    "beta": "beta: expected a number above 0, got -1",
}


@pytest.mark.parametrize("function", WRONG)
def test_what_is_wrong_with_a_function_is_said(
    function: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = model(place, function)
    assert call("run", *options, "--data", place / "rows.npz", "--out", tmp_path / "run", *AUDIT) in (2, 5)
    assert WRONG[function] in said(capsys)
    assert not (tmp_path / "run").exists()


def test_files_that_are_missing_or_wrong_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "--data", place / "rows.npz", "--out", place / "new"]
    (place / "syntax.py").write_text("def build(:\n    pass\n")
    (place / "lacks.py").write_text("import no_such_thing\n")
    (place / "bad.pt").write_bytes(b"these are no weights")
    (place / "bad.safetensors").write_bytes(b"these are no weights")
    torch.save({"mean.weight": torch.ones(2, 5)}, place / "part.pt")
    of = str(place / "mymodel.py")
    for options, wanted in (
        (["--model", f"{place}/none.py:build"], "model: expected a file, found none at"),
        (["--model", "no_such_package.x:build"], "there is no module of this name here"),
        (["--model", "sys:exit"], "model: expected a module in a .py file, got sys"),
        (
            ["--model", f"{place}/syntax.py:build"],
            "importing it failed: SyntaxError: invalid syntax (syntax.py, line 1)",
        ),
        (
            ["--model", f"{place}/lacks.py:build"],
            "ModuleNotFoundError: No module named 'no_such_thing' (lacks.py, line 1)",
        ),
        (["--model", f"{of}:build"], "build of"),
        (model(place, weights="none.pt"), "model-weights: expected a file, found none at"),
        (model(place, weights="bad.pt"), "bad.pt is no readable file of weights"),
        (model(place, weights="bad.safetensors"), "bad.safetensors is no readable file of weights"),
        (
            model(place, weights="part.pt"),
            "build(weights) failed: RuntimeError: Error(s) in loading state_dict for VAE",
        ),
        (model(place, "bare", "part.pt"), "part.pt does not fit VAE"),
        (["--model-weights", f"{place}/w.pt"], "model-weights: expected --model too"),
    ):
        assert call(*run, *options) == 2, options
        err = said(capsys)
        assert wanted in err, (wanted, err)
        assert not (place / "new").exists()


def test_without_rows_that_the_model_has_not_seen_there_is_no_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.load(place / "rows.npz")
    np.savez(place / "seen.npz", x=rows["x_train"])
    np.savez(place / "unseen.npz", x=rows["x_test"])
    run = ["train", *model(place), "--data", place / "seen.npz", "--out", tmp_path / "run"]
    assert call(*run) == 2
    assert "heldout-data: expected rows that your model was not trained on, got none" in said(capsys)
    assert call(*run, "--heldout-data", place / "unseen.npz", "--heldout", "0.3") == 2
    assert "heldout: with a model of your own the rows that it has not seen are given" in said(capsys)
    assert call(*run, "--heldout-data", place / "unseen.npz", "--quiet") == 0
    assert [len(RunFolder.open(tmp_path / "run").rows[s]) for s in SPLITS] == [150, 40, 40]


@pytest.mark.parametrize("option", [["--epochs", "3"], ["--latents", "3"], ["--seeds", "2"]])
def test_settings_of_a_training_are_refused(option: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", *model(place), "--data", place / "rows.npz", "--out", place / "new", *option) == 2
    assert f"{option[0][2:]}: a model of your own is taken as it is, and not trained" in said(capsys)
    with pytest.raises(UsageError, match="prior: a model of your own .* the function that builds it says its prior"):
        zprime.run("digits", place / "new", own=OwnModel("a.py:b"), prior=zprime.latent.Prior(2))


def test_a_setting_of_the_environment_is_refused_by_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", *model(place), "--data", place / "rows.npz", "--out", place / "new"]
    for variable, value in (("ZPRIME_EPOCHS", "3"), ("ZPRIME_HELDOUT", "0.3")):
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            assert call(*run) == 2
            assert f"unset {variable}" in said(capsys)
    assert call(*run, "--epochs", "3") == 2
    assert "unset" not in said(capsys)


def test_what_does_not_apply_to_such_a_run_is_not_advised(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", place / "run", "--quiet") == 0
    assert "--seeds" not in capsys.readouterr().out
    assert call("train", *model(place), "--data", place / "rows.npz", "--out", place / "run", "--quiet") == 0
    (place / "rows.npz").rename(place / "moved.npz")
    with pytest.raises(ArtifactError, match="zprime train --model FILE:FUNCTION --data PATH --out"):
        _ = RunFolder.open(place / "run").rows


def test_the_other_sort_of_model_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Run.create(tmp_path / "trained")
    job.train(DataSettings(str(small.table(tmp_path / "table.npz"))), small.NETWORK, small.TRAINING, seed=0)
    assert call("sample", job.path, "--from", "prior", *model(place)) == 2
    assert "was trained by zprime, and holds encoder and decoder; leave --model out" in said(capsys)
    RunFolder.open(job.path).generative("prior").save(tmp_path / "generator")
    assert call("sample", tmp_path / "generator", *model(place)) == 2
    assert "is a shipped generator, and holds its decoder; leave --model out" in said(capsys)
    with monkeypatch.context() as changed:
        changed.setenv("ZPRIME_MODEL", f"{place / 'mymodel.py'}:build")
        assert call("sample", job.path, "--from", "prior") == 2
    assert "leave --model out (the environment has ZPRIME_MODEL: unset ZPRIME_MODEL)" in said(capsys)
    assert call("train", *model(place), "--data", place / "rows.npz", "--out", job.path) == 2
    assert "model trained by zprime, now mymodel.py:build" in said(capsys)
    assert call("train", "--data", place / "rows.npz", "--out", place / "run") == 2
    assert "model mymodel.py:build, now trained by zprime" in said(capsys)


def test_an_altered_artefact_is_refused(place: Path) -> None:
    path = place / "run" / "model" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert call("sample", place / "run", *model(place)) == 3


def test_an_artefact_that_was_altered_and_sealed_again_is_refused_or_works(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting and every tensor: no other error than ours, and nothing allocated that was not stored."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    options = model(place, "wide")
    assert call("train", *options, "--data", place / "rows.npz", "--out", place / "wide", "--quiet") == 0
    path = shutil.copytree(place / "wide" / "model", place / "alone")
    there = artifact.read(path)
    config, tensors, own = there.config, there.tensors(), OwnModel(options[1], options[3])
    wrong = (None, "x", -1, 0, 1e308, True, [], 10**9)
    changes = [(what, c, tensors) for what, c in tampering.configs(config, wrong)]
    changes += [(what, config, t) for what, t in tampering.tensor_sets(tensors)]
    refused, bad = 0, []
    for what, c, t in changes[:: int(os.environ.get("ZPRIME_EVERY", "5"))]:
        tampering.rewrite(path, config=c, tensors=t)
        try:
            with contextlib.redirect_stderr(None):
                found = own_model.load(own, artifact.read(path))
            assert found.encode(torch.zeros(3, 5))[0].shape == (3, 2), what
        except ZprimeError:
            refused += 1
        except Exception as error:  # noqa: BLE001
            bad.append(f"{what}: {type(error).__name__}: {error!s:.200}")
    assert not bad
    assert refused > 20


def test_rows_are_weighed_by_a_column(place: Path, tmp_path: Path) -> None:
    rows = np.load(place / "rows.npz")
    w = {"w_train": np.linspace(1, 2, 150), "w_test": np.linspace(1, 2, 80)}
    np.savez(place / "weighed.npz", x_train=rows["x_train"], x_test=rows["x_test"], **w)
    run = ["run", *model(place), "--data", place / "weighed.npz", "--out", tmp_path / "run", *QUICK, "--weights", "w"]
    assert call(*run) == 0
    assert load_audit(tmp_path / "run").data.weights == "w"


# -- images -----------------------------------------------------------------------------------------------------------

IMAGES = """
import torch
from torch import nn

def build():
    flat, back = nn.Flatten(), nn.Unflatten(1, (1, 4, 4))
    encode = lambda x: (flat(x)[:, :2] * 2 - 1, torch.full((len(x), 2), 0.3))
    decode = lambda z: back(torch.cat([(z[:, :2] + 1) / 2, torch.full((len(z), 14), 0.5)], 1))
    return {"encoder": encode, "decoder": decode, "gives": "std", "likelihood": "gaussian", "check": False}
"""


def test_pixels_of_8_bits_go_to_the_unit_interval_and_back(tmp_path: Path) -> None:
    (tmp_path / "images.py").write_text(IMAGES)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x[:80], x_test=x[80:])
    options = ["--model", f"{tmp_path / 'images.py'}:build"]
    assert call("train", *options, "--data", tmp_path / "x.npz", "--out", tmp_path / "run", "--quiet") == 0
    rows = RunFolder.open(tmp_path / "run").rows["train"].x
    np.testing.assert_allclose(rows.numpy(), x[:80] / 255, rtol=1e-6)
    out = tmp_path / "s"
    assert call("sample", tmp_path / "run", *options, "--from", "prior", "-n", 4, "--out", out, "--quiet") == 0
    drawn = np.load(tmp_path / "s.npz")
    np.testing.assert_allclose(drawn["x"][:, 0, 0, :2], (drawn["z"] + 1) / 2 * 255, rtol=1e-4, atol=1e-3)
    assert (tmp_path / "s.png").is_file()


# -- init -------------------------------------------------------------------------------------------------------------


def test_what_init_writes_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("init", "my_vae.py") == 0
    told = capsys.readouterr().out
    assert "zprime run --model my_vae.py:build --model-weights weights.pt --data rows.npz" in told
    assert "my_vae.py:build" in (tmp_path / "my_vae.py").read_text()
    quick = (tmp_path / "my_vae.py").read_text().replace("main(steps=2000)", "main(steps=150)")
    quick = quick.replace(
        "made_rows(2000, seed=0), made_rows(1000, seed=1)", "made_rows(200, seed=0), made_rows(80, seed=1)"
    )
    (tmp_path / "my_vae.py").write_text(quick)
    subprocess.run([sys.executable, "my_vae.py"], check=True, capture_output=True)
    options = ["--model", "my_vae.py:build", "--model-weights", "weights.pt"]
    assert call("run", *options, "--data", "rows.npz", "--out", "runs/mine", *QUICK) == 0
    assert load_audit("runs/mine").data.sizes == {"train": 200, "selection": 40, "heldout": 40}


def test_init_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mymodel.py").write_text("mine")
    assert call("init") == 2
    assert "mymodel.py is there already, and is not replaced" in said(capsys)
    assert Path("mymodel.py").read_text() == "mine"
    assert call("init", "mymodel.txt") == 2
    assert "expected the name of a Python file" in said(capsys)

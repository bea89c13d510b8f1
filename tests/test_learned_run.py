"""Runs whose prior is learned: what the artefact keeps, the command line, and what is refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small
from test_cli import QUICK, call
from zprime import learned, vae
from zprime.data import DataSettings
from zprime.errors import ArtifactError, UsageError
from zprime.latent import Vamp
from zprime.learned import ExemplarsPrior, MixturePrior, VampPrior
from zprime.loading import load as load_generator
from zprime.results.audit import load as load_audit
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.running import Run

Z = torch.randn(20, 2, generator=stream(0, "z"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    return DataSettings(str(small.table(tmp_path_factory.mktemp("data") / "table.npz")))


@pytest.mark.parametrize("kind", learned.PRIORS)
def test_the_artefact_of_the_model_keeps_the_prior_that_was_learned(
    kind: str, data: DataSettings, tmp_path: Path
) -> None:
    job = Run.create(tmp_path / "run")
    trained = job.train(data, small.NETWORK, small.TRAINING, seed=0, prior=kind)
    assert trained.prior.kind == kind
    r, again = job.folder.prior, vae.load(tmp_path / "run" / "model").prior
    assert torch.equal(r.log_prob(Z), trained.prior.log_prob(Z))
    assert torch.equal(again.log_prob(Z), r.log_prob(Z))
    assert job.folder.model.config["learned"] == learned.settings_for(kind).described
    assert str(job.folder.model_info().settings["prior"]).startswith(f"{kind}, learned in training (")
    before = (tmp_path / "run" / "model" / "manifest.json").stat().st_mtime_ns
    job.train(data, small.NETWORK, small.TRAINING, seed=0, prior=kind)  # used again
    assert (tmp_path / "run" / "model" / "manifest.json").stat().st_mtime_ns == before


def test_another_prior_is_another_run_and_what_differs_is_told(data: DataSettings, tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    job.train(data, small.NETWORK, small.TRAINING, seed=0, prior=VampPrior(components=3))
    for prior, now in (
        (VampPrior(components=4), r"vamp, learned in training \(components 4\)"),
        (None, r"N\(0, I\)"),
        ("mixture", r"mixture, learned in training \(components 20, covariance diagonal\)"),
    ):
        with pytest.raises(UsageError, match=rf"prior vamp, learned in training \(components 3\), now {now}"):
            job.train(data, small.NETWORK, small.TRAINING, seed=0, prior=prior)


def test_a_damaged_artefact_is_refused(data: DataSettings, tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    job.train(data, small.NETWORK, small.TRAINING, seed=0, prior="vamp")
    manifest = tmp_path / "run" / "model" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["config"]["learned"] = {"kind": "glow"}
    manifest.write_text(json.dumps(content))
    with pytest.raises(ArtifactError):
        _ = job.folder.model


def test_interrupted_a_run_goes_on_to_the_same_artefact(data: DataSettings, tmp_path: Path) -> None:
    def until(epoch: int):
        def progress(what: str, done: int, total: int) -> None:
            if what == "train" and done == epoch:
                raise KeyboardInterrupt

        return progress

    prior, often = ExemplarsPrior(near=30, again=20), replace(small.TRAINING, checkpoint=0.0)
    whole, part = Run.create(tmp_path / "whole"), Run.create(tmp_path / "part", progress=until(2))
    whole.train(data, small.NETWORK, often, seed=0, prior=prior)
    with pytest.raises(KeyboardInterrupt):
        part.train(data, small.NETWORK, often, seed=0, prior=prior)
    Run.open(tmp_path / "part").train(data, small.NETWORK, often, seed=0, prior=prior)
    assert part.folder.model.hash == whole.folder.model.hash


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    words = ("--prior", "vamp", "--prior-set", "components=7", "--samples", "80", "--kinds", "gaussian", "--quiet")
    assert call("run", "--data", "digits", "--out", folder, *QUICK, *words) == 0
    return folder


def test_from_the_command_line_it_is_trained_audited_and_shipped(digits: Path) -> None:
    folder, audit = RunFolder.open(digits), load_audit(digits / "audit")
    assert isinstance(folder.prior, Vamp)
    assert folder.prior.learned
    assert {e.name for e in audit.entries} >= {"prior", "standard-normal"}
    assert audit.prior == "vamp(7)"
    words = shlex.split(audit.command)
    assert words[words.index("--prior") : words.index("--prior") + 4] == [
        "--prior",
        "vamp",
        "--prior-set",
        "components=7",
    ]
    assert "vamp, learned in training (components 7)" in (digits / "report.html").read_text()
    generator = load_generator(digits / "generator")
    assert generator.latent.d == 2
    told = Run.open(digits).export("prior", digits.parent / "exported")
    assert torch.equal(told.latent.log_prob(Z), folder.prior.log_prob(Z))


def test_a_prior_that_stores_rows_is_audited_and_not_shipped_unless_that_is_allowed(
    data: DataSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = Run.create(tmp_path / "run")
    job.train(data, small.NETWORK, small.TRAINING, seed=0, prior="aggregated")
    job.encode()
    job.fit(["gaussian"], seed=0)
    few = replace(small.AUDIT, samples=0, simulated=0)
    audit = job.audit(few, seed=0)
    assert audit.shipped == "prior"
    mixed = next(e for e in audit.entries if e.id.name == "gaussian" and e.id.percent)
    assert mixed.holds_rows  # by the share of the prior
    with pytest.raises(UsageError, match="it stores functions of single training rows"):
        job.export(str(mixed.id), tmp_path / "exported")
    assert audit.entry("prior").holds_rows
    assert "nothing is shipped, for the prior, aggregated(" in caplog.text
    assert not (tmp_path / "run" / "generator").exists()
    job.audit(replace(few, allow_rows=True), seed=0)
    assert (tmp_path / "run" / "generator").exists()


def test_the_command_of_a_run_names_what_differs_from_the_defaults_of_its_prior(tmp_path: Path) -> None:
    from zprime.command import _prior

    assert _prior(VampPrior().described) == ["--prior", "vamp"]
    words = _prior(json.loads(json.dumps(MixturePrior(components=3, covariance="full").described)))
    assert words == ["--prior", "mixture", "--prior-set", "components=3", "covariance=full"]
    words = _prior(json.loads(json.dumps(learned.FlowPrior("nsf", hidden=(8, 8)).described)))
    assert words == ["--prior", "flow", "--prior-set", "flow=nsf", "hidden=8,8"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--prior", "gaussian"], "prior: expected one of vamp, mixture, flow, exemplars, aggregated"),
        (["--prior-set", "components=3"], "say which with --prior"),
        (["--prior", "vamp", "--prior-set", "rows=3"], "expected FIELD=VALUE, of vamp components, got 'rows=3'"),
        (
            ["--prior", "vamp", "--prior-set", "components"],
            "expected FIELD=VALUE, of vamp components, got 'components'",
        ),
        (["--prior", "vamp", "--prior-set", "components=many"], "prior-set: vamp.components expected int, got 'many'"),
        (["--prior", "vamp", "--prior-set", "components=0"], "components: expected at least 1, got 0"),
        (["--prior", "vamp", "--model", "own.py:build"], "prior: a model of your own is taken as it is"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "train"])
def test_what_cannot_be_learned_is_refused_before_anything_is_made(
    verb: str, words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(verb, "--data", "digits", "--out", tmp_path / "run", *words) == 2
    assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_too_few_draws_for_one_candidate_more_are_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """N(0, I) is measured too where the prior is another one."""
    words = ("--prior", "vamp", "--draws", "40")
    assert call("run", "--data", "digits", "--out", tmp_path / "run", *words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "draws: expected 0, or at least 48 for aggregated, gaussian, mixture, prior, standard-normal" in told
    assert not (tmp_path / "run").exists()

"""Objectives, schedules, likelihoods and networks on the command line: their spelling, and the command of a run."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from zprime import artifact, chain
from zprime.cli import main

SMALL = ["--epochs", "2", "--latents", "2", "--hidden", "8", "6", "--batch", "32"]
OPTIONS = ["--objective", "iwae", "--iwae-draws", "3", "--log-variance", "-6", "2", "--warmup-epochs", "1"]
OPTIONS += ["--lr-schedule", "constant", "--optimiser", "adam-normgrad", "--network", "gated-mlp"]
OPTIONS += ["--likelihood", "laplace", "--posterior", "full"]


def call(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in argv])
    code = end.value.code
    return code if isinstance(code, int) else 1


@pytest.fixture
def table(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32))
    return tmp_path / "x.npz"


def test_every_setting_has_an_option(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--data", table, "--out", tmp_path / "run", *SMALL, *OPTIONS, "--json") == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["elbo"] is None
    config = artifact.read(tmp_path / "run" / "model").config
    told = {**config["training"], **config["vae"]["settings"]}
    assert told["objective"] == "iwae"
    assert told["iwae_draws"] == 3
    assert told["log_variance"] == [-6, 2]
    assert told["warmup_epochs"] == 1
    assert told["lr_schedule"] == "constant"
    assert told["optimiser"] == "adam-normgrad"
    assert told["network"] == "gated-mlp"
    assert told["hidden"] == [8, 6]
    assert told["posterior"] == "full"
    assert "cycles" not in told  # at its default


def test_what_differs_is_named(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert call("train", "--data", table, "--out", run, *SMALL) == 0
    assert call("train", "--data", table, "--out", run, *SMALL, "--free-bits", "0.1", "--as-stored") != 0
    text = " ".join(capsys.readouterr().err.split())
    assert "free_bits 0.0, now 0.1" in text
    assert "as_stored False, now True" in text
    assert chain.has(run, "model")


def test_a_run_says_the_command_that_makes_it_again(table: Path, tmp_path: Path) -> None:
    run, more = tmp_path / "run", ["--free-bits", "0.05", "--cycles", "2", "--log-variance", "-6", "2"]
    audit = ["--rows", "12", "--draws", "120", "--samples", "60", "--map", "20", "--kinds", "gaussian"]
    assert call("run", "--data", table, "--out", run, *SMALL, *more, *audit) == 0
    command = json.loads((run / "audit" / "audit.json").read_text("utf-8"))["command"]
    assert "--free-bits 0.05 --cycles 2" in command
    assert "--log-variance -6.0 2.0" in command
    words = shlex.split(command)[2:]
    words = words[: words.index("--kinds")]
    words[words.index("--data") + 1], words[words.index("--out") + 1] = str(table), str(tmp_path / "again")
    assert call("train", *words) == 0
    first, second = (artifact.read(r / "model") for r in (run, tmp_path / "again"))
    assert first.key == second.key
    page = (run / "report.html").read_text("utf-8")
    assert "free nats a dimension" in page


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--objective", "vae"], "objective: expected one of elbo, iwae, wae-mmd, infovae, rae, got 'vae'"),
        (["--objective", "rae"], "posterior: objective rae takes points, got diagonal; give --posterior points"),
        (["--likelihood", "categorical"], "classes: expected at least 2, one more than the largest code, got 0"),
        (["--network", "residual"], "network: residual needs images [channels, height, width] of at least 8 x 8"),
        (["--warmup-epochs", "5"], "warmup_epochs: expected fewer than the 2 epochs, got 5; give more --epochs"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    options: list[str], text: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", "--data", table, "--out", tmp_path / "run", *SMALL, *options) != 0
    assert text in " ".join(capsys.readouterr().err.split())

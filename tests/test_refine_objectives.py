"""Refining runs that were trained otherwise than by the plain ELBO, with N(0, I) and the defaults."""

from pathlib import Path
from typing import Any

import pytest

import small
from test_cli import call
from zprime.data import DataSettings
from zprime.running import Run
from zprime.training import TrainSettings
from zprime.vae_settings import VAESettings


def trained(folder: Path, *, posterior: str = "diagonal", **how: Any) -> Path:
    """A run of two epochs with a Gaussian fitted."""
    network, training = VAESettings(latents=2, hidden=(8,), posterior=posterior), TrainSettings(**{"epochs": 2, **how})
    job = Run.create(folder / "run")
    job.train(DataSettings(str(small.table(folder / "t.npz", 240))), network, training, seed=0)
    job.encode()
    job.fit(["gaussian"], seed=0)
    return job.path


@pytest.mark.parametrize(
    ("objective", "words"),
    [("elbo", "ELBO"), *((o, f"objective {o} (minus its loss)") for o in ("iwae", "infovae", "wae-mmd"))],
)
def test_what_is_told_is_called_by_the_objective(
    objective: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, objective=objective)
    capsys.readouterr()
    assert call("refine", run, "--with", "gaussian", "--epochs", "1") == 0
    told = capsys.readouterr()
    model = Run.open(run / "refined" / "gaussian").folder.of_model
    before, now = model.source.config["refined"]["selection"], model.on_selection
    assert f"; {words} on the selection split {now:.2f} nats per row, {before:.2f} before" in " ".join(
        (told.out + told.err).split()
    )
    assert f"was kept, with an {words} of {now:.2f} nats a row" in model.says[-1]

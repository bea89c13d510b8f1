"""Refining runs that were trained otherwise than by the plain ELBO, with N(0, I) and the defaults."""

from pathlib import Path
from typing import Any

import pytest

import small
from test_cli import call
from zprime.data import SPLITS, DataSettings
from zprime.errors import UsageError
from zprime.latent import MixtureSettings
from zprime.refining import refine
from zprime.run_posteriors import steps_by_split, steps_of
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


def test_an_autoencoder_without_a_prior_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    run = trained(tmp_path, objective="rae", posterior="points")
    with pytest.raises(UsageError, match="--objective rae, whose codes are pulled towards 0"):
        refine(run, "gaussian", epochs=1)
    assert not (run / "refined").exists()


def test_the_kl_term_has_its_whole_weight_from_the_first_epoch_on(tmp_path: Path) -> None:
    run = trained(tmp_path, epochs=4, warmup_epochs=1, cycles=2, beta=0.5)
    before = Run.open(run).folder.model.config
    assert [e["beta"] for e in before["history"]] == [0.25, 0.5, 0.25, 0.5]
    after = refine(run, "gaussian", epochs=2).folder.model.config
    assert [e["beta"] for e in after["history"]] == [0.5, 0.5]
    assert "cycles" not in after["training"]


@pytest.mark.parametrize("learn", [False, True])
def test_a_run_with_free_bits_is_refined_by_the_plain_elbo(learn: bool, tmp_path: Path) -> None:  # noqa: FBT001
    run = trained(tmp_path, free_bits=0.5)
    Run.open(run).fit([MixtureSettings(components=2)], seed=0)
    new = refine(run, learn=learn, epochs=1).folder.model.config
    assert "free_bits" not in new["training"]


def test_what_is_told_of_an_autoencoder_that_is_there_says_nothing_of_a_prior(tmp_path: Path) -> None:
    job = Run.open(trained(tmp_path, objective="rae", posterior="points"))
    assert job.folder.prior.kind == "gaussian"
    data, network = DataSettings(str(tmp_path / "t.npz")), VAESettings(latents=2, hidden=(8,), posterior="points")
    with pytest.raises(UsageError, match=r"other settings \(epochs 2, now 3\)"):
        job.train(data, network, TrainSettings(epochs=3, objective="rae"), seed=0)


def test_codes_take_no_steps_which_is_said_before_anything_is_encoded(tmp_path: Path) -> None:
    job = Run.open(trained(tmp_path, objective="wae-mmd", posterior="points"))
    with pytest.raises(UsageError, match="steps: expected posteriors that are diagonal Gaussians, got points"):
        job.folder.encoding(3)


def test_the_new_run_is_encoded_with_as_many_steps(tmp_path: Path) -> None:
    job = Run.open(trained(tmp_path), replace=True)
    job.encode(steps=2)
    job.fit(["gaussian"], seed=0)
    new = refine(job.path, "gaussian", epochs=1)
    assert steps_by_split(new.path) == dict.fromkeys(SPLITS, 2)
    new.encode(steps=0)
    assert steps_of(refine(job.path, "gaussian", epochs=1).path) == 0  # as it is there

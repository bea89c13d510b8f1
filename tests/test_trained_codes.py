"""Deterministic autoencoders that zprime trains: points in a run, what gains are over, and what is not said of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zprime import running, vae
from zprime.data import DataSettings, Rows
from zprime.encoding import Reencoded, encode
from zprime.errors import UsageError
from zprime.latent import StandardNormal
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.running import Run
from zprime.train_settings import TrainSettings
from zprime.vae import VAE, VAESettings

NETWORK = VAESettings(latents=2, hidden=(12,), posterior="points")
AUDIT = AuditSettings(rows=12, draws=120, grid=4, map=20, samples=60)


def table(path: Path) -> DataSettings:
    x = np.random.default_rng(0).normal(size=(150, 5)) @ np.diag([3.0, 2, 1, 1, 1])
    np.savez(path / "x.npz", x=x.astype(np.float32))
    return DataSettings(str(path / "x.npz"))


def training(objective: str) -> TrainSettings:
    return TrainSettings(epochs=3, batch=32, patience=0, objective=objective, mmd=5.0)


@pytest.mark.parametrize("objective", ["rae", "wae-mmd"])
def test_a_run_of_an_autoencoder_measures_codes_and_says_what_is_not_to_be_had(objective: str, tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    trained = job.train(table(tmp_path), NETWORK, training(objective), seed=0)
    posteriors = job.encode()
    assert {p.form for p in posteriors.values()} == {"points"}
    rows = job.folder.rows["train"]
    codes = posteriors["train"].gather()
    torch.testing.assert_close(codes.mean, trained.encode(rows.x)[0])
    assert not codes.scale.any()
    job.fit(("gaussian", "mixture"), seed=0)
    audit = job.audit(AUDIT, seed=0)
    assert not audit.surgery
    assert audit.model.posterior == "none"
    assert audit.model.codes == len(rows)
    assert audit.verdict.choice == "prior"
    assert "codes without posteriors: no KL term, no surgery" in audit.warnings[0]
    prior, gains = job.folder.prior, {e.name: e.heldout.elbo.gain.value for e in audit.entries}
    if objective == "rae":
        torch.testing.assert_close(prior.components.mean[0].float(), codes.mean.mean(0), atol=1e-4, rtol=1e-4)
        assert gains["gaussian"] == pytest.approx(0, abs=1e-6)  # it is what gains are over
        assert "over the Gaussian with mean and covariance of the training codes" in audit.warnings[0]
    else:
        assert isinstance(prior, type(vae.load(job.path / "model").prior))
        assert audit.prior == "N(0, I)"
        assert "over the prior, whose draws the codes were trained to look like" in audit.warnings[0]
    assert audit.command.startswith("zprime run")
    assert f"--posterior points --epochs 3 --batch 32 --patience 0 --objective {objective}" in audit.command
    assert torch.isfinite(job.folder.generative("mixture").sample(3, rng=stream(0))[1]).all()


def test_rows_that_are_encoded_again_are_the_same_points(tmp_path: Path) -> None:
    model = VAE.build((5,), NETWORK, seed=0).eval()
    rows = Rows("train", torch.randn(40, 5, generator=stream(0)), torch.arange(40))
    kept, stored = encode(model, rows), encode(model, rows, tmp_path / "p")
    again = Reencoded(model, rows)
    assert kept.form == stored.form == again.form == "points"
    assert torch.equal(stored.gather().mean, kept.mean)
    torch.testing.assert_close(next(again.shards()).mean, kept.mean)
    z = again.sample(200, rng=stream(1))
    assert (z[:, None] - kept.mean).abs().sum(2).min(1).values.max() < 1e-5


def test_kinds_that_take_no_points_are_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="kinds: aggregated cannot be fitted to what the encoder answers, --posterior points; give --kinds "
        "gaussian mixture",
    ):
        running.run(table(tmp_path), tmp_path / "run", network=NETWORK, training=training("rae"))
    assert not (tmp_path / "run" / "model").exists()


def test_a_prior_beside_rae_and_a_density_without_points_are_refused(tmp_path: Path) -> None:
    job, data = Run.create(tmp_path / "run"), table(tmp_path)
    with pytest.raises(
        UsageError, match="posterior: objective rae takes points, got diagonal; give --posterior points"
    ):
        job.train(data, VAESettings(latents=2), training("rae"), seed=0)
    with pytest.raises(UsageError, match="posterior: objective elbo takes diagonal, full or flow, got points"):
        job.train(data, NETWORK, TrainSettings(), seed=0)
    with pytest.raises(UsageError, match="prior: expected none with --objective rae"):
        job.train(data, NETWORK, training("rae"), seed=0, prior=StandardNormal(2))

"""Real images, where Debian's package has put them: minutes, so not part of `make test`."""

from pathlib import Path

import pytest

from zprime.data import DataSettings
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.running import Run
from zprime.training import TrainSettings
from zprime.vae import VAESettings

FOLDER = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_with_two_thousand_rows_the_exact_mixture_falls_behind_the_prior(tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    data = DataSettings(str(FOLDER), limit=2000)
    job.train(data, VAESettings(latents=16, network="mlp"), TrainSettings(epochs=80), seed=0)
    job.encode()
    job.fit(seed=0)
    audit = job.audit(AuditSettings(rows=300, draws=200), seed=0)
    assert audit.data.sizes == {"train": 2000, "selection": 5000, "heldout": 10000}
    exact = audit.entry("aggregated").heldout.likelihood.gain
    fitted = audit.entry("mixture").heldout.likelihood.gain
    assert exact.high < 0 < fitted.low
    assert CandidateId.parse(audit.verdict.choice).name == "mixture"

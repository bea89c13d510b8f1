"""CPU seconds in which pythae fits its mixture, MAF and two-stage samplers to the model of a run of zprime.

Called by speed/jobs.py in an environment that has pythae: python samplers.py RUN EPOCHS. The two that are trained get
EPOCHS epochs of pythae's 100; their time is scaled up.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from pythae.samplers import (
    GaussianMixtureSampler,
    GaussianMixtureSamplerConfig,
    MAFSampler,
    TwoStageVAESampler,
)
from pythae.trainers import BaseTrainerConfig
from training import theirs

from zprime import Run, vae

DEFAULT = BaseTrainerConfig().num_epochs


def main(folder: Path, epochs: int) -> None:
    torch.set_num_threads(1)
    run = Run.open(folder)
    rows = run.folder.rows["train"]
    model = theirs(vae.load(folder / "model"), rows)
    out: dict[str, float] = {}

    def timed(name: str, sampler: object, **how: object) -> None:
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sampler.fit(rows.x, **how)  # type: ignore[attr-defined]
        out[name] = time.process_time() - start

    timed("mixture", GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=10)))
    with tempfile.TemporaryDirectory() as place:
        training = BaseTrainerConfig(output_dir=place, num_epochs=epochs, no_cuda=True)
        for name, kind in (("maf", MAFSampler), ("two-stage", TwoStageVAESampler)):
            timed(name, kind(model), training_config=training)
            out[name] *= DEFAULT / epochs
    print(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Encode rows with Ray Data, and fit a mixture by EM on sums that its workers send: python examples/ray_data.py"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import engines
import numpy as np
import ray

import zprime


def sums_of(batch: dict[str, np.ndarray], mixture: object = None) -> dict[str, list[object]]:
    """One `Sums` for a batch of codes; Ray keeps the object as it is."""
    return {"sums": [zprime.Sums.of(batch["mean"], batch["scale"], mixture)]}


def merged(codes: ray.data.Dataset, mixture: object = None) -> zprime.Sums:
    """The sums of all batches, added up here: a few kilobytes each."""
    return sum(row["sums"] for row in codes.map_batches(sums_of, fn_kwargs={"mixture": mixture}).iter_rows())


def main(folder: Path) -> None:
    run, rows = engines.trained(folder)
    mixture = engines.start(run)
    encode = zprime.Encode.of_run(run.path, column="data")  # what Ray calls the rows of an array
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    x = np.load(rows)
    codes = ray.data.from_numpy(np.array_split(x, 8)).map_batches(encode, batch_size=1024).materialize()
    found, bounds = merged(codes), []
    for _ in range(engines.STEPS):
        mixture, bound = merged(codes, mixture).mixture_step()
        bounds.append(bound)
    alone = encode(x)
    engines.told("ray", found, bounds, zprime.Sums.of(alone["mean"], alone["scale"]))
    ray.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

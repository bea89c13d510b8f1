"""Encode rows with Dask, and fit a mixture by EM on sums that its workers send: python examples/dask_bag.py"""

import tempfile
from functools import partial
from operator import add
from pathlib import Path

import engines
import numpy as np
from dask import bag
from dask.distributed import Client, LocalCluster

import zprime


def sums_of(batch: dict[str, np.ndarray], mixture: object = None) -> zprime.Sums:
    """One `Sums` for a batch of codes."""
    return zprime.Sums.of(batch["mean"], batch["scale"], mixture)


def merged(codes: bag.Bag, mixture: object = None) -> zprime.Sums:
    """The sums of all batches, added up by the workers."""
    found: zprime.Sums = codes.map(partial(sums_of, mixture=mixture)).fold(add).compute()
    return found


def main(folder: Path) -> None:
    run, rows = engines.trained(folder)
    mixture = engines.start(run)
    encode = zprime.Encode.of_run(run.path)
    x = np.load(rows)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        codes = bag.from_sequence(np.array_split(x, 8), npartitions=8).map(encode).persist()
        found, bounds = merged(codes), []
        for _ in range(engines.STEPS):
            mixture, bound = merged(codes, mixture).mixture_step()
            bounds.append(bound)
    alone = encode(x)
    engines.told("dask", found, bounds, zprime.Sums.of(alone["mean"], alone["scale"]))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

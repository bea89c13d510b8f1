"""What each process of a job runs in the tests: python tests/job.py WHAT FOLDER."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import small
from zprime import distributed, encoding, shards
from zprime.errors import NumericalError
from zprime.kernels import expectation
from zprime.latent.em import ComponentEM
from zprime.latent.gaussian import marginal_moments, moments
from zprime.latent.mixture import MixtureSettings
from zprime.running import Run
from zprime.sampling import sample

SHARD, UNIT = 40, 64
KINDS = ("gaussian", MixtureSettings(components=3), "barycentre", "log-pool")


def settle() -> None:
    """Small shards and units, so that few data are divided: the same in every process."""
    encoding.SHARD = shards.ROWS = SHARD
    expectation.UNIT = UNIT
    torch.set_num_threads(1)


def whole(run: Path) -> dict[str, np.ndarray]:
    """Everything from a trained model on; what is to be the same on any number of processes."""
    job = Run.open(run)
    found: dict[str, torch.Tensor] = {}
    train = job.encode()["train"]
    z = torch.randn(50, train.d, generator=torch.Generator().manual_seed(0))
    found["density"] = train.log_prob(z)
    found["left out"] = train.log_prob(z, leave_out=train.row_ids[:50])
    found["mean"], found["covariance"] = moments(train)
    found["variances"] = marginal_moments(train)[1]
    em = ComponentEM(train.gather(), diagonal=False)
    state = em.start(3, rng=torch.Generator().manual_seed(0))
    for _ in range(3):
        state, bound = em.step(state)
    found["step"], found["bound"], found["rows"] = state.mean, torch.tensor(bound), em.rows(state)
    job.fit(KINDS, seed=0)
    audit = job.audit(small.AUDIT, seed=0)
    found |= audit.tensors
    z, x = sample(job.folder.generative("mixture"), 1500, seed=3, noise="draw", allow_copies=True)
    return {name: t.numpy() for name, t in {**found, "z": z, "x": x}.items()}


def fails(unit: int) -> int:
    """One unit cannot be done."""
    if unit == 3:
        raise NumericalError("unit 3 is wrong")
    return unit


def dies(unit: int) -> int:
    """The last process is killed in the midst of its work."""
    if distributed.rank() == int(os.environ["WORLD_SIZE"]) - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return unit


def sleeps(unit: int) -> int:
    """The last process does not answer."""
    if distributed.rank():
        time.sleep(1000)
    return unit


def main(what: str, folder: Path) -> None:
    """In rank 0."""
    if what == "whole":
        np.savez(folder / "numbers.npz", **whole(folder / "run"))
    else:
        distributed.each(globals()[what], (), range(8))


if __name__ == "__main__":
    settle()
    distributed.lead(lambda: main(sys.argv[1], Path(sys.argv[2])))

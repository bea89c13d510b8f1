"""What each process of a job runs in the tests: python tests/job.py WHAT FOLDER [arguments of the command line]."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

import small
from zprime import cli, distributed, encode_stage, encoding, shards, training
from zprime.data import DataSettings, Rows
from zprime.data_parallel import BatchLoss
from zprime.errors import NumericalError
from zprime.kernels import expectation
from zprime.latent.em import ComponentEM
from zprime.latent.gaussian import marginal_moments, moments
from zprime.latent.mixture import MixtureSettings
from zprime.learned import AggregatedPrior, CoresetPrior, ExemplarsPrior, FlowPrior, MixturePrior, VampPrior
from zprime.measure.likelihood import decoding as row_decoding
from zprime.objectives import IWAE, Elbo, FreeBits, WithMMD
from zprime.peers import Group
from zprime.progress import silent
from zprime.results.audit import AuditSettings
from zprime.running import Run
from zprime.sampling import sample
from zprime.vae import VAE

SHARD, UNIT = 40, 64
EVALUATE = training.evaluate
AUDIT = AuditSettings(
    rows=32,
    draws=80,
    grid=4,
    map=20,
    simulated=0,
    exchange=0,
    repair=0,
    other_scale=0,
    samples=0,
    members=0,
    latent_side=False,
    feature_networks=False,
)
LEARNED = {
    "vamp": VampPrior(components=4),
    "mixture": MixturePrior(components=3),
    "flow": FlowPrior(hidden=(8,)),
    "exemplars": ExemplarsPrior(near=9, again=7),
    "aggregated": AggregatedPrior(0, 0),
    "coreset": CoresetPrior(components=4),
}
KINDS = ("gaussian", MixtureSettings(components=3), "barycentre", "log-pool")


def settle() -> None:
    """Small shards and units, so that few data are divided: the same in every process."""
    encoding.SHARD = shards.ROWS = SHARD
    expectation.UNIT = UNIT
    row_decoding.TOGETHER = row_decoding.LEAST
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
    audit = job.audit(AUDIT, seed=0)
    found |= audit.tensors
    found["alone"] = torch.tensor(distributed.each(doubled, (only_here(),), range(5)))
    z, x = sample(job.folder.generative("mixture"), 2100, seed=3, noise="draw", allow_copies=True)
    return {name: t.numpy() for name, t in {**found, "z": z, "x": x}.items()}


def gradient(folder: Path) -> dict[str, torch.Tensor]:
    """Of the first batch, in float64, and of a batch with fewer rows than processes; also with learned priors."""
    learned = {k: v for kind in LEARNED for k, v in steps(30, kind).items()}
    return {**steps(30, ""), **steps(3, ""), **learned, **_of_objectives()}


def steps(rows: int, kind: str) -> dict[str, torch.Tensor]:
    """Loss and gradients of one batch, by their names, with a prior that is learned where one is named."""
    vae = VAE.build((5,), small.NETWORK, seed=0).double()
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind:
        vae.learn(LEARNED[kind].make(vae.latents), x, rng=torch.Generator().manual_seed(3))
        vae.double()
    batch_loss = BatchLoss(vae)
    loss, value = batch_loss(x, torch.arange(rows), beta=0.5, rng=torch.Generator().manual_seed(2))
    loss.backward()
    found = {f"{kind} {name} {rows}": p.grad for name, p in vae.named_parameters() if p.grad is not None}
    return {f"{kind} loss {rows}": torch.tensor(value, dtype=torch.float64), **found}


def _of_objectives() -> dict[str, Tensor]:
    """The same of one batch of 7 rows by other objectives; in some of them rows count together."""
    found: dict[str, Tensor] = {}
    flow = replace(small.NETWORK, posterior="flow")
    cases = [(o, small.NETWORK) for o in (FreeBits(0.05), IWAE(3), WithMMD(5.0, kl=True))]
    for objective, network in (*cases, (Elbo(), flow), (IWAE(2), flow)):
        vae = VAE.build((5,), network, seed=0).double()
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        batch_loss = BatchLoss(vae, objective)
        loss, value = batch_loss(x, torch.arange(7), beta=0.5, rng=torch.Generator().manual_seed(2))
        loss.backward()
        name = f"{type(objective).__name__} {network.posterior}"
        found[f"loss {name}"] = torch.tensor(value, dtype=torch.float64)
        found |= {f"{k} {name}": p.grad for k, p in vae.named_parameters() if p.grad is not None}
    return found


def train(folder: Path) -> dict[str, np.ndarray]:
    """Gradients, and a training of a few epochs."""
    found = distributed.together(gradient, folder)
    run = Run.create(folder / "trained")
    run.train(DataSettings(str(folder / "t.npz")), small.NETWORK, small.TRAINING, seed=0)
    history = run.folder.model.config["history"]
    found["history"] = torch.tensor([[e["loss"], e["selection"]] for e in history])
    return {name: t.numpy() for name, t in found.items()}


def only_here() -> object:
    """An object whose class only this process has; the others are told of it, and cannot read it."""
    module = ModuleType("only_here")
    exec("class Odd: value = 2", module.__dict__)
    sys.modules["only_here"] = module
    return module.Odd()


def doubled(odd: object, unit: int) -> int:
    return odd.value * unit  # type: ignore[attr-defined]


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


def note(folder: Path) -> None:
    """Note the units that each process other than the first does: a line `function rank units` a call."""
    real = distributed._done

    def done(group: Group, how: str, work: Callable[..., object], common: object, units: object, n: int) -> object:
        if group.rank:
            mine = 1 if how == "together" else len(units[group.rank :: group.size])  # type: ignore[arg-type, index]
            with open(folder / f"did-{group.rank}", "a") as file:  # noqa: PTH123
                file.write(f"{work.__name__} {group.rank} {mine}\n")
        return real(group, how, work, common, units, n)  # type: ignore[arg-type]

    distributed._done = done


def failing(after: int) -> None:
    """Work in all processes at once; the last one fails in the midst of it, and the others wait for its numbers."""
    for step in range(5):
        if step == after and distributed.rank() == int(os.environ["WORLD_SIZE"]) - 1:
            raise NumericalError(f"step {step} is wrong")
        dist.all_reduce(torch.ones(3))


def dying(after: int) -> None:
    """The same; the last process is killed."""
    for step in range(5):
        if step == after and distributed.rank() == int(os.environ["WORLD_SIZE"]) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(3))


def trained_at(checkpoint: Path, odd: str) -> list[float]:
    """A training whose last process measures other ELBOs, or has a checkpoint of its own; the ELBOs that all noted."""
    if distributed.rank() and odd == "folder":
        checkpoint = checkpoint.parent / "other"
    if distributed.rank() and odd == "elbo":
        training.evaluate = lambda *args, **more: -1.0 * args[0].training  # type: ignore[assignment]
    rows = small_rows()
    vae = VAE.build((5,), small.NETWORK, seed=0)
    settings = replace(small.TRAINING, epochs=3, checkpoint=0.0)
    try:
        found = training.train(vae, rows, rows, settings, checkpoint=checkpoint, progress=silent)
    finally:
        training.evaluate = EVALUATE
    history = torch.tensor([e["selection"] for e in found.history] + [found.epoch], dtype=torch.float64)
    every = [torch.zeros_like(history) for _ in range(distributed.world())]
    dist.all_gather(every, history)
    assert all(torch.equal(h, history) for h in every), every
    return history.tolist()


def small_rows() -> Rows:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(4))
    return Rows("train", x, torch.arange(60))


def command(folder: Path, arguments: list[str]) -> None:
    """The command line; who encoded which shard is noted, and the last process is killed once, after its first."""
    last = int(os.environ["WORLD_SIZE"]) - 1

    def encode(real: Callable[..., object], model: object, rows: object, part: slice, *draws: int) -> object:
        killed = folder / "killed"
        if distributed.rank() == last and not killed.exists() and list(folder.glob(f"*-of-{last}-*")):
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"{rows.name}-{part.start}-of-{distributed.rank()}-{os.getpid()}").touch()  # type: ignore[attr-defined]
        return real(model, rows, part, *draws)

    encoding._encode = partial(encode, encoding._encode)  # type: ignore[assignment]
    encoding._drawn = partial(encode, encoding._drawn)  # type: ignore[assignment]
    cli.main(arguments)


def main(what: str, folder: Path) -> None:
    """In rank 0."""
    if what == "whole":
        np.savez(folder / "training.npz", **train(folder))
        logging.basicConfig(level=logging.INFO)
        np.savez(folder / "numbers.npz", **whole(folder / "run"))
        assert not encode_stage._open
    elif what == "checkpoints":
        print(distributed.together(trained_at, folder / "checkpoint", "elbo"))  # noqa: T201
        distributed.together(trained_at, folder / "checkpoint", "folder")
    elif what in ("failing", "dying"):
        distributed.together(globals()[what], 2)
    else:
        distributed.each(globals()[what], (), range(8))


if __name__ == "__main__":
    settle()
    if sys.argv[1] == "whole":
        note(Path(sys.argv[2]))
    if sys.argv[1] == "command":
        command(Path(sys.argv[2]), sys.argv[3:])
    distributed.lead(lambda: main(sys.argv[1], Path(sys.argv[2])))

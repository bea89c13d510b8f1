"""The torch kernels on a GPU, beside one thread of the CPU with the compiled ones: wall time of tensors there."""

import time
from collections.abc import Callable
from copy import deepcopy

import torch
from mixtures import draw, made
from timing import Missing, Pair, Row, Task, compared
from torch import Tensor

import zprime
from zprime.kernels import DiagonalMixture, ExactIndex
from zprime.kernels.expectation import Expectation
from zprime.latent import FlowSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

HERE = "the CPU, one thread"


def gpu(train: MemoryPosteriors, selection: MemoryPosteriors, device: str = "cuda") -> list[Row]:
    """Raises `Missing` where torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Missing("torch finds no GPU on this machine")
    out = []
    for job, make in jobs(train, selection).items():
        tasks = {HERE: Task(make("cpu")), job: Task(make(device))}
        for task in tasks.values():
            task.run()
        out += compared(tasks, [Pair(job, HERE)], lambda name, task: waited(task.run))
    return out


def waited(f: Callable[[], object]) -> float:
    """Seconds until the device has done it."""
    start = time.monotonic()
    f()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - start


def jobs(train: MemoryPosteriors, selection: MemoryPosteriors) -> dict[str, Callable[[str], Callable[[], object]]]:
    """What is done -> what does it on a device."""
    rng = stream(0, "gpu")
    flow = zprime.fit(FlowSettings(epochs=1), train.take(torch.arange(2_000)), selection=selection).distribution
    network = zprime.VAESettings(latents=16, network="conv")
    vae = zprime.VAE.build((1, 28, 28), network, seed=0)
    rows, codes = torch.randn(55_000, 784, generator=rng), torch.randn(20_000, 16, generator=rng)
    weights = torch.randn(16 * 17 // 2 + 17, 100, generator=rng, dtype=torch.float64)
    mean, variance = train.mean.double(), train.scale.double().square()

    def density(d: int) -> Callable[[str], Callable[[], object]]:
        mixture = made(d)
        z = draw(mixture, 4_000)

        def make(device: str) -> Callable[[], object]:
            ours, points = DiagonalMixture(*(t.to(device) for t in mixture)), z.to(device)
            return lambda: ours.log_prob(points)

        return make

    def step(device: str) -> Callable[[], object]:
        data = Expectation(mean.to(device), variance.to(device), diagonal=False)
        weight, given = torch.full((train.n,), 1 / train.n, dtype=torch.float64).to(device), weights.to(device)
        return lambda: data.statistics(weight, given)

    def nearest(device: str) -> Callable[[], object]:
        index, queries = ExactIndex(rows.to(device)), rows[:1000].to(device)
        return lambda: index.nearest(queries, 5)

    def through(module: torch.nn.Module, given: Tensor) -> Callable[[str], Callable[[], object]]:
        def make(device: str) -> Callable[[], object]:
            moved, z = deepcopy(module).to(device), given.to(device)

            def run() -> object:
                with torch.no_grad():
                    return moved(z)

            return run

        return make

    return {
        **{f"log-density, 4,000 points, 60,000 components, d = {d}": density(d) for d in (16, 64)},
        "E-step, 55,000 posteriors, K = 100, full covariance": step,
        "5 nearest of 1,000 among 55,000 rows of 784 numbers, no structure": nearest,
        "network of a flow, 20,000 points, d = 16": through(flow.net, codes),
        "decoding 2,000 images with convolutions": through(vae.decoder, codes[:2000]),
    }

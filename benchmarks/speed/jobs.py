"""Whole jobs: reduction, sampling, training, neighbours, the parts of a run."""

import contextlib
import importlib.util
import io
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from mixtures import torchs, uncompiled
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from timing import FASHION, HERE, Pair, Row, Task, compared, fastest

import zprime
from zprime.kernels import ExactIndex
from zprime.latent import MixtureSettings, Prior
from zprime.latent import Task as FitTask
from zprime.measure.samples.manifold import manifold, manifold_replicates
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SCIKIT_BRUTE = "scikit-learn NearestNeighbors, brute"
SCIKIT_BEST = "scikit-learn NearestNeighbors, at its best"
GAUSSIANS = "scikit-learn GaussianMixture"
GAUSSIANS_BEST = "scikit-learn GaussianMixture, at its best"


def reduction(train: MemoryPosteriors, heldout: MemoryPosteriors) -> tuple[list[Row], dict[str, object]]:
    """To 100 Gaussians with full covariance; held-out log r at codes of rows that nothing was fitted to.

    scikit-learn fits one draw of each posterior. At its best it computes in single precision and starts from k-means++
    seeds, without k-means.
    """
    plain = MixtureSettings(components=100, covariance="full", restarts=1)  # theirs has one start, too
    rng = stream(0, "reduction")
    codes = heldout.draw(rng=rng)
    one = train.draw(rng=rng).float().numpy()
    held: dict[str, float] = {"exact qbar": float(train.log_prob(codes).mean())}

    def ours(name: str, settings: MixtureSettings) -> None:
        r = settings.fit(FitTask(train, heldout, Prior(train.d), stream(0, "fit"))).distribution
        held[f"ours, {name}"] = float(r.log_prob(codes).mean())

    def peer(name: str, dtype: type, init: str) -> None:
        found = GaussianMixture(100, covariance_type="full", init_params=init, random_state=0).fit(one.astype(dtype))
        held[name] = float(found.score(codes.double().numpy()))

    tasks: dict[str, Task | Callable[[], object]] = {
        GAUSSIANS: Task(partial(peer, "scikit-learn", np.float64, "kmeans"), as_it_comes=True),
        GAUSSIANS_BEST: partial(peer, "scikit-learn, at its best", np.float32, "k-means++"),
    }
    pairs = []
    for how, changed, least in (
        ("EM until it stands still", {}, None),
        ("12 steps of EM", {"iterations": 12, "polish": 0}, 25),
        ("3 passes of minibatches", {"batch": 2000, "polish": 0}, None),
    ):
        job = f"reduction to K = 100, full covariance, {how}"
        tasks[job] = partial(ours, how, replace(plain, **changed))
        pairs += [Pair(job, GAUSSIANS, least), Pair(job, GAUSSIANS_BEST)]
    rows = compared(tasks, pairs, rounds=2)
    print(f"    held-out log r: {held}", flush=True)
    return rows, held


def sampling(posteriors: MemoryPosteriors) -> list[Row]:
    mean, scale, log_weights = posteriors.mean, posteriors.scale, posteriors.log_weights
    n, few, rng = 1_000_000, 50, stream(0, "sampling")
    density = torchs((mean, scale, log_weights))

    def by_hand() -> torch.Tensor:
        i = torch.randint(posteriors.n, (n,), generator=rng)
        return mean[i] + scale[i] * torch.randn(n, posteriors.d, generator=rng)

    job, randn, hand = "1e6 draws of qbar, d = 16", "randn of as many numbers", "torch by hand: randint, rows, randn"
    tasks = {
        "MixtureSameFamily": Task(lambda: density.sample((few,)), n / few),
        hand: by_hand,
        randn: lambda: torch.randn(n, posteriors.d, generator=rng),
        job: lambda: posteriors.sample(n, rng=rng),
    }
    return compared(tasks, [Pair(job, "MixtureSameFamily", 10_000), Pair(job, hand), Pair(job, randn, None, 0.45)])


def training(python: str) -> list[Row]:
    """In an environment that has pythae, zprime and pythae's trainer in one process that takes orders."""
    out = []
    for network, n, epochs in (("mlp", 20_000, 2), ("conv", 4_000, 2)):
        job = f"training, {network}, {n:,} images, {epochs} epochs"
        best = "pythae's trainer, at its best (fused Adam"
        peers = {"pythae's trainer": "pythae", f"{best})": "fused"}
        least: dict[str, float | None] = {"pythae": 1.2}
        if network == "conv":
            peers = {"pythae's trainer, torch's usual layout": "nchw", f"{best}, our layout)": "fused"}
            least = {"nchw": 1.2}  # people's networks have the usual layout
        names = {**peers, job: "ours"}
        with trainer(python, network, n, epochs) as spent:
            tasks = {name: Task(lambda: None) for name in names}
            pairs = [Pair(job, name, least.get(who)) for name, who in peers.items()]
            out += compared(tasks, pairs, lambda name, task, names=names, spent=spent: spent(names[name]))
    return out


@contextlib.contextmanager
def trainer(python: str, network: str, n: int, epochs: int) -> Iterator[Callable[[str], float]]:
    """A process of training.py; what it is asked to train takes so many CPU seconds."""
    command = [python, str(HERE / "training.py"), network, str(n), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "src")}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with (
        tempfile.TemporaryFile("w+") as told,  # a bar of every epoch
        subprocess.Popen(command, stderr=told, **pipes) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def spent(who: str) -> float:
            print(who, file=process.stdin, flush=True)
            line = process.stdout.readline()
            while line and not line.startswith("spent "):  # pythae prints, too
                line = process.stdout.readline()
            if not line:
                told.seek(0)
                raise RuntimeError(f"{' '.join(command)} ended: {told.read()[-200:]}")
            return float(line.split()[1])

        yield spent
        process.stdin.close()


def neighbours(train: MemoryPosteriors, heldout: MemoryPosteriors) -> list[Row]:
    """Exact search among images and among codes, and what is made of distances: shares of rows in balls."""
    data = zprime.load_data(zprime.DataSettings(str(FASHION)), seed=0)
    images = data.rows("train").x.flatten(1), data.rows("heldout").x.flatten(1)
    rng = stream(0, "neighbours")
    codes = train.draw(rng=rng), heldout.draw(rng=rng)
    out = []
    for what, (points, some), m in (("images", images, 1_000), ("images", images, 100), ("codes", codes, 1_000)):
        queries = some[:m].contiguous()
        job = f"5 nearest of {m:,} {what} among {len(points):,}, exact"
        with uncompiled():
            twin = ExactIndex(points)
        tasks: dict[str, Callable[[], object]] = {
            SCIKIT_BRUTE: scikit(points, queries, Search()),
            SCIKIT_BEST: best_search(points, queries),
            "the same in torch": partial(twin.nearest, queries, 5),
            job: partial(ExactIndex(points).nearest, queries, 5),
        }
        if importlib.util.find_spec("faiss"):
            tasks |= {"faiss IndexFlatL2 (float32), at its best": best_faiss(points, queries)}
        out += compared(tasks, [Pair(job, peer) for peer in tasks if peer != job])
    return out + prepared(images) + balls(images[0])


class Search(NamedTuple):
    """How scikit-learn searches: its algorithm, precision and rows a chunk."""

    algorithm: str = "brute"
    dtype: type = np.float32
    chunk: int = 256


def scikit(points: torch.Tensor, queries: torch.Tensor, how: Search) -> Callable[[], object]:
    index = NearestNeighbors(n_neighbors=5, algorithm=how.algorithm).fit(points.numpy().astype(how.dtype))
    asked = queries.numpy().astype(how.dtype)

    def run() -> object:
        with sklearn.config_context(pairwise_dist_chunk_size=how.chunk):
            return index.kneighbors(asked)

    return run


def best_search(points: torch.Tensor, queries: torch.Tensor) -> Callable[[], object]:
    """The fastest of both precisions, several chunks, and in few dimensions trees."""
    ways = [Search(dtype=dtype, chunk=chunk) for dtype in (np.float32, np.float64) for chunk in (256, 1024)]
    if points.shape[1] <= 32:
        ways += [Search(algorithm=name) for name in ("kd_tree", "ball_tree")]
    return best({f"{how.algorithm} {how.dtype.__name__} {how.chunk}": scikit(points, queries, how) for how in ways})


def best_faiss(points: torch.Tensor, queries: torch.Tensor) -> Callable[[], object]:
    """The fastest of several sizes of blocks."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points.numpy())
    asked = queries.numpy()

    def search(rows: int, many: int) -> object:
        faiss.cvar.distance_compute_blas_query_bs, faiss.cvar.distance_compute_blas_database_bs = rows, many
        return index.search(asked, 5)

    sizes = [(4096, 1024), (256, 1024), (256, 4096)]  # the first is its default
    return best({f"{rows} x {many}": partial(search, rows, many) for rows, many in sizes})


def best(ways: dict[str, Callable[[], object]]) -> Callable[[], object]:
    return ways[fastest(ways)]


def prepared(images: tuple[torch.Tensor, torch.Tensor]) -> list[Row]:
    """What is prepared once included."""
    points, queries = images[0], images[1][:1000].contiguous()
    job = "the same, 1,000 images, what is prepared once included"
    tasks = {
        SCIKIT_BRUTE: lambda: scikit(points, queries, Search())(),
        job: lambda: ExactIndex(points).nearest(queries, 5),
    }
    return compared(tasks, [Pair(job, SCIKIT_BRUTE)])


def balls(points: torch.Tensor) -> list[Row]:
    """Precision, recall, density and coverage."""
    if not importlib.util.find_spec("prdc"):
        return []
    from prdc import compute_prdc

    a, b = points[:2000, :256], points[2000:4000, :256]

    def theirs(dtype: torch.dtype) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            compute_prdc(a.to(dtype).numpy(), b.to(dtype).numpy(), 5)

    one = "precision, recall, density, coverage, 2,000 rows of 256"
    many, peer = f"{one}, with 24 replicates for their errors", "prdc"
    tasks = {
        peer: best({"float64": partial(theirs, torch.float64), "float32": partial(theirs, torch.float32)}),
        one: lambda: manifold(a, b),
        many: lambda: manifold_replicates(a, b),
    }
    first, second = compared(tasks, [Pair(one, peer), Pair(many, peer)])
    return [first, replace(second, against="prdc, without errors")]

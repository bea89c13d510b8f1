"""Whole jobs: reduction, sampling, training, neighbours, an audit."""

import contextlib
import importlib.util
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from mixtures import torchs, uncompiled
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from timing import FASHION, HERE, MORE, Row, interleaved

import zprime
from zprime.kernels import ExactIndex
from zprime.latent import MixtureSettings, Prior, Task
from zprime.measure.samples.manifold import manifold, manifold_replicates
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SCIKIT_BRUTE = "scikit-learn NearestNeighbors, brute"


def reduction(train: MemoryPosteriors, heldout: MemoryPosteriors) -> tuple[list[Row], dict[str, object]]:
    """To 100 Gaussians with full covariance; held-out log r at codes of rows that nothing was fitted to."""
    plain = MixtureSettings(components=100, covariance="full", restarts=1)  # theirs has one start, too
    rng = stream(0, "reduction")
    codes = heldout.draw(rng=rng)
    one = train.draw(rng=rng).double().numpy()
    held: dict[str, list[float]] = {"ours": [], "scikit-learn": []}

    def ours() -> None:
        r = settings.fit(Task(train, heldout, Prior(train.d), stream(0, "fit"))).distribution
        held["ours"].append(float(r.log_prob(codes).mean()))

    def peer() -> None:
        found = GaussianMixture(100, covariance_type="full", random_state=0).fit(one)
        held["scikit-learn"].append(float(found.score(codes.double().numpy())))

    against, out, found = "scikit-learn GaussianMixture", [], {"exact qbar": float(train.log_prob(codes).mean())}
    for how, changed, least in (
        ("EM until it stands still", {}, None),
        ("12 steps of EM", {"iterations": 12, "polish": 0}, 25),
        ("3 passes of minibatches", {"batch": 2000, "polish": 0}, None),
    ):
        settings = replace(plain, **changed)
        job = f"reduction to K = 100, full covariance, {how}"
        out.append(interleaved(job, against, ours, peer, least=least, rounds=1))
        found |= {f"ours, {how}": held["ours"][-1], "scikit-learn": held["scikit-learn"][-1]}
    print(f"    held-out log r: {found}", flush=True)
    return out, found


def sampling(posteriors: MemoryPosteriors) -> list[Row]:
    mixture = (posteriors.mean, posteriors.scale, posteriors.log_weights)
    rows, few, rng = 1_000_000, 50, stream(0, "sampling")
    return [
        interleaved(
            "1e6 draws of qbar, d = 16",
            "MixtureSameFamily",
            lambda: posteriors.sample(rows, rng=rng),
            lambda: torchs(mixture).sample((few,)),
            scale=rows / few,
            least=10_000,
        ),
        interleaved(
            "1e6 draws of qbar, d = 16",
            "randn of as many numbers",
            lambda: posteriors.sample(rows, rng=rng),
            lambda: torch.randn(rows, posteriors.d, generator=rng),
            stretch=0.45,
        ),
    ]


def training(pythae: Path) -> list[Row]:
    """In an environment that has pythae, both of them."""

    def spent(who: str, *given: str) -> float:
        command = [str(pythae), str(HERE / "training.py"), who, *given]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "src")}
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return float(out.stdout.split()[-1])

    out = []
    for network, n, epochs, peer in (
        ("mlp", 20_000, 4, "pythae"),
        ("conv", 4_000, 2, "pythae"),
        ("conv", 4_000, 2, "nchw"),
    ):
        given = (network, str(n), str(epochs))
        a, b = [], []
        for _ in range(MORE):
            b.append(spent(peer, *given))
            a.append(spent("ours", *given))
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        job = f"training, {network}, {n:,} images, {epochs} epochs"
        against = "pythae's trainer"
        if network == "conv":
            against += ", torch's usual layout" if peer == "nchw" else ", given our layout"
        least = None if network == "conv" and peer == "pythae" else 1.2  # people's networks have the usual layout
        row = Row(job, against, ratios, statistics.median(a), statistics.median(b), least)
        print(f"{job:52} {row.against:34} {row.ratio:10.2f}  ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
        out.append(row)
    return out


def neighbours(train: MemoryPosteriors, heldout: MemoryPosteriors) -> list[Row]:
    """Exact search among images and among codes, and what is made of distances: shares of rows in balls."""
    data = zprime.load_data(zprime.DataSettings(str(FASHION)), seed=0)
    images = data.rows("train").x.flatten(1), data.rows("heldout").x.flatten(1)
    points, queries = images
    rng = stream(0, "neighbours")
    codes = train.draw(rng=rng), heldout.draw(rng=rng)
    out = []
    for what, (points, some), m in (("images", images, 1_000), ("images", images, 100), ("codes", codes, 1_000)):
        queries = some[:m].contiguous()
        job = f"5 nearest of {m:,} {what} among {len(points):,}, exact"
        brute_force = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(points.numpy())
        with uncompiled():
            twin = ExactIndex(points)
        peers: dict[str, Callable[[], object]] = {
            SCIKIT_BRUTE: partial(brute_force.kneighbors, queries.numpy()),
            "the same in torch": partial(twin.nearest, queries, 5),
        }
        if importlib.util.find_spec("faiss"):
            import faiss

            faiss.omp_set_num_threads(1)
            index = faiss.IndexFlatL2(points.shape[1])
            index.add(points.numpy())
            peers["faiss IndexFlatL2 (float32)"] = partial(index.search, queries.numpy(), 5)
        ours = partial(ExactIndex(points).nearest, queries, 5)
        out += [interleaved(job, against, ours, peer) for against, peer in peers.items()]
    points, queries = images
    job = "the same, 1,000 images, what is prepared once included"

    def fresh() -> None:
        ExactIndex(points).nearest(queries[:1000], 5)

    def peer() -> None:
        NearestNeighbors(n_neighbors=5, algorithm="brute").fit(points.numpy()).kneighbors(queries[:1000].numpy())

    out.append(interleaved(job, SCIKIT_BRUTE, fresh, peer))
    if importlib.util.find_spec("prdc"):
        from prdc import compute_prdc

        a, b = points[:2000, :256], points[2000:4000, :256]

        def theirs() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                compute_prdc(a.double().numpy(), b.double().numpy(), 5)

        job = "precision, recall, density, coverage, 2,000 rows of 256"
        out.append(interleaved(job, "prdc", lambda: manifold(a, b), theirs))
        job += ", with 24 replicates for their errors"
        out.append(interleaved(job, "prdc, without errors", lambda: manifold_replicates(a, b), theirs))
    return out


def auditing(run: Path, pythae: Path) -> list[Row]:
    """The whole audit of a run, beside the time in which pythae fits three samplers to the same model."""
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(pythae), str(HERE / "samplers.py"), str(run), "4"]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**one, "PYTHONPATH": str(HERE.parent / "src")}
    )
    parts: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    against = "pythae fitting mixture, MAF, two-stage"
    print("   ", {k: round(v) for k, v in parts.items()}, flush=True)
    kinds = sum(1 for p in (run / "latent").iterdir() if not p.name.startswith("."))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        shutil.copytree(run, place, ignore=shutil.ignore_patterns("audit", "generator", "report.html"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [str(Path(sys.executable).with_name("zprime")), "--threads", "1", "--quiet", "audit", str(place)]
        subprocess.run(command, check=True, env=one, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    theirs = sum(parts.values())
    row = Row(f"whole audit, {kinds} kinds, {run.name}", against, [theirs / ours], ours, theirs, 1.0, 2.0)
    print(f"{row.job:52} {row.against:34} {row.ratio:10.2f}", flush=True)
    return [row]

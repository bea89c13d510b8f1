"""Speed and memory against what people would use instead: python benchmarks/speed.py (`make bench`).

Ours and the peer take turns, in CPU seconds of one thread, and what is reported is the ratio of neighbours: other work
on the machine slows both. Peers that are slow get fewer points; per point their cost does not depend on how many.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import zprime
from zprime.kernels import DiagonalMixture, ExactIndex, compiled, trainable_mixture_log_prob
from zprime.latent import Aggregated, Gaussian, MixtureSettings, Prior, Task
from zprime.latent.em import ComponentEM
from zprime.latent.gaussian import moments
from zprime.measure.samples.manifold import manifold, manifold_replicates
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
FASHION = Path("/usr/share/datasets/fashion-mnist")
N = 60_000
ROUNDS = 3
MORE = 7  # where a round is short, or its noise as large as what is to be seen
FLOATS = 1 << 23  # of one temporary of MixtureSameFamily, at which it is fastest (tried: 1 to 64 points at once)
Mixture = tuple[Tensor, Tensor, Tensor]
AS_CALLED = "exact log-density, as called"
EVERY_PAIR = "the same, every pair"
IN_TORCH = "the same in torch, without a compiler"
TORCH, SCIKIT = "MixtureSameFamily, at its best", "scikit-learn score_samples"
TORCH_32 = "MixtureSameFamily, 32 points at once"
E_STEP = "E-step of EM, full covariance, d = 16"
PEAK = "FMA peak of the core"
SCIKIT_BRUTE = "scikit-learn NearestNeighbors, brute"


@dataclass(frozen=True)
class Row:
    """One comparison: times are CPU seconds for the same work (the peer's scaled up where it had fewer points)."""

    job: str
    against: str
    ratios: list[float]
    ours: float
    peer: float
    least: float | None = None
    stretch: float | None = None
    unit: str = "x"

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def interleaved(
    job: str,
    against: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    scale: float = 1.0,
    least: float | None = None,
    stretch: float | None = None,
    rounds: int = ROUNDS,
) -> Row:
    """Ratio peer / ours, turn by turn; `scale` times the peer's work would be ours."""
    ours()  # caches, and what is laid out once
    a, b = [], []
    for _ in range(rounds):
        b.append(seconds(peer) * scale)
        a.append(seconds(ours))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    row = Row(job, against, ratios, statistics.median(a), statistics.median(b), least, stretch)
    print(f"{job:52} {against:34} {row.ratio:10.2f}  ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return row


def made(d: int, n: int = N, seed: int = 0) -> Mixture:
    """Posteriors as VAEs have them: scales from 0.05 to 0.4, spread so that their mixture has about unit variance."""
    rng = stream(seed, "made", d)
    scale = torch.empty(n, d).uniform_(math.log(0.05), math.log(0.4), generator=rng).exp()
    return torch.randn(n, d, generator=rng), scale, torch.full((n,), -math.log(n), dtype=torch.float64)


def draw(mixture: Mixture, m: int) -> Tensor:
    mean, scale, _ = mixture
    rng = stream(0, "draw", m)
    i = torch.randint(len(mean), (m,), generator=rng)
    return mean[i] + scale[i] * torch.randn(m, mean.shape[1], generator=rng)


def torchs(mixture: Mixture) -> MixtureSameFamily:
    mean, scale, log_weight = mixture
    parts = Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
    return MixtureSameFamily(Categorical(logits=log_weight.float()), parts, validate_args=False)


def torch_log_prob(mixture: Mixture, z: Tensor) -> Tensor:
    """In chunks of points that it is fastest with."""
    density = torchs(mixture)
    return torch.cat([density.log_prob(b) for b in z.split(max(1, FLOATS // mixture[0].numel()))])


def scikits(mixture: Mixture) -> GaussianMixture:
    mean, scale, log_weight = (t.double().numpy() for t in mixture)
    out = GaussianMixture(len(mean), covariance_type="diag")
    out.weights_, out.means_, out.covariances_ = np.exp(log_weight), mean, scale**2
    out.precisions_cholesky_ = 1 / scale
    return out


def brute(mixture: Mixture) -> DiagonalMixture:
    """Every pair of point and component, in the order given."""

    class Brute(DiagonalMixture):
        def log_prob(self, z: Tensor, **given: object) -> Tensor:
            before, compiled.SORTED = compiled.SORTED, 1 << 62
            try:
                return super().log_prob(z, **given)
            finally:
                compiled.SORTED = before

    return Brute(*mixture)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """The kernels in torch, as without a compiler."""
    before, compiled.module = compiled.module, None
    try:
        yield
    finally:
        compiled.module = before


def in_torch(mixture: Mixture, z: Tensor) -> Tensor:
    with uncompiled():
        return DiagonalMixture(*mixture).log_prob(z)


# What is compared


def densities() -> list[Row]:
    out = []
    sizes = {16: (10_000, 8), 32: (4_000, 4), 64: (2_000, 4), 128: (2_000, 4)}
    for d, (m, few) in sizes.items():
        mixture = made(d)
        z, peer = draw(mixture, m), scikits(mixture)
        called, every = DiagonalMixture(*mixture), brute(mixture)
        some = z[: 20 * few]
        wide = some.double().numpy()
        torchs_own = (lambda mixture=mixture, z=z[:few]: torch_log_prob(mixture, z)), m / few
        torchs_32 = (lambda mixture=mixture, z=z[:32]: torchs(mixture).log_prob(z)), m / 32
        scikits_own = (lambda peer=peer, wide=wide: peer.score_samples(wide)), m / len(wide)
        against_torch = 60 if d == 16 else 250
        against_scikit = {16: 20, 32: 20, 64: 14, 128: 8}[d]
        for job, ours, (other, theirs, scale), least in (
            (AS_CALLED, called.log_prob, (TORCH, *torchs_own), None),
            (AS_CALLED, called.log_prob, (TORCH_32, *torchs_32), against_torch),
            (AS_CALLED, called.log_prob, (SCIKIT, *scikits_own), against_scikit),
            (EVERY_PAIR, every.log_prob, (TORCH, *torchs_own), None),
            (EVERY_PAIR, every.log_prob, (SCIKIT, *scikits_own), None),
            (IN_TORCH, lambda z, mixture=mixture: in_torch(mixture, z), (SCIKIT, *scikits_own), 6),
        ):
            run = lambda ours=ours, z=z: ours(z)  # noqa: E731
            out.append(interleaved(f"{job}, d = {d}", other, run, theirs, scale=scale, least=least))
    return out


def peak(train: MemoryPosteriors) -> list[Row]:
    """Operations a second, as a share of what a loop of nothing but fused multiply-adds reaches at the same moment."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or compiled.module is None or compiled.module.used() != "avx2":
        print("FMA peak: needs a compiler, and the AVX2 kernel in use")
        return []
    out = []
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        flags = ["-O3", "-mavx2", "-mfma", "-ffp-contract=fast"]
        subprocess.run([compiler, *flags, str(HERE / "peak.cpp"), "-o", program], check=True)

        def reached(job: str, against: str, work: float, f: Callable[[], object], least: float | None) -> None:
            f()
            shares, rates, peaks = [], [], []
            for _ in range(MORE):
                highest = float(subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()[0])
                rates.append(work / seconds(f))
                peaks.append(highest)
                shares.append(rates[-1] / highest)
            rate, top = statistics.median(rates), statistics.median(peaks)
            row = Row(job, against, shares, work / rate, work / top, least, None if least is None else 0.85, "of peak")
            print(f"{job:52} {against:34} {row.ratio:10.2f}  ({rate:.0f} of {top:.0f} GFLOP/s)", flush=True)
            out.append(row)

        for d in (16, 32, 64, 128):
            mixture = made(d)
            z, ours = draw(mixture, 4_000), brute(mixture)
            work = 4 * len(z) * N * d / 1e9
            least = 0.5 if d == 16 else 0.65
            reached(f"{EVERY_PAIR}, d = {d}", PEAK, work, lambda ours=ours, z=z: ours.log_prob(z), least)
        for k in (10, 100, 1000):
            step, features = e_step(train, k)
            work = 2 * 4 * train.n * k * features / 1e9  # a float64 counts as two of float32
            reached(f"{E_STEP}, K = {k}", f"{PEAK}, float64", work, step, None)
    return out


def e_step(train: MemoryPosteriors, k: int) -> tuple[Callable[[], object], int]:
    """The statistics of one step of EM, and of how many features they are."""
    em = ComponentEM(train, diagonal=False)
    weights = em._weights(em.start(k, rng=stream(0, "e-step")))
    return lambda: em.data.statistics(em.weight, weights), len(weights)


def expectation(train: MemoryPosteriors) -> list[Row]:
    out = []
    for k in (10, 100, 1000):
        step, _ = e_step(train, k)

        def twin(step: Callable[[], object] = step) -> None:
            with uncompiled():
                step()

        twin()  # makes the features that it keeps
        out.append(interleaved(f"{E_STEP}, K = {k}", "the same in torch", step, twin, rounds=MORE))
    return out


def accuracy() -> list[dict[str, float]]:
    """Largest error against float64 of points near the components, in nats."""
    out = []
    for d in (16, 32, 64, 128, 512):
        for scale in (0.003, 0.03, 0.3, 1.0):
            rng = stream(0, "accuracy", d)
            mean = torch.randn(2_000, d, generator=rng)
            scales = scale * (2 * torch.rand(2_000, d, generator=rng) - 1).exp()
            mixture = (mean, scales, torch.full((2_000,), -math.log(2_000), dtype=torch.float64))
            z = torch.cat([draw(mixture, 300), torch.randn(100, d, generator=rng)])
            wide = [t.double() for t in (z, *mixture)]
            exact = torch.cat([trainable_mixture_log_prob(b, *wide[1:]) for b in wide[0].split(20)])
            error = (DiagonalMixture(*mixture).log_prob(z) - exact).abs()
            naive = (torch_log_prob(mixture, z) - exact).abs()
            relative = 1e-12 * exact.abs()
            out.append(
                {
                    "d": d,
                    "scale": scale,
                    "error": float((error - relative).clamp(min=0).max()),
                    "torch": float(naive.max()),
                }
            )
    worst = max(r["error"] for r in out)
    print(f"float32 against float64: at most {worst:.1e} nats", flush=True)
    return out


def pruning(posteriors: MemoryPosteriors) -> list[Row]:
    mixture = (posteriors.mean, posteriors.scale, posteriors.log_weights)
    ours, all_pairs = DiagonalMixture(*mixture), brute(mixture)
    rng = stream(0, "prior")
    out = []
    for name, z, least in (
        ("qbar", draw(mixture, 10_000), 2.0),
        ("the prior", torch.randn(10_000, posteriors.d, generator=rng), 1.6),
    ):
        out.append(
            interleaved(
                f"certified pruning, points from {name}, 1e-6 nats",
                "own brute force",
                lambda z=z: ours.log_prob(z, tolerance=1e-6),
                lambda z=z: all_pairs.log_prob(z),
                least=least,
                stretch=5.0,
                rounds=5,
            )
        )
        gap = (all_pairs.log_prob(z) - ours.log_prob(z, tolerance=1e-6)).abs()
        print(f"    the two differ by at most {float(gap.max()):.1e} nats (float32 rounding included)")
    return out


def scores(posteriors: MemoryPosteriors) -> list[Row]:
    mixture = (posteriors.mean, posteriors.scale, posteriors.log_weights)
    ours, z = DiagonalMixture(*mixture), draw(mixture, 10_000)

    def autograd() -> None:
        for b in z[:8].split(max(1, FLOATS // mixture[0].numel())):
            point = b.clone().requires_grad_()
            torch.autograd.grad(torchs(mixture).log_prob(point).sum(), point)

    return [
        interleaved(
            "value and score together, d = 16",
            "autograd, MixtureSameFamily",
            lambda: ours.log_prob_and_score(z),
            autograd,
            scale=len(z) / 8,
            least=30,
        ),
        interleaved(
            "value alone: share of value and score, d = 16",
            "own value and score",
            lambda: ours.log_prob_and_score(z),
            lambda: ours.log_prob(z),
            stretch=1 / 1.5,
            rounds=5,
        ),
    ]


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


# How cost grows


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law fitted to the curve, on logs."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(train: MemoryPosteriors, heldout: MemoryPosteriors) -> dict[str, dict[str, object]]:
    out: dict[str, dict[str, object]] = {}

    def curve(name: str, sizes: list[int], run: Callable[[int], Callable[[], object]]) -> None:
        times = []
        for size in sizes:
            f = run(size)
            f()
            times.append(min(seconds(f) for _ in range(ROUNDS)))
        out[name] = {"size": sizes, "seconds": times, "exponent": slope([float(s) for s in sizes], times)}
        print(f"{name:52} exponent {out[name]['exponent']:.2f}", flush=True)

    whole = (train.mean, train.scale, train.log_weights)
    z = draw(whole, 32_000)

    def pruned(mixture: Mixture) -> DiagonalMixture:
        return DiagonalMixture(*mixture)

    for name, kind in (("every pair", brute), ("pruned", pruned)):

        def points(m: int, prepared: DiagonalMixture = kind(whole)) -> Callable[[], object]:
            return lambda: prepared.log_prob(z[:m])

        def components(n: int, kind: Callable[[Mixture], DiagonalMixture] = kind) -> Callable[[], object]:
            some = torch.arange(n) * train.n // n
            prepared = kind((train.mean[some], train.scale[some], train.log_weights[some]))
            return lambda: prepared.log_prob(z[:2_000])

        curve(f"{name}, points M", [500, 2_000, 8_000, 32_000], points)
        curve(f"{name}, components N", [3_000, 6_000, 12_000, 25_000, 50_000], components)

    def dimension(d: int) -> Callable[[], object]:
        mixture = made(d, 20_000)
        prepared, points = brute(mixture), draw(mixture, 2_000)
        return lambda: prepared.log_prob(points)

    curve("every pair, dimension d", [8, 16, 32, 64, 128, 256], dimension)

    def reduce(n: int, k: int) -> Callable[[], object]:
        rows = train.take(torch.arange(n))
        settings = MixtureSettings(components=k, covariance="full", restarts=1)
        return lambda: settings.fit(Task(rows, rows, Prior(rows.d), stream(0, "fit")))

    curve("reduction to 30 Gaussians, posteriors N", [6_000, 12_000, 24_000, 48_000], lambda n: reduce(n, 30))
    curve("reduction of 24,000 posteriors, Gaussians K", [10, 30, 100], lambda k: reduce(24_000, k))
    unseen = {s: heldout.take(torch.arange(i, heldout.n, 2)) for i, s in enumerate(("selection", "heldout"))}

    def whole_audit(n: int) -> Callable[[], object]:
        rows = train.take(torch.arange(n))
        candidates = {"gaussian": Gaussian(*moment_match(rows)), "aggregated": Aggregated(rows.mean, rows.scale)}
        settings = zprime.AuditSettings(rows=200, draws=0)
        return lambda: zprime.audit(candidates, {"train": rows, **unseen}, settings=settings)

    curve("audit without a decoder, posteriors N", [6_000, 12_000, 24_000, 48_000], whole_audit)
    return out


def moment_match(rows: MemoryPosteriors) -> tuple[Tensor, Tensor]:
    mean, covariance = moments(rows)
    return mean.to(rows.mean.dtype), torch.linalg.cholesky(covariance).to(rows.mean.dtype)


# Memory


def used_megabytes(what: str) -> float:
    """Peak of a process of its own, less what it had before the work."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import speed; speed.work({what!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(out.stdout.split()[-1])


def work(what: str) -> None:
    def high() -> float:
        """The process's own; ru_maxrss begins with what its parent had."""
        status = Path("/proc/self/status").read_text()
        return int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) / 1024

    torch.set_num_threads(1)
    mixture = made(16)
    z = draw(mixture, 10_000)
    tiny: Mixture = (mixture[0][:100], mixture[1][:100], mixture[2][:100])
    {"scikit-learn": lambda: scikits(tiny).score_samples(z[:5].double().numpy())}.get(
        what, lambda: DiagonalMixture(*tiny).log_prob(z[:5])
    )()
    before = high()
    if what == "scikit-learn":
        scikits(mixture).score_samples(z[:1000].double().numpy())
    elif what == "torch kernels":
        in_torch(mixture, z[:1000])
    elif what == "MixtureSameFamily":
        torchs(mixture).log_prob(z[:100])
    else:
        DiagonalMixture(*mixture).log_prob(z)
    print(high() - before)


def memory() -> dict[str, float]:
    points = {"compiled": 10_000, "torch kernels": 1_000, "scikit-learn": 1_000, "MixtureSameFamily": 100}
    out = {f"{what}, {m:,} points": used_megabytes(what) for what, m in points.items()}
    for name, megabytes in out.items():
        print(f"peak memory, {name}: {megabytes:.0f} MB", flush=True)
    return out


# Real posteriors


def trained(folder: Path, seed: int = 0) -> tuple[MemoryPosteriors, MemoryPosteriors]:
    """Posteriors of Fashion-MNIST under a small network, trained for five epochs and kept in `folder`."""
    from zprime.posteriors import ShardedPosteriors

    if not (folder / "heldout").exists():
        data = zprime.load_data(zprime.DataSettings(str(FASHION)), seed=seed)
        vae = zprime.VAE.build(data.shape, zprime.VAESettings(latents=16, network="mlp"), seed=seed)
        rows = {split: data.rows(split) for split in ("train", "selection", "heldout")}
        zprime.train(vae, rows["train"], rows["selection"], zprime.TrainSettings(epochs=5), seed=seed)
        for split in ("train", "heldout"):
            zprime.encode(vae, rows[split], folder / split)
    return ShardedPosteriors(folder / "train").gather(), ShardedPosteriors(folder / "heldout").gather()


# The page


def short(x: float) -> str:
    """Three digits, and thousands in full."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def page(found: dict[str, object], rows: list[Row]) -> str:
    sys.path.insert(0, str(HERE.parent / "examples"))
    from pages import table

    lines = []
    for r in rows:
        low, high = min(r.ratios), max(r.ratios)
        spread = f"{short(low)} to {short(high)}" if len(r.ratios) > 1 else "one run"
        verdict = "" if r.least is None else ("reached" if r.ratio >= r.least else "**not reached**")
        goals = [f"{r.least:,g}"] if r.least is not None else []
        goals += [f"(stretch {r.stretch:.2g})"] if r.stretch is not None else []
        lines.append(
            [
                r.job,
                r.against,
                f"{short(r.ratio)} {r.unit}",
                spread,
                " ".join(goals),
                verdict,
                f"{r.ours:.3g}",
                f"{r.peer:.3g}",
            ]
        )
    head = ["job", "against", "ratio", "range", "at least", "", "ours, CPU s", "theirs, CPU s"]
    growing = [
        [
            name,
            f"{float(c['exponent']):.2f}",
            ", ".join(f"{s:,}" for s in c["size"]),
            ", ".join(f"{t:.2g}" for t in c["seconds"]),
        ]
        for name, c in found["growth"].items()
    ]
    errors = [[f"{e['d']}", f"{e['scale']:g}", f"{e['error']:.1e}", f"{e['torch']:.1e}"] for e in found["accuracy"]]
    held = ", ".join(f"{k} {v:.2f}" for k, v in found["heldout"].items())
    used = ", ".join(f"{k}: {v:.0f} MB" for k, v in found["memory"].items())
    took = f", {found['minutes']:.0f} minutes in all" if "minutes" in found else ""
    return "\n\n".join(
        [
            table(head, lines),
            "![Times faster than the peers, by dimension; CPU seconds by components](images/speed.png)",
            f"Held-out log r of the reduction, nats: {held}.",
            f"Peak memory of log-densities under {N:,} components, d = 16, beyond what the process had before: {used}.",
            table(["cost in", "exponent", "sizes", "CPU s"], growing),
            table(["d", "scale", "largest error, nats", "MixtureSameFamily in float32"], errors),
            f"*{found['machine']}; `make bench`, seed 0{took}.*",
        ]
    )


def plots(found: dict[str, object], rows: list[Row]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [r for r in rows if r.job.startswith(AS_CALLED)]
    for against, marker in ((TORCH_32, "^"), (TORCH, "o"), (SCIKIT, "s")):
        some = [r for r in shown if r.against == against]
        x = [int(r.job.split("= ")[1]) for r in some]
        low = [r.ratio - min(r.ratios) for r in some]
        high = [max(r.ratios) - r.ratio for r in some]
        left.errorbar(x, [r.ratio for r in some], yerr=[low, high], marker=marker, capsize=3, label=against)
    left.set(
        xscale="log", yscale="log", xlabel="dimension d", ylabel="times faster", title="log-density, 60,000 components"
    )
    left.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
    left.minorticks_off()
    left.legend()
    for name in ("every pair, components N", "pruned, components N"):
        c = found["growth"][name]
        right.plot(c["size"], c["seconds"], marker="o", label=f"{name.split(',')[0]}: N^{float(c['exponent']):.2f}")
    right.set(xscale="log", yscale="log", xlabel="components N", ylabel="CPU s", title="2,000 points, d = 16")
    right.minorticks_off()
    right.set_xticks(c["size"], [f"{n // 1000},000" for n in c["size"]])
    right.legend()
    figure.savefig(DOCS / "images" / "speed.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posteriors", type=Path, default=HERE.parent / "runs" / "bench", help="kept here, or made")
    parser.add_argument("--pythae", type=Path, help="Python of an environment with pythae and what zprime needs")
    parser.add_argument("--run", type=Path, help="a run of all kinds on Fashion-MNIST, whose audit is timed")
    parser.add_argument("--only", nargs="*", help="groups to measure again; the rest is taken from the last results")
    parser.add_argument("--page", action="store_true", help="write the page from the results there are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # scikit-learn's libraries have threads of their own, which wait in CPU time
    start = time.monotonic()
    train, heldout = trained(args.posteriors)
    store = HERE / "results" / "speed.json"
    groups: dict[str, Callable[[], object]] = {
        "densities": densities,
        "peak": lambda: peak(train),
        "pruning": lambda: pruning(train),
        "scores": lambda: scores(train),
        "sampling": lambda: sampling(train),
        "expectation": lambda: expectation(train),
        "reduction": lambda: reduction(train, heldout),
        "training": lambda: training(args.pythae) if args.pythae else [],
        "neighbours": lambda: neighbours(train, heldout),
        "audit": lambda: auditing(args.run, args.pythae) if args.run and args.pythae else [],
        "accuracy": accuracy,
        "memory": memory,
        "growth": lambda: growth(train, heldout),
    }
    for name, measure in groups.items():
        if args.page or (args.only and name not in args.only):
            continue
        keep(store, name, measure())
    found = json.loads(store.read_text())
    if not args.page and not args.only:
        found["minutes"] = (time.monotonic() - start) / 60
        store.write_text(json.dumps(found, indent=1) + "\n")
    order = [name for name in groups if name in found["rows"]]
    rows = [Row(**r) for name in order for r in found["rows"][name]]
    if all(name in found for name in ("growth", "accuracy", "memory", "heldout")):
        plots(found, rows)
        text = page(found, rows)
        from pages import put

        put(DOCS / "performance.md", "speed", text)
    missed = [f"{r.job} against {r.against}: {r.ratio:.3g}" for r in rows if r.least is not None and r.ratio < r.least]
    print(f"\nbelow what was to be reached: {missed or 'nothing'}")


def keep(store: Path, name: str, result: object) -> None:
    """Put what a group found into the results at once, beside those of other groups."""
    found: dict[str, object] = json.loads(store.read_text()) if store.exists() else {"rows": {}}
    kernel = "torch" if compiled.module is None else compiled.module.used()
    found["machine"] = f"{processor()}, one thread, torch {torch.__version__}, kernels: {kernel}"
    if name == "reduction":
        result, found["heldout"] = result
    if name in ("accuracy", "memory", "growth"):
        found[name] = result
    elif result:
        found["rows"][name] = [asdict(r) for r in result]
    store.write_text(json.dumps(found, indent=1) + "\n")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(": ")[1] for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    )
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


if __name__ == "__main__":
    main()

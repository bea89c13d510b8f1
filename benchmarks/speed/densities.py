"""Densities of mixtures, the E-step, and what they need of memory and err by."""

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from mixtures import FLOATS, Mixture, N, brute, draw, in_torch, made, scikits, torch_log_prob, torchs, uncompiled
from timing import HERE, MORE, Row, interleaved, seconds

from zprime.kernels import DiagonalMixture, LowRankMixture, compiled, trainable_mixture_log_prob
from zprime.latent.em import ComponentEM
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

AS_CALLED = "exact log-density, as called"
EVERY_PAIR = "the same, every pair"
IN_TORCH = "the same in torch, without a compiler"
TORCH, SCIKIT = "MixtureSameFamily, at its best", "scikit-learn score_samples"
TORCH_32 = "MixtureSameFamily, 32 points at once"
E_STEP = "E-step of EM, full covariance, d = 16"
PEAK = "FMA peak of the core"


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


def low_rank() -> list[Row]:
    out = []
    for d, m in ((64, 20_000), (512, 20_000), (4096, 1_000)):
        for k, r in ((1, 16), (10, 4), (50, 16)):
            rng = stream(0, "low rank", d, k)
            mean, z = torch.randn(k, d, generator=rng), torch.randn(m, d, generator=rng)
            scale, factor = 0.5 * (0.3 * torch.randn(k, d, generator=rng)).exp(), torch.randn(k, d, r, generator=rng)
            mixture = LowRankMixture(mean, scale, factor / math.sqrt(r), torch.full((k,), -math.log(k)))
            for job, ours in (("log-density", mixture.log_prob), ("value and score", mixture.log_prob_and_score)):

                def twin(ours: Callable[[torch.Tensor], object] = ours, z: torch.Tensor = z) -> None:
                    with uncompiled():
                        ours(z)

                twin()  # prepares what it keeps
                run = lambda ours=ours, z=z: ours(z)  # noqa: E731
                name = f"{job}, mixture of low rank, d = {d}, K = {k}, rank {r}"
                out.append(interleaved(name, "the same in torch", run, twin, rounds=MORE))
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


def used_megabytes(what: str) -> float:
    """Peak of a process of its own, less what it had before the work."""
    code = f"import sys; sys.path.insert(0, {str(HERE / 'speed')!r}); import densities; densities.work({what!r})"
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

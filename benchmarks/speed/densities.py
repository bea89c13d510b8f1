"""Densities of mixtures, the E-step, and what they need of memory and err by."""

import math
import os
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
from mixtures import Mixture, N, at_its_best, brute, draw, in_blocks, in_torch, made, scikits, torchs, uncompiled
from timing import HERE, MORE, Missing, Pair, Row, Task, compared, interleaved, seconds

from zprime.arrays import blocks
from zprime.kernels import (
    Components,
    DiagonalMixture,
    LowRankMixture,
    Products,
    Whitened,
    compiled,
    diagonal_ratio_form,
    trainable_mixture_log_prob,
)
from zprime.latent.em import ComponentEM
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

AS_CALLED = "exact log-density, as called"
EVERY_PAIR = "the same, every pair"
IN_TORCH = "the same in torch, without a compiler"
TORCH = "MixtureSameFamily, at its best"
TORCH_32 = "MixtureSameFamily, 32 points at once"
SCIKIT_WHOLE = "scikit-learn score_samples, 160 rows at once"
SCIKIT = "scikit-learn score_samples, at its best"
E_STEP = "E-step of EM, full covariance, d = 16"
PEAK = "FMA peak of the core"
BLOCKS = (1, 2, 4, 8, 16)
SCIKIT_BLOCKS = (32, 64, 128, 256, 512)
WIDTHS = {"avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f", "-mfma", "-mprefer-vector-width=512")}


def densities() -> list[Row]:
    out = []
    sizes = {16: 10_000, 32: 4_000, 64: 2_000, 128: 2_000}
    for d, m in sizes.items():
        mixture = made(d)
        z, scikit = draw(mixture, m), scikits(mixture)
        called, every = DiagonalMixture(*mixture), brute(mixture)
        wide = z.double().numpy()
        density = torchs(mixture)
        torch_sizes = [b for b in BLOCKS if b * d <= 16 * 16]  # a number for every row, component and dimension
        names = [f"{job}, d = {d}" for job in (AS_CALLED, EVERY_PAIR, IN_TORCH)]
        ours = {
            names[0]: partial(called.log_prob, z),
            names[1]: partial(every.log_prob, z),
            names[2]: partial(in_torch, mixture, z),
        }
        come = {
            TORCH_32: Task(partial(density.log_prob, z[:32]), m / 32, as_it_comes=True),
            SCIKIT_WHOLE: Task(partial(scikit.score_samples, wide[:160]), m / 160, as_it_comes=True),
        }
        best = {
            TORCH: at_its_best(density.log_prob, z, torch_sizes, m),
            SCIKIT: at_its_best(scikit.score_samples, wide, SCIKIT_BLOCKS, m),
        }
        goals = [
            Pair(names[0], TORCH_32, 60 if d == 16 else 250),
            Pair(names[0], SCIKIT_WHOLE, {16: 20, 32: 20, 64: 14, 128: 8}[d]),
            Pair(names[2], SCIKIT_WHOLE, 6),
        ]
        out += compared(come | ours, goals)
        out += compared(
            best | ours, [Pair(name, peer) for name in names[:2] for peer in best] + [Pair(names[2], SCIKIT)]
        )
    return out


def peak(train: MemoryPosteriors) -> list[Row]:
    """Operations a second, as a share of what a loop of nothing but fused multiply-adds reaches at the same moment."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    kernel = "torch" if compiled.module is None else compiled.module.used()
    if compiler is None or kernel not in WIDTHS:
        raise Missing(f"the FMA peak needs a C++ compiler, and AVX2 or AVX-512 (kernels in use: {kernel})")
    out = []
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        flags = ["-O3", *WIDTHS[kernel], "-ffp-contract=fast"]
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
        out.append(interleaved(f"{E_STEP}, K = {k}", "the same in torch", step, twin))
    return out


def log_ratios(train: MemoryPosteriors) -> list[Row]:
    """E_q[r/p] of a few posteriors beside all components: what draws of q_r are made from, in the audit's blocks."""
    form = diagonal_ratio_form(train.mean, train.scale, train.mean, train.scale)
    components = Components(train.mean, train.scale)
    out = []
    for m in (1, 19, 64):
        mu, s = train.mean[:m], train.scale[:m]

        def twin(mu: torch.Tensor = mu, s: torch.Tensor = s) -> None:
            with uncompiled():
                components.log_ratio(form, mu, s)

        run = lambda mu=mu, s=s: components.log_ratio(form, mu, s)  # noqa: E731
        run()  # lays out what it keeps
        out.append(
            interleaved(f"log-ratios of {m} posteriors to N components, d = {train.d}", "the same in torch", run, twin)
        )
    return out + [full_log_ratios(d, k) for d, k in ((16, 20), (16, 200), (64, 20))]


def full_log_ratios(d: int, k: int, m: int = 200) -> Row:
    """The same beside components with full covariance, in blocks of as many pairs as the audit takes."""
    rng = stream(0, "full log-ratios", d, k)
    mu, s = torch.randn(m, d, generator=rng), torch.rand(m, d, generator=rng).clamp(min=0.05)
    root = torch.randn(k, d, d, generator=rng, dtype=torch.float64) / d**0.5
    tril = torch.linalg.cholesky(root @ root.mT + 0.1 * torch.eye(d))
    products = Products(torch.randn(k, d, generator=rng, dtype=torch.float64), tril)

    def pairs(*, fast: bool) -> None:
        for rows in blocks(m, products.size(fast=fast)):
            products.beside(mu[rows], s[rows], fast=fast)

    if not products.fast(mu, s):
        raise Missing("the compiled kernel does not take these posteriors")
    job = f"log-ratios of {m} posteriors to {k} components of full covariance, d = {d}"
    return interleaved(job, "the same in torch", lambda: pairs(fast=True), lambda: pairs(fast=False))


def low_rank() -> list[Row]:
    out = []
    for d, m in ((64, 20_000), (512, 20_000), (4096, 1_000)):
        for k, r in ((1, 16), (10, 4), (50, 16)):
            rng = stream(0, "low rank", d, k)
            mean, z = torch.randn(k, d, generator=rng), torch.randn(m, d, generator=rng)
            scale, factor = 0.5 * (0.3 * torch.randn(k, d, generator=rng)).exp(), torch.randn(k, d, r, generator=rng)
            mixture = LowRankMixture(mean, scale, factor / math.sqrt(r), torch.full((k,), -math.log(k)))
            for job, ours in (("log-density", mixture.log_prob), ("value and score", mixture.log_prob_and_score)):
                out.append(_beside_torch(f"{job}, mixture of low rank, d = {d}, K = {k}, rank {r}", ours, z))
    return out


def full() -> list[Row]:
    out = []
    for d, k, m in ((16, 20, 20_000), (16, 200, 20_000), (64, 50, 5_000), (512, 10, 1_000)):
        rng = stream(0, "full", d, k)
        mean, z = torch.randn(k, d, generator=rng), torch.randn(m, d, generator=rng)
        factor = torch.eye(d) + torch.tril(0.2 * torch.randn(k, d, d, generator=rng) / math.sqrt(d), -1)
        mixture = Whitened(mean, factor, torch.full((k,), -math.log(k)))
        out.append(_beside_torch(f"log-density, mixture of full covariance, d = {d}, K = {k}", mixture.log_prob, z))
    return out


def _beside_torch(name: str, ours: Callable[[torch.Tensor], object], z: torch.Tensor) -> Row:
    """A density as it is called, and without what was compiled."""

    def twin() -> None:
        with uncompiled():
            ours(z)

    twin()  # prepares what it keeps
    return interleaved(name, "the same in torch", lambda: ours(z), twin)


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
            naive = (torch.cat(in_blocks(torchs(mixture).log_prob, z, 8)) - exact).abs()
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
            )
        )
        gap = (all_pairs.log_prob(z) - ours.log_prob(z, tolerance=1e-6)).abs()
        print(f"    the two differ by at most {float(gap.max()):.1e} nats (float32 rounding included)")
    return out


def scores(posteriors: MemoryPosteriors) -> list[Row]:
    mixture = (posteriors.mean, posteriors.scale, posteriors.log_weights)
    ours, z = DiagonalMixture(*mixture), draw(mixture, 10_000)
    density = torchs(mixture)

    def autograd(some: torch.Tensor) -> None:
        point = some.clone().requires_grad_()
        torch.autograd.grad(density.log_prob(point).sum(), point)

    both, own, peer = (
        "value and score together, d = 16",
        "own value and score",
        "autograd, MixtureSameFamily, at its best",
    )
    value = "value alone"
    tasks = {
        peer: at_its_best(autograd, z, BLOCKS, len(z)),
        both: lambda: ours.log_prob_and_score(z),
        value: lambda: ours.log_prob(z),
    }
    one, other = compared(tasks, [Pair(both, peer, 30), Pair(both, value, None, 1 / 1.2)])
    return [one, replace(other, job=f"{value}: share of value and score, d = 16", against=own)]


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

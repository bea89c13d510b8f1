"""How cost grows with points, components, dimensions and posteriors."""

from collections.abc import Callable

import numpy as np
import torch
from mixtures import Mixture, brute, draw, made
from timing import ROUNDS, seconds
from torch import Tensor

import zprime
from zprime.kernels import DiagonalMixture
from zprime.latent import Aggregated, Gaussian, MixtureSettings, Prior, Task
from zprime.latent.gaussian import moments
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def shortest(f: Callable[[], object]) -> float:
    """CPU seconds: the least of four times, or of fewer where these take more than 3 s together."""
    times = [seconds(f)]
    while len(times) <= ROUNDS and sum(times) < 3:
        times.append(seconds(f))
    return min(times)


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law fitted to the curve, on logs."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(train: MemoryPosteriors, heldout: MemoryPosteriors) -> dict[str, dict[str, object]]:
    out: dict[str, dict[str, object]] = {}

    def curve(name: str, sizes: list[int], run: Callable[[int], Callable[[], object]]) -> None:
        times = []
        for size in sizes:
            times.append(shortest(run(size)))
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

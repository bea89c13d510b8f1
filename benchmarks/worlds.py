"""Data sets whose truth is known, with a model of each: what verdict.py and alarms.py audit, and before.py again.

Only names that the code had at the commit `before.BEFORE` too, so that the same data sets can be audited there.
"""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from models import Bent, bent
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import bimodal
from oracles import LinearGaussian, linear_gaussian, maximum_likelihood
from zprime.data import Rows
from zprime.latent import MixtureSettings
from zprime.latent.kind import Settings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.vae import VAE

MODEL = linear_gaussian(D=5, d=2, var=0.05)
SIZES = {"train": 500, "selection": 300, "heldout": 300}
TWO_MODES = {"train": 1000, "selection": 300, "heldout": 300}
FEWER = {"train": 300, "selection": 200, "heldout": 200}
SMALL = {"train": 300, "selection": 50, "heldout": 50}
DEFAULT: Mapping[str, Settings | str] = {k: k for k in ("gaussian", "mixture", "aggregated")}
THIRTEEN: Mapping[str, Settings | str] = {
    **{k: k for k in ("gaussian", "aggregated", "exemplars")},
    **{f"mixture-{k}": MixtureSettings(components=k) for k in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)},
}
TWO: Mapping[str, Settings | str] = {k: k for k in ("gaussian", "mixture")}
HOLES = (0.1, 0.3, 1.0)
WRONG = 0.7
BLOCK = 100  # rows whose posteriors are found by quadrature at once


class World(NamedTuple):
    """A model, and rows with their posteriors by split; `groups` where rows of a group share their z."""

    model: VAE
    rows: dict[str, Rows]
    posteriors: dict[str, MemoryPosteriors]
    groups: dict[str, Tensor] | None = None


Make = Callable[[int], World]
"""Of a seed."""

Case = tuple[Make, Mapping[str, Settings | str]]
"""A world, and the kinds that are fitted to it."""


def hole(a: float) -> float:
    """KL of two equal clumps N(+-a, 1 - a^2) from N(0, 1), in nats, by quadrature."""
    z = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    log_r = clumps(z, a, 1 - a * a)
    log_p = -0.5 * (z.square() + math.log(2 * math.pi))
    return float((log_r.exp() * (log_r - log_p)).sum() * (z[1] - z[0]))


def clumps(z: Tensor, a: float, var: float) -> Tensor:
    parts = torch.stack([-0.5 * (z - s * a).square() / var for s in (-1, 1)])
    return torch.logsumexp(parts, 0) - math.log(2) - 0.5 * math.log(2 * math.pi * var)


def place(size: float) -> float:
    """How far apart the clumps must be for a hole of this size: by bisection."""
    low, high = 0.0, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hole(middle) < size else (low, middle)
    return low


def seen(a: float) -> float:
    """What x shows of the hole, E log p_r(x) - log p_p(x): the KL of the same clumps with the noise of x added."""
    noise = MODEL.var / float(MODEL.gram[0])
    z = torch.linspace(-15, 15, 60001, dtype=torch.float64)
    log_r = clumps(z, a, 1 - a * a + noise)
    log_p = -0.5 * (z.square() / (1 + noise) + math.log(2 * math.pi * (1 + noise)))
    return float((log_r.exp() * (log_r - log_p)).sum() * (z[1] - z[0]))


def data(seed: int, split: str, a: float) -> Tensor:
    rng = stream(seed, "verdict", split)
    n = SIZES[split]
    z = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    side = 2 * (torch.rand(n, generator=rng) < 0.5).double() - 1
    z[:, 0] = a * side + math.sqrt(1 - a * a) * z[:, 0]
    noise = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    return z @ MODEL.weight.T + MODEL.bias + math.sqrt(MODEL.var) * noise


def encoded(model: VAE, x: Mapping[str, Tensor], groups: dict[str, Tensor] | None = None) -> World:
    """With what the model's encoder makes of the rows."""
    rows, posteriors = {}, {}
    for split, values in x.items():
        ids = torch.arange(len(values))
        pairs = [model.encode(block) for block in values.split(BLOCK)]
        mean, scale = (torch.cat([pair[i] for pair in pairs]).contiguous() for i in (0, 1))
        rows[split] = Rows(split, values, ids)
        posteriors[split] = MemoryPosteriors(mean, scale, row_ids=ids)
    return World(model, rows, posteriors, groups)


def fitted(a: float = 0.0, widen: float = 1.0, rows: int = 300) -> Make:
    """A model at its maximum-likelihood solution, on data with a hole of its own."""

    def made(seed: int) -> World:
        x = {s: data(seed, s, a)[: rows if s != "train" else None] for s in SIZES}
        return encoded(maximum_likelihood(x["train"], 2)[0].vae(widen=widen), x)

    return made


def linear(d: int, var: float, sizes: Mapping[str, int] = FEWER, group: int = 1) -> Make:
    """Rows from a linear-Gaussian model, with exact posteriors; rows of a group share their z."""

    def made(seed: int) -> World:
        model = linear_gaussian(D=6, d=d, var=var)
        x = {split: grouped(model, seed, split, n * group, group) for split, n in sizes.items()}
        groups = None
        if group > 1:  # names that differ between splits
            groups = {s: 10_000 * i + torch.arange(len(v)) // group for i, (s, v) in enumerate(x.items())}
        rows = {s: Rows(s, v, torch.arange(len(v))) for s, v in x.items()}
        posteriors = {s: MemoryPosteriors(*model.posterior(v), row_ids=torch.arange(len(v))) for s, v in x.items()}
        return World(model.vae(), rows, posteriors, groups)

    return made


def grouped(model: LinearGaussian, seed: int, split: str, n: int, group: int) -> Tensor:
    """Rows of the model; those of a group have one z."""
    rng = stream(seed, "alarms", split)
    z = torch.randn(n // group, model.weight.shape[1], generator=rng, dtype=torch.float64).repeat_interleave(group, 0)
    noise = torch.randn(n, len(model.bias), generator=rng, dtype=torch.float64)
    return z @ model.weight.T + model.bias + model.var**0.5 * noise


def duplicated(make: Make, share: float) -> Make:
    """The same with a share of the selection and held-out rows replaced by training rows."""

    def made(seed: int) -> World:
        world = make(seed)
        x = {s: r.x.clone() for s, r in world.rows.items()}
        for split in ("selection", "heldout"):
            n = round(share * len(x[split]))
            at = torch.randperm(len(x["train"]), generator=stream(seed, "duplicated", split))[:n]
            x[split][:n] = x["train"][at]
        return encoded(world.model, x)

    return made


def two_modes(d: int, sizes: Mapping[str, int]) -> Make:
    """x = (|z1|, z2, ...) + 0.1 noise: the encoder has one mode of two, and r is hardly better than p anywhere."""

    def made(seed: int) -> World:
        rows, posteriors = bimodal.data(seed, d, **sizes)
        return World(bimodal.vae(d), rows, posteriors)

    return made


def not_linear(sizes: Mapping[str, int]) -> Make:
    """Rows of a decoder that is not linear; q has the mean and the standard deviations of the exact posterior."""

    def made(seed: int) -> World:
        model, x = bent(), {}
        for split, n in sizes.items():
            rng = stream(seed, "not linear", split)
            clean = Bent()(torch.randn(n, 2, generator=rng, dtype=torch.float64))
            noise = torch.randn(clean.shape, generator=rng, dtype=torch.float64)
            x[split] = clean + float(model.likelihood.log_scale.exp()) * noise
        return encoded(model, x)

    return made


def verdict_cases() -> dict[str, Case]:
    """Name -> what benchmarks/verdict.py audits."""
    found: dict[str, Case] = {
        "r = p is true": (fitted(), DEFAULT),
        f"r = p is true, scales of q times {WRONG}": (fitted(widen=WRONG), DEFAULT),
        "r = p is true, 50 rows a split": (fitted(rows=50), DEFAULT),
        "r = p is true, 50 rows a split, 13 candidates": (fitted(rows=50), THIRTEEN),
        "r = p is true, decoder not linear": (not_linear(SIZES), DEFAULT),
    }
    found |= {f"two modes, one encoded, {d} latents": (two_modes(d, TWO_MODES), DEFAULT) for d in (2, 6, 8, 16)}
    return found | {f"a hole of {h:g} nats": (fitted(place(h)), DEFAULT) for h in HOLES}


def alarm_cases() -> dict[str, Case]:
    """Name -> what benchmarks/alarms.py audits."""
    lines = ((1, 1.0), (2, 0.3), (4, 0.05))
    found: dict[str, Case] = {f"linear, {d} latents, noise variance {v:g}": (linear(d, v), TWO) for d, v in lines}
    return found | {
        "linear, 2 latents, 50 rows a split": (linear(2, 0.3, SMALL), TWO),
        "linear, 2 latents, groups of 5": (linear(2, 0.3, group=5), TWO),
        "two modes, one encoded, 2 latents": (two_modes(2, FEWER), TWO),
        "not linear, 2 latents": (not_linear(FEWER), TWO),
    }


def duplicate_cases() -> dict[str, Case]:
    """Name -> rows of which some equal training rows, in selection and held-out split; linear, 4 latents."""
    kinds = {k: k for k in ("gaussian", "mixture", "aggregated", "exemplars")}
    return {f"{100 * s:g} % duplicates": (duplicated(linear(4, 0.05), s), kinds) for s in (0.005, 0.05, 0.3)}

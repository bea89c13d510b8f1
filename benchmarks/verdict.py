"""False alarms and power of *leave the prior*: `make bench-verdict`.

Every data set gets a linear-Gaussian VAE at its maximum-likelihood solution (Tipping & Bishop 1999) with exact
posteriors, real fits of gaussian, mixture and aggregated, and a whole audit. Where the data are Gaussian, r(z) = p(z)
is true; a hole is planted by drawing z1 from two clumps with mean 0 and variance 1. Harder cases: an encoder that has
one mode of two; small splits; many candidates; gains with heavy tails; rows in groups.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness import by_seed

import bimodal
from oracles import linear_gaussian, maximum_likelihood
from zprime.auditing import audit
from zprime.data import Rows
from zprime.fitting import fit
from zprime.latent import MixtureSettings
from zprime.latent.kind import Settings
from zprime.latent.selection import TIE
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.statistics.betting import bet
from zprime.statistics.design import Design
from zprime.vae import VAE

MODEL = linear_gaussian(D=5, d=2, var=0.05)
SIZES = {"train": 500, "selection": 300, "heldout": 300}
DEFAULT: Mapping[str, Settings | str] = {k: k for k in ("gaussian", "mixture", "aggregated")}
THIRTEEN: Mapping[str, Settings | str] = {
    **{k: k for k in ("gaussian", "aggregated", "exemplars")},
    **{f"mixture-{k}": MixtureSettings(components=k) for k in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)},
}
SETTINGS = AuditSettings(rows=300, draws=120, grid=1, map=1, simulated=0, samples=0)
HOLES = (0.1, 0.3, 1.0)
WRONG = 0.7


Case = Callable[[int], tuple[str, str, float]]
"""Of a seed: decision, choice and held-out gain."""


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


Found = tuple[str, str, float]


def linear(a: float = 0.0, widen: float = 1.0, rows: int = 300, kinds: Mapping[str, Settings | str] = DEFAULT) -> Case:
    """A model at its maximum-likelihood solution, on data with a hole of its own."""

    def found(seed: int) -> Found:
        x = {s: data(seed, s, a)[: rows if s != "train" else None] for s in SIZES}
        model, _ = maximum_likelihood(x["train"], 2)
        vae = model.vae(widen=widen)
        posteriors = {s: MemoryPosteriors(*(v.contiguous() for v in vae.encode(v))) for s, v in x.items()}
        rows_of = {s: Rows(s, v, torch.arange(len(v))) for s, v in x.items()}
        return audited(vae, rows_of, posteriors, kinds, seed)

    return found


def two_modes(d: int) -> Case:
    """x = (|z1|, z2, ...) + 0.1 noise: the encoder has one mode of two, and r is hardly better than p anywhere."""

    def found(seed: int) -> Found:
        rows, posteriors = bimodal.data(seed, d, train=1000, selection=300, heldout=300)
        return audited(bimodal.vae(d), rows, posteriors, DEFAULT, seed)

    return found


def audited(
    model: VAE,
    rows: Mapping[str, Rows],
    posteriors: Mapping[str, MemoryPosteriors],
    kinds: Mapping[str, Settings | str],
    seed: int,
) -> Found:
    """Fit, audit, and read the verdict."""
    train, selection = posteriors["train"], posteriors["selection"]
    fits = {name: fit(k, train, selection=selection, seed=seed) for name, k in kinds.items()}
    v = audit(fits, posteriors, model=model, rows=rows, settings=SETTINGS, seed=seed).verdict
    return v.decision, v.choice, 0.0 if v.heldout is None else v.heldout.value


def planted(share: float, rows: int, kinds: int) -> Case:
    """Gains of +0.3, and of log e in few rows, with mean 0, for every candidate and split: only the rule is run."""
    rare = {0.01: 0.0619, 0.1: 0.1085}[share]

    def found(seed: int) -> Found:
        def values(name: str) -> Tensor:
            lost = torch.rand(rows, generator=stream(seed, "planted", name), dtype=torch.float64) < rare
            return torch.where(lost, math.log(share), 0.3)

        best = max(range(kinds), key=lambda k: float(values(f"selection {k}").mean()))
        heldout = values(f"heldout {best}")
        leave = bet(heldout, torch.arange(rows), bound=-math.log(share)).passed and float(heldout.mean()) > TIE
        return "leave the prior" if leave else "keep the prior", "r" if leave else "prior", float(heldout.mean())

    return found


def grouped(size: int) -> Case:
    """Gains with mean 0 that the rows of a group share, 300 rows: groups are bet on as one."""

    def found(seed: int) -> Found:
        rng = stream(seed, "grouped", size)
        groups = torch.arange(300) // size
        shared = torch.randn(300 // size, generator=rng, dtype=torch.float64)
        values = (shared[groups] + 0.3 * torch.randn(300, generator=rng, dtype=torch.float64)).clamp(min=-4)
        leave = bet(values, torch.arange(300), bound=-math.log(0.01), design=Design(groups=groups)).passed
        leave = leave and float(values.mean()) > TIE
        return "leave the prior" if leave else "keep the prior", "r" if leave else "prior", float(values.mean())

    return found


def cases() -> dict[str, Case]:
    """Name -> what is run with one seed."""
    found = {
        "r = p is true": linear(),
        f"r = p is true, scales of q times {WRONG}": linear(widen=WRONG),
        "r = p is true, 50 rows a split": linear(rows=50),
        "r = p is true, 50 rows a split, 13 candidates": linear(rows=50, kinds=THIRTEEN),
    }
    found |= {f"two modes, one encoded, {d} latents": two_modes(d) for d in (2, 6, 8, 16)}
    for share in (0.01, 0.1):
        for rows in (50, 300, 1000):
            for kinds in (1, 13):
                found[f"planted mean 0, log {share:g} in few rows, {rows} rows, {kinds} candidates"] = planted(
                    share, rows, kinds
                )
    found |= {f"planted mean 0, groups of {size}": grouped(size) for size in (5, 10)}
    return found | {f"a hole of {h:g} nats": linear(place(h)) for h in HOLES}


def main() -> None:
    by_seed(str(__doc__).splitlines()[0], "verdict", cases(), table)


def table(kept: dict[str, list[list[object]]]) -> str:
    sizes = ", ".join(f"{n} {s}" for s, n in SIZES.items())
    heads = ("data", "seen, nats", "data sets", "leave the prior", "keep", "undecided", "chosen", "mean held-out gain")
    lines = [
        "# The verdict by likelihood: false alarms and power",
        "",
        f"Linear-Gaussian models at their maximum-likelihood solution, {sizes} rows, two latents, five pixels; fits of "
        f"{', '.join(DEFAULT)} with default settings; {SETTINGS.draws} draws and {SETTINGS.exchange} simulated rows; "
        "seeds 0, 1, ... A hole is KL(r‖p) of the latent distribution that made the data; *seen* is what x shows of "
        "it, E[log p_r(x) - log p(x)]. *Two modes*: x = (|z1|, z2, ...) + 0.1 noise and an encoder with one mode of "
        "two, 1,000 training rows; the exact gain is below 0.05 nats. *Planted*: gains, on which the rule alone is "
        "run; the exchange check counts as passed. Rates with their 95 % Wilson intervals.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    for name, found in kept.items():
        n = len(found)
        counts = Counter(str(f[0]) for f in found)
        left = counts["leave the prior"]
        interval = binomtest(left, n).proportion_ci(method="wilson")
        chosen = ", ".join(f"{k} {c}" for k, c in Counter(str(f[1]) for f in found if f[1] != "prior").most_common())
        gains = [float(f[2]) for f in found if f[0] == "leave the prior"]  # type: ignore[arg-type]
        mean = f"{sum(gains) / len(gains):+.3f}" if gains else "-"
        rate = f"{left / n:.1%} ({interval.low:.1%} to {interval.high:.1%})"
        kept_, open_ = counts["keep the prior"] / n, counts["undecided"] / n
        size = next((h for h in HOLES if name == f"a hole of {h:g} nats"), 0.0)
        visible = abs(seen(place(size))) if size else 0.0
        lines.append(
            f"| {name} | {visible:.3f} | {n} | {rate} | {kept_:.1%} | {open_:.1%} | {chosen or '-'} | {mean} |"
        )
    lines += ["", "False alarms, tested against 5 % (one-sided binomial):"]
    for name, found in kept.items():
        if not name.startswith("a hole"):
            left = sum(f[0] == "leave the prior" for f in found)
            p = binomtest(left, len(found), 0.05, alternative="greater").pvalue
            lines.append(f"{name}: {left} of {len(found)}, p = {p:.3f}{'' if p > 0.05 else ' **above 5 %**'}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

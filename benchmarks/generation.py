"""False alarms and coverage of the samples side: `make bench-generation`.

Rows come from four clumps of a known distribution, or from one Gaussian, so equal samples are equal in law. Fidelity
depends on the size of the samples: its truth is the mean of the same figure over 2,000 further pairs of samples of that
size. Candidates for the verdict are true draws, so that leaving the prior is a false alarm.
"""

import functools

import torch
from harness import Found, main, p_value, row
from torch import Tensor

from zprime.latent import Gaussian
from zprime.measure.latents.drift import drift
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.copying import TrainingSet, copying
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.frechet import frechet
from zprime.measure.samples.labels import label_coverage
from zprime.measure.samples.manifold import NAMES, manifold
from zprime.measure.samples.sliced import sliced
from zprime.measure.study import Split
from zprime.measure.verdicts.generation import decide_generation
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.statistics.resampling import About

DOUBLE = torch.float64
N = 200
TRAIN = 400
FEATURES = 6
TRUTHS = 2000
CENTRES = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]], dtype=DOUBLE)
NOTES = (
    f"Seeds 0, 1, ...; {N} rows in each sample ({FEATURES} features, four clumps), {TRAIN} training rows for copying. "
    f"`equal`: both samples from one distribution; `blurred`: clumps half as wide; `three modes`: one clump missing; "
    f"`junk`: a tenth of the rows far away. The truth of a fidelity figure is its mean over {TRUTHS:,} more pairs of "
    "samples of this size; that of copying is 1/2 and 1/20, on average over training sets. A p-value counts as held if "
    "it raises no alarm at 5 %, the verdict if it does not leave the prior for an equal candidate, and the gate of "
    "copying if an honest sample passes."
)


def clumps(n: int, rng: torch.Generator, *, modes: int = 4, blur: float = 1.0, junk: float = 0.0) -> Tensor:
    """Rows of four clumps, or fewer, or narrower ones; with a share of junk."""
    x = blur * torch.randn(n, FEATURES, generator=rng, dtype=DOUBLE)
    x[:, :2] += CENTRES[torch.randint(modes, (n,), generator=rng)]
    away = torch.rand(n, generator=rng) < junk
    x[away] = 25 + 6 * torch.randn(int(away.sum()), FEATURES, generator=rng, dtype=DOUBLE)
    return x


CASES: dict[str, dict[str, float]] = {
    "equal": {},
    "blurred": {"blur": 0.5},
    "three modes": {"modes": 3},
    "junk": {"junk": 0.1},
}


def pair(seed: int, case: str, *names: str) -> tuple[Tensor, Tensor]:
    rng = stream(seed, "generation benchmark", case, *names)
    return clumps(N, rng), clumps(N, rng, **CASES[case])  # type: ignore[arg-type]


@functools.cache
def truth(case: str) -> dict[str, float]:
    """Means of the figures themselves, at this sample size."""
    total: dict[str, float] = {}
    for seed in range(TRUTHS):
        real, fake = pair(seed, case, "truth")
        found = dict(zip(NAMES, manifold(real, fake).tolist(), strict=True))
        found |= {"frechet": frechet(real, fake), "sliced": sliced(real, fake)}
        total = {k: total.get(k, 0.0) + v / TRUTHS for k, v in found.items()}
    return total


def fidelities(seed: int) -> Found:
    """Intervals of every figure on samples of four kinds."""
    out: Found = []
    for case in CASES:
        real, fake = pair(seed, case)
        found = fidelity(real, fake, split="heldout", seed=seed).fidelity
        for name, value in truth(case).items():
            out.append(row(f"{name}, {case}", getattr(found, name), value))
        if case == "equal":
            out.append(p_value("classifier test, equal", found.told_apart.p_value))
    return out


def differences(seed: int) -> Found:
    """Two equal candidates beside the same real rows: differences whose truth is 0."""
    rng = stream(seed, "generation benchmark", "differences")
    real = clumps(N, rng)
    a, b = (fidelity(real, clumps(N, rng), split="heldout", seed=seed) for _ in range(2))
    about = About(N, "heldout", seed)
    gaps = {"frechet": (a.frechet - b.frechet).estimate(0, about, unit="")}
    gaps |= {name: (a.manifold - b.manifold).estimate(i, about, unit="") for i, name in enumerate(NAMES)}
    return [row(f"difference of {name}, two equal candidates", e, 0.0) for name, e in gaps.items()]


def copies(seed: int) -> Found:
    """An honest sample, a training set of its own each time."""
    rng = stream(seed, "generation benchmark", "copies")
    train = clumps(TRAIN, rng)
    data = TrainingSet(train, train[:, :2], reference=N, seed=seed)
    c = copying(data.neighbours(clumps(N, rng)), data.neighbours(clumps(N, rng)), seed=seed)
    return [
        row("copying: chance, all regions", c.auc, 0.5),
        row("copying: chance, within regions", c.regional, 0.5),
        row("copying: share nearer than 5 %", c.near, 0.05),
        row("copying: share nearer to one row", c.singled, 0.05),
        row("copying: Z_U", c.z_u, 0.0),
        row("copying: C_T", c.c_t, 0.0),
        ("copying: the gate lets an honest sample pass", 0.5, 1.0, float(c.status == "passes")),
    ]


def labels(seed: int) -> Found:
    """Labels of equal samples: shares, and no label missing."""
    rng = stream(seed, "generation benchmark", "labels")
    real, fake = (torch.randint(4, (N,), generator=rng) for _ in range(2))
    found = label_coverage(real, fake, torch.arange(4), split="heldout", seed=seed)
    return [
        row("proportion of a label", found.proportions["0"], 0.25),
        ("labels: none is called missing", 0.5, 1.0, float(not found.missing)),
    ]


def drifts(seed: int) -> Found:
    """New rows that are like the old ones."""
    rng = stream(seed, "generation benchmark", "drift")

    def codes(n: int) -> MemoryPosteriors:
        mean = 0.9 * torch.randn(n, 3, generator=rng, dtype=DOUBLE)
        return MemoryPosteriors(mean, torch.full((n, 3), 0.4, dtype=DOUBLE))

    r = Gaussian(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
    d = drift(r, Split("new rows", codes(100)), Split("heldout", codes(150)), source="r", rng=rng)
    return [
        p_value("drift: log r", d.density_p),
        p_value("drift: moments", d.moments_p),
        p_value("drift: least dimension (Holm)", d.dimensions[0].p_value),
        p_value("drift: the three together", d.p_value),
        row("drift: change of log r", d.log_density, 0.0),
    ]


def verdicts(seed: int) -> Found:
    """The prior and two candidates draw from the truth: leaving the prior is a false alarm."""
    rng = stream(seed, "generation benchmark", "verdict")
    selection, heldout = clumps(N, rng), clumps(N, rng)

    def beside(real: Tensor, split: str) -> Compared:
        return fidelity(real, clumps(N, rng), split=split, seed=seed)

    names = ("prior", "a", "b")
    contenders = [Contender(n, n, 100 * (n != "prior"), "passes", beside(selection, "selection"), []) for n in names]
    v = decide_generation(
        contenders,
        lambda _: Confirmed(beside(heldout, "heldout")),
        Controls(beside(heldout, "heldout"), beside(heldout, "heldout"), tested=True),
        space="pixels",
        seed=seed,
    )
    return [
        ("verdict: equal candidates do not displace the prior", 0.5, 1.0, float(v.choice == "prior")),
        ("verdict: a good decoder is not blamed", 0.5, 1.0, float(v.decision != "none of these")),
        ("verdict: nobody is said to lose modes", 0.5, 1.0, float("loses modes" not in v.ranking.values())),
    ]


GROUPS = {
    "fidelity": fidelities,
    "differences": differences,
    "copying": copies,
    "labels": labels,
    "drift": drifts,
    "verdict": verdicts,
}

if __name__ == "__main__":
    main("Samples and their verdict: false alarms, and coverage of 95 % intervals", "generation", GROUPS, NOTES)

"""False alarms of the x' side: *copies*, *none of these* and *leave the prior* where none is right.

`make bench-alarms`. Models that are true of their rows, with exact posteriors, and one with an encoder that misses a
mode. The prior is right everywhere; no sample copies; no decoder is at fault.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness import by_seed

import bimodal
from oracles import LinearGaussian, linear_gaussian
from zprime.data import Rows
from zprime.fitting import fit
from zprime.latent import Prior
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.samples.side import measure_samples
from zprime.measure.study import Study, gather
from zprime.measure.verdicts.generation import decide_generation
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.vae import VAE

SETTINGS = AuditSettings(samples=400, grid=4, simulated=0, features="pixels")
SIZES = {"train": 300, "selection": 200, "heldout": 200}
SMALL = {"train": 300, "selection": 50, "heldout": 50}
KINDS = ("gaussian", "mixture")

Case = Callable[[int], tuple[str, list[str]]]
"""Of a seed: the decision, and the copying status of every candidate."""


def judged(
    model: VAE, rows: dict[str, Rows], posteriors: dict[str, MemoryPosteriors], seed: int, group: int
) -> tuple[str, list[str]]:
    """Fit, measure samples, and read the verdict."""
    groups = None
    if group > 1:  # names that differ between splits
        groups = {s: 10_000 * i + torch.arange(len(r)) // group for i, (s, r) in enumerate(rows.items())}
    train, selection, heldout = gather(posteriors, rows, groups)
    study = Study(train, selection, heldout, prior=Prior(train.posteriors.d), model=model, settings=SETTINGS, seed=seed)
    fits = {k: fit(k, posteriors["train"], selection=posteriors["selection"], seed=seed) for k in KINDS}
    made = {k: candidate_of(f.distribution, f.chosen.epsilon, study.prior) for k, f in fits.items()}
    found = measure_samples(study, Candidates(made, prior=study.prior))
    if found is None:
        return "not measured", []
    verdict = decide_generation(found.contenders, found.confirm, found.controls, space=found.space, seed=seed)
    return verdict.decision, [c.copies for c in found.contenders]


def linear(d: int, var: float, sizes: dict[str, int] = SIZES, group: int = 1) -> Case:
    """Rows from a linear-Gaussian model, with exact posteriors; rows of a group share their z."""

    def found(seed: int) -> tuple[str, list[str]]:
        model = linear_gaussian(D=6, d=d, var=var)
        rows, posteriors = {}, {}
        for split, n in sizes.items():
            x = grouped(model, seed, split, n * group, group)
            ids = torch.arange(len(x))
            rows[split] = Rows(split, x, ids)
            posteriors[split] = MemoryPosteriors(*model.posterior(x), row_ids=ids)
        return judged(model.vae(), rows, posteriors, seed, group)

    return found


def grouped(model: LinearGaussian, seed: int, split: str, n: int, group: int) -> Tensor:
    """Rows of the model; those of a group have one z."""
    rng = stream(seed, "alarms", split)
    z = torch.randn(n // group, model.weight.shape[1], generator=rng, dtype=torch.float64).repeat_interleave(group, 0)
    noise = torch.randn(n, len(model.bias), generator=rng, dtype=torch.float64)
    return z @ model.weight.T + model.bias + model.var**0.5 * noise


def two_modes(d: int) -> Case:
    """A posterior with two modes, of which the encoder has one."""

    def found(seed: int) -> tuple[str, list[str]]:
        rows, posteriors = bimodal.data(seed, d, **SIZES)
        return judged(bimodal.vae(d), rows, posteriors, seed, 1)

    return found


def cases() -> dict[str, Case]:
    """Name -> what is run with one seed."""
    found = {f"linear, {d} latents, noise variance {v:g}": linear(d, v) for d, v in ((1, 1.0), (2, 0.3), (4, 0.05))}
    return found | {
        "linear, 2 latents, 50 rows a split": linear(2, 0.3, SMALL),
        "linear, 2 latents, groups of 5": linear(2, 0.3, SIZES, 5),
        "two modes, one encoded, 2 latents": two_modes(2),
    }


def main() -> None:
    by_seed(str(__doc__).splitlines()[0], "alarms", cases(), table)


def table(kept: dict[str, list[list[object]]]) -> str:
    lines = [
        "# The x′ side: false alarms",
        "",
        f"Models that are true of their rows: the prior is right, nothing copies, no decoder is at fault. "
        f"{SIZES['train']} training rows, {SIZES['selection']} selection and held-out rows each (as many groups, where "
        f"rows come in groups that share their z), {SETTINGS.samples} generated rows; candidates {', '.join(KINDS)} "
        "and the prior; seeds 0, 1, ... Data sets in which the alarm was raised, and the one-sided binomial test that "
        "it is raised in more than 5 % of them.",
        "",
        "| data | data sets | copies (any candidate) | none of these | leave the prior | undecided | "
        "all candidates cleared |",
        f"|{' --- |' * 7}",
    ]
    for name, found in kept.items():
        n = len(found)
        decisions = Counter(str(f[0]) for f in found)
        statuses: list[list[str]] = [f[1] for f in found]  # type: ignore[misc]
        copies = sum("copies" in s for s in statuses)
        cleared = sum(bool(s) and set(s) == {"passes"} for s in statuses)

        def rate(k: int, n: int = n) -> str:
            p = float(binomtest(k, n, 0.05, alternative="greater").pvalue)
            return f"{k} (p = {p:.2f})"

        none, leave = (rate(decisions[d]) for d in ("none of these", "leave the prior"))
        lines.append(
            f"| {name} | {n} | {rate(copies)} | {none} | {leave} | {decisions['undecided']} | {cleared / n:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

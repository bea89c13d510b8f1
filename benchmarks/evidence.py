"""What a mixture gains by a fit to the evidence, on a run that was trained and encoded; and when more steps overfit.

    python benchmarks/evidence.py runs/demo --components 5 20 50 [--covariance full] [--rows 1000] [--draws 400]

The run is only read. Each K is fitted by EM on the posteriors (`posteriors`), and goes on from there to the evidence
(`evidence`, `weights`). The first table has the gains on held-out rows: ELBO gain (a), exact-posterior gain (b), and
likelihood gain (c) with the decoder, all candidates on the same draws. The difference of two (c) is paired. The second
table follows the exact-posterior gain step by step on all three splits, without stopping.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from zprime import fitting
from zprime.distribution import LatentDistribution
from zprime.latent import Mixture, MixtureSettings
from zprime.latent.deconvolution import FLOOR, as_dtype, narrowest, step
from zprime.latent.defensive import defended
from zprime.latent.evidence import Evidence
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.study import Split
from zprime.posteriors import Posteriors
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.statistics.estimate import mean_estimate

OBJECTIVES = ("posteriors", "evidence", "weights")
SPLITS = ("train", "selection", "heldout")


def fits(run: RunFolder, components: int, covariance: str) -> dict[str, Fit[LatentDistribution]]:
    """One fit for each objective, with the same random numbers."""
    train, selection = (run.posteriors(s).gather() for s in ("train", "selection"))
    found = {}
    for objective in OBJECTIVES:
        settings = MixtureSettings(components=components, covariance=covariance, objective=objective)
        found[objective] = fitting.fit(settings, train, selection=selection, keep_duplicates=True, seed=0)
    return found


def gains(run: RunFolder, found: dict[str, LatentDistribution], rows: int, draws: int) -> RowGains:
    """Of all of them on the same held-out rows, with the same draws."""
    posteriors = run.posteriors("heldout").gather()
    at = posteriors.pick(rows, rng=stream(0, "rows"))
    split = Split("heldout", posteriors, run.rows["heldout"]).take(at)
    return measure_gains(Candidates(found), split, rng=stream(0, "gains"), model=run.vae, draws=draws)


def told(values: torch.Tensor) -> str:
    """Mean and standard error."""
    e = mean_estimate(values, unit="nats", split="heldout", seed=0)
    return f"{e.value:+.2f} ± {e.stderr:.2f}"


def line(components: int, objective: str, fit: Fit[LatentDistribution], measured: RowGains) -> str:
    """One row of the first table, of the candidate with its share of the prior."""
    wanted, base = (CandidateId.of(o, EPSILON) for o in (objective, "posteriors"))
    a, b, c = (of[wanted] for of in (measured.elbo, measured.exact_posterior, measured.likelihood))
    parts = [told(a), told(b), told(c), "" if wanted == base else told(c - measured.likelihood[base])]
    steps = str(fit.chosen.settings.get("steps", ""))
    return "| " + " | ".join([str(components), objective, steps, *parts, f"{fit.seconds or 0:.1f}"]) + " |"


EPSILON = 0.05
"""Share of the prior in every candidate, the same for all, so that they differ by their fit alone."""


def followed(r: Mixture, run: RunFolder, steps: int) -> Iterator[tuple[int, list[float]]]:
    """Step, and exact-posterior gain on the three splits."""
    posteriors: dict[str, Posteriors] = {s: run.posteriors(s).gather() for s in SPLITS}
    r, floor = as_dtype(r, torch.float64), FLOOR * narrowest(posteriors["train"])
    for t in range(steps + 1):
        yield t, [Evidence(p).best(r)[1].mean for p in posteriors.values()]
        r = step(posteriors["train"], r, floor=floor).following


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--components", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--covariance", default="full")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 2, 5, 10, 20, 50])
    given = parser.parse_args()
    run = RunFolder.open(given.run)
    columns = "ELBO gain | exact-posterior gain | likelihood gain | that less that of posteriors"
    print(f"| $K$ | objective | steps | {columns} | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    begun: dict[int, LatentDistribution] = {}
    for k in given.components:
        found = fits(run, k, given.covariance)
        begun[k] = found["posteriors"].distribution
        candidates = {o: defended(f.distribution, EPSILON, run.prior) for o, f in found.items()}
        measured = gains(run, candidates, given.rows, given.draws)
        for objective, fit in found.items():
            print(line(k, objective, fit, measured), flush=True)
    print("\n| $K$ | step | training | selection | held-out |\n| --- | --- | --- | --- | --- |")
    for k, r in begun.items():
        if isinstance(r, Mixture):
            for t, values in followed(r, run, max(given.steps)):
                if t in given.steps:
                    print(f"| {k} | {t} | " + " | ".join(f"{v:+.3f}" for v in values) + " |", flush=True)


if __name__ == "__main__":
    main()

"""What is left of each r's gain when the encoder's posteriors are better: a run encoded with more and more steps.

    python benchmarks/amortised.py runs/demo [--steps 0 5 10 20 50 100] [--rows 1000] [--draws 1000]

The run is only read. All splits are encoded with so many gradient steps on the q of each row (`zprime encode --steps`),
each r is fitted to these posteriors with its defaults, and measured on held-out rows. The first table has what the
encoder loses, log p(x) under the prior less the ELBO, how far means moved (root mean square, in
the encoder's standard deviations), and CPU seconds of encoding all splits. The second one has the
gains of each r: ELBO gain (a), exact-posterior gain (b) and likelihood gain (c); (c) less (c) with the first number of
steps is paired by row.
"""

import argparse
import time
from pathlib import Path

import torch
from evidence import EPSILON, told

from zprime import encode, fitting
from zprime.data import SPLITS
from zprime.latent import Mixture, MixtureSettings, settings_for
from zprime.latent.defensive import defended
from zprime.latent.kind import Settings
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.progress import silent
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.run_folder import RunFolder

KINDS: dict[str, Settings] = {
    "gaussian": settings_for("gaussian"),
    "mixture": MixtureSettings(),
    "evidence": MixtureSettings(objective="evidence"),
    "aggregated": settings_for("aggregated"),
}


def encoded(run: RunFolder, steps: int) -> tuple[dict[str, MemoryPosteriors], float]:
    """Posteriors of all splits, and CPU seconds."""
    model, begin = run.vae, time.process_time()
    found = {s: encode(model, run.rows[s], steps=steps, progress=silent).gather() for s in SPLITS}
    return found, time.process_time() - begin


def measured(
    run: RunFolder, codes: dict[str, MemoryPosteriors], rows: int, draws: int
) -> tuple[RowGains, dict[str, str]]:
    """Gains of all kinds on the same held-out rows, and how each fit is called."""
    fits = {
        name: fitting.fit(s, codes["train"], selection=codes["selection"], keep_duplicates=True, progress=silent)
        for name, s in KINDS.items()
    }
    candidates = {name: defended(f.distribution, EPSILON, run.prior) for name, f in fits.items()}
    at = codes["heldout"].pick(rows, rng=stream(0, "rows"))
    split = Split("heldout", codes["heldout"], run.rows["heldout"]).take(at)
    gains = measure_gains(Candidates(candidates), split, rng=stream(0, "gains"), model=run.vae, draws=draws)
    labels = {
        name: f"{f.distribution.label}{', evidence' if name == 'evidence' else ''}"
        if isinstance(f.distribution, Mixture)
        else name
        for name, f in fits.items()
    }
    return gains, labels


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 5, 10, 20, 50, 100])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    given = parser.parse_args()
    run = RunFolder.open(given.run)
    second: list[str] = []
    first: RowGains | None = None
    print(
        "| steps | $\\log p(x)$ | ELBO | gap | median s | mean moved, s | rows better | CPU s |\n" + "| --- " * 8 + "|"
    )
    before = encoded(run, 0)[0]["heldout"]
    for steps in given.steps:
        codes, seconds = encoded(run, steps)
        gains, labels = measured(run, codes, given.rows, given.draws)
        first = gains if first is None else first
        gap, q = inference_gap(Measured(gains), seed=0), codes["heldout"]
        moved = (q.mean != before.mean).any(1).double().mean()
        values = [f"{e.value:.2f} ± {e.stderr or 0:.2f}" for e in (gap.log_prob, gap.elbo, gap.gap)]
        far = ((q.mean - before.mean) / before.scale).square().mean().sqrt()
        cells = [str(steps), *values, f"{q.scale.median():.3f}", f"{far:.2f}", f"{100 * moved:.0f} %", f"{seconds:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        for name, label in labels.items():
            wanted = CandidateId.of(name, EPSILON)
            of: list[torch.Tensor] = [g[wanted] for g in (gains.elbo, gains.exact_posterior, gains.likelihood)]
            change = "" if gains is first else told(of[2] - first.likelihood[wanted])
            second.append("| " + " | ".join([str(steps), label, *map(told, of), change]) + " |")
    print(
        "\n| steps | $r$ | ELBO gain | exact-posterior gain | likelihood gain | that less the first |\n"
        + "| --- " * 6
        + "|"
    )
    print("\n".join(second))


if __name__ == "__main__":
    main()

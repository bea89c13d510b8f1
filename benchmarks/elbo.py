"""CPU seconds of a training with the default settings, and the ELBO that it reaches.

    python benchmarks/elbo.py SOURCE NETWORK LATENTS [--limit ROWS] [--seeds 0 1 2]

SOURCE is what `zprime train --data` takes. For a comparison run it at two commits, in turns, on one thread
(OMP_NUM_THREADS=1). The ELBO of the held-out split is printed beside that of the selection split, which chose the
epoch.
"""

import argparse
import time

import torch

from zprime import DataSettings, TrainSettings, VAESettings, load_data, train
from zprime.progress import silent
from zprime.train_stage import Start
from zprime.training import evaluate


def measured(source: str, network: VAESettings, limit: int, seed: int) -> str:
    """One training, in a line."""
    data, settings = load_data(DataSettings(source, limit=limit), seed=seed), TrainSettings()
    start = Start(data, network.resolve(data.shape), settings, seed)
    vae, rows, selection = start.vae(), data.rows("train"), data.rows("selection")
    before = time.process_time()
    found = train(vae, rows, selection, settings, seed=seed, progress=silent)
    spent = time.process_time() - before
    best = found.history[found.epoch - 1]["selection"]
    heldout = evaluate(found.vae, data.rows("heldout"), seed=seed)
    steps = len(found.history) * -(-len(rows) // settings.batch)
    return f"seed {seed}: {spent:.1f} CPU s, {steps:,} steps; ELBO selection {best:.2f}, held-out {heldout:.2f}"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("network", choices=["mlp", "conv"])
    parser.add_argument("latents", type=int)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        network = VAESettings(latents=given.latents, network=given.network)
        print(measured(given.source, network, given.limit, seed), flush=True)


if __name__ == "__main__":
    main()

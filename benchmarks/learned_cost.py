"""Training rows per CPU second with each prior that is learned: python benchmarks/learned_cost.py [ROWS] [EPOCHS].

Random rows of 784 numbers, an MLP of two hidden layers of 256, 16 latents, batches of 128, one thread. Every training
is measured once after a short one, by its CPU time; what is timed is all of it, with the selection ELBO of every epoch.
"""

import sys
import time

import torch

from zprime import Rows, TrainSettings, VAESettings, train
from zprime.learned import PRIORS, CoresetPrior, FlowPrior, LearnedPrior, MixturePrior, VampPrior
from zprime.progress import silent
from zprime.rng import stream
from zprime.vae import VAE

CASES: dict[str, LearnedPrior | None] = {
    "N(0, I)": None,
    "mixture(20)": MixturePrior(),
    "vamp(50)": VampPrior(),
    "vamp(500)": VampPrior(components=500),
    "coreset(50)": CoresetPrior(),
    "coreset(500)": CoresetPrior(components=500),
    "flow (maf)": FlowPrior(),
    "flow (nsf)": FlowPrior("nsf"),
    "exemplars": PRIORS["exemplars"](),
    "aggregated": PRIORS["aggregated"](),
}


def rate(prior: LearnedPrior | None, rows: Rows, selection: Rows, epochs: int) -> float:
    """Rows a CPU second."""
    vae = VAE.build((784,), VAESettings(latents=16), seed=0)
    start = time.process_time()
    settings = TrainSettings(epochs=epochs, patience=0)
    train(vae, rows, selection, settings, prior=prior, progress=silent)
    return epochs * len(rows) / (time.process_time() - start)


def main() -> None:
    n, epochs = (int(word) for word in (*sys.argv[1:], "20000", "3")[:2])
    torch.set_num_threads(1)
    x = torch.rand(n + 2000, 784, generator=stream(0, "cost"))
    everything = Rows("train", x, torch.arange(len(x)))
    rows, few = everything.head(n), everything.head(1000)
    selection = Rows("selection", x[n:], everything.ids[n:])
    for name, prior in CASES.items():
        rate(prior, few, selection, 1)
        print(f"| {name} | {rate(prior, rows, selection, epochs):,.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""A VampPrior learned in training, by zprime and by pythae's VAMP: the same network, rows, epochs and K, in turns.

    python benchmarks/vamp.py [--seeds 0 1 2]        (`make bench-vamp`; pythae comes with the development tools)

Pixels of 20,000 images of Fashion-MNIST are drawn once as 0 and 1, so that both have the same Bernoulli likelihood. The
learning rate of pythae's trainer is the one of three with the best ELBO on the selection split with seed 0; its Adam is
the fused one, as ours, and it keeps the model of its best epoch. Log p(x) of held-out rows is estimated alike for both,
by 400 draws a row; CPU seconds are of one thread. The order of the two changes with each seed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

import zprime
from zprime import VAE, DataSettings, Rows, TrainSettings, VAESettings
from zprime.latent import Vamp
from zprime.learned import VampPrior
from zprime.statistics.estimate import mean_estimate
from zprime.training import evaluate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from learned import PAGE, audited
from pages import put, table
from training import modules
from trees import commit

FASHION = "/usr/share/datasets/fashion-mnist"
ROWS, LATENTS, K, EPOCHS = 20_000, 16, 50, 30
RATES = (5e-4, 1e-3, 2e-3)


class Ran(NamedTuple):
    """A trained model with its prior, and the CPU seconds of its training."""

    vae: VAE
    cpu: float


def fixed(rows: Rows) -> Rows:
    """The same rows with their pixels drawn once."""
    return Rows(rows.name, rows.x, rows.ids)


def build(shape: tuple[int, ...], seed: int) -> VAE:
    settings = VAESettings(latents=LATENTS, network="mlp", likelihood="bernoulli")
    return VAE.build(shape, settings.resolve(shape), seed=seed)


def ours(rows: dict[str, Rows], seed: int, epochs: int) -> Ran:
    vae = build(tuple(rows["train"].x.shape[1:]), seed)
    start = time.process_time()
    zprime.train(
        vae,
        rows["train"],
        rows["selection"],
        TrainSettings(epochs=epochs, patience=0),
        prior=VampPrior(components=K),
        seed=seed,
        progress=lambda *_: None,
    )
    return Ran(vae, time.process_time() - start)


def theirs(rows: dict[str, Rows], seed: int, epochs: int, rate: float) -> Ran:
    """Pythae's VAMP with the modules of our VAE, put together again as a VAE of ours when it is trained."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAMP, VAMPConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    shape = tuple(rows["train"].x.shape[1:])
    vae = build(shape, seed)
    torch.manual_seed(seed)
    config = VAMPConfig(
        input_dim=shape,
        latent_dim=LATENTS,
        reconstruction_loss="bce",
        number_components=K,
        linear_scheduling_steps=max(1, epochs // 10),
    )
    encoder, decoder = modules(vae, torch.sigmoid)
    model = VAMP(config, encoder=encoder, decoder=decoder)
    train, selection = (BaseDataset(rows[s].x, torch.zeros(len(rows[s]))) for s in ("train", "selection"))
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=rate,
            per_device_train_batch_size=128,
            per_device_eval_batch_size=512,
            no_cuda=True,
            seed=seed,
            optimizer_params={"fused": True},
        )
        trainer = BaseTrainer(model, train, selection, training_config=settings)
        start = time.process_time()
        trainer.train()
        cpu = time.process_time() - start
    best = trainer._best_model.eval()
    vae.encoder, vae.decoder, vae.fresh = best.encoder.net, best.decoder.net, False
    vae.eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        pseudo = best.pseudo_inputs(torch.eye(K)).reshape(K, *shape)
        mean, scale = vae.encode(pseudo)
    vae.prior = Vamp(torch.full((K,), 1 / K).log(), mean, scale)
    return Ran(vae, cpu)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = zprime.load_data(DataSettings(FASHION, limit=ROWS, binarise=True), seed=0)
    rows = {s: fixed(data.rows(s)) for s in ("train", "selection", "heldout")}
    tried = {rate: evaluate(theirs(rows, 0, given.epochs, rate).vae, rows["selection"]) for rate in RATES}
    rate = max(tried, key=lambda r: tried[r])
    print("; ".join(f"pythae, learning rate {r:g}: selection ELBO {v:.2f}" for r, v in tried.items()), flush=True)
    lines, ratios = [], []
    for i, seed in enumerate(given.seeds):
        makers = {"zprime": lambda s=seed: ours(rows, s, given.epochs)}
        makers["pythae"] = lambda s=seed: theirs(rows, s, given.epochs, rate)
        ran = {who: makers[who]() for who in (makers if i % 2 == 0 else reversed(makers))}
        log_p = {who: audited(rows, r.vae, ("gaussian",), seed)[0].log_prob("prior") for who, r in ran.items()}
        gap = mean_estimate(log_p["zprime"] - log_p["pythae"], unit="nats per row", split="heldout", seed=seed)
        ratios.append(ran["pythae"].cpu / ran["zprime"].cpu)
        cells = [f"{log_p[w].mean():.2f}" for w in ("pythae", "zprime")]
        cpu = [f"{ran[w].cpu:.1f}" for w in ("pythae", "zprime")]
        lines.append([f"{seed}", *cells, f"{gap.value:+.2f} ± {gap.stderr:.2f}", *cpu, f"{ratios[-1]:.2f} x"])
        print(" | ".join(lines[-1]), flush=True)
    heads = ["seed", "log p(x), pythae", "zprime", "difference, paired", "CPU s, pythae", "zprime", "ratio"]
    told = (
        f"{len(log_p['zprime']):,} held-out rows, nats a row; {given.epochs} epochs, K = {K}; pythae's learning rate "
        f"{rate:g}, the best of {', '.join(f'{r:g}' for r in RATES)}. Median ratio of CPU seconds: "
        f"{statistics.median(ratios):.2f}."
    )
    again = f"*`python benchmarks/vamp.py` at commit {commit(Path(__file__).parents[1])}.*"
    put(PAGE, "vamp", f"{table(heads, lines)}\n\n{told}\n\n{again}")


if __name__ == "__main__":
    main()

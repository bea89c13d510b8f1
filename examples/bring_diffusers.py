"""A small AutoencoderKL of diffusers, what to scale its latents by, and whether that is enough.

python examples/bring_diffusers.py trains on 4,000 images of Fashion-MNIST, measures `latents_mean` and `latents_std`,
writes them into the model's config, and audits what one Gaussian a channel leaves over.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from table import written
from torch import Tensor
from torch.nn import functional

import zprime
from zprime import bring
from zprime.rng import stream

FASHION, LIMIT, CHANNELS = "/usr/share/datasets/fashion-mnist", 4000, 4
EPOCHS, BATCH, KL_WEIGHT = 6, 50, 1e-6
MEASURED = 1000  # images of each split: 49,000 positions to fit to
AUDIT = zprime.AuditSettings(draws=0, simulated=0)  # p(x|z) of a grid is none of a position: no likelihood gain


def trained(x: Tensor, held: Tensor) -> AutoencoderKL:
    """By squared error and 1e-6 times the KL term, as Rombach et al. (2022) have it, without their critic."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=CHANNELS,
        mid_block_add_attention=False,
    )
    steps = EPOCHS * (len(x) // BATCH)
    adam = torch.optim.Adam(vae.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for epoch in range(EPOCHS):
        for i in torch.randperm(len(x), generator=stream(0, "order", str(epoch))).split(BATCH):
            q = vae.encode(x[i]).latent_dist
            error = functional.mse_loss(vae.decode(q.sample()).sample, x[i])
            loss = error + KL_WEIGHT * q.kl().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            falling.step()
    with torch.no_grad():
        vae.eval()
        error = functional.mse_loss(vae.decode(vae.encode(held).latent_dist.mode()).sample, held)
    print(f"held-out mean squared error {float(error):.4f}, of a variance of {float(held.var()):.4f}\n")
    return vae


def main() -> None:
    """Train, measure, write, audit."""
    data = zprime.load_data(zprime.DataSettings(FASHION, limit=LIMIT), seed=0)
    x = {s: 2 * data.rows(s).x.reshape(-1, 1, 28, 28) - 1 for s in ("train", "selection", "heldout")}
    start = time.process_time()
    print(f"# Fashion-MNIST, images { ({s: len(v) for s, v in x.items()}) }, {CHANNELS} channels, seed 0\n")
    vae = trained(x["train"], x["heldout"][:500])
    latents = bring.diffusers(vae, {s: v[:MEASURED] for s, v in x.items()})
    print(f"trained in {time.process_time() - start:.0f} CPU s\n")
    vae.register_to_config(**latents.config())
    with tempfile.TemporaryDirectory() as folder:
        vae.save_pretrained(folder)
        kept = json.loads((Path(folder) / "config.json").read_text())
    print(f"config.json, measured on the first {MEASURED} training images:\n")
    for name in ("latents_mean", "latents_std"):
        print(f"    {name}: [{', '.join(f'{v:.3f}' for v in kept[name])}]")
    one = latents.config("all")
    print(f"    scaling_factor: {kept['scaling_factor']}")
    print(f"\n(with one number for all channels: scaling_factor {one['scaling_factor']:.4f}, ", end="")
    print(f"shift_factor {one['shift_factor']:.4f})\n")

    mine = latents.brought
    print("\n".join(f"- {s}" for s in mine.says), "\n")
    fits = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture")}
    audit = zprime.audit(fits, mine.posteriors, settings=AUDIT)
    print("gains over one Gaussian a channel, nats a position\n")
    print(written(audit))
    print(f"\nVerdict: {latents.sentence(audit.verdict)}")


if __name__ == "__main__":
    main()

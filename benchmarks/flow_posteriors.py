"""What a posterior of another form closes of the inference gap on the digits, and what it costs in training.

    python benchmarks/flow_posteriors.py [--data digits] [--seeds 3] [--rows 250] [--draws 2000]

The same network is trained with q(z|x) a diagonal Gaussian, one with a full covariance and a flow, by the defaults of
`zprime run`. ELBO: over draws of q of held-out rows. log p(x): by importance sampling with q as proposal, its noise
widened to 1.2 standard deviations, the same for every form (`moved`: from a quarter of the draws to all). In brackets
the gap of each seed. Training rows are as many. The row with steps is the first one's model, encoded with gradient
steps on the q of each row. CPU seconds are of training, one thread.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.data import DataSettings, Rows
from zprime.latent import Prior
from zprime.posterior_flow import Drawn, given_noise
from zprime.progress import silent
from zprime.rng import stream
from zprime.running import Run
from zprime.semi_amortised import SemiAmortised
from zprime.vae import VAE
from zprime.vae_settings import VAESettings

WIDER = 1.2
ROWS = 16  # at a time
FORMS = ("diagonal", "full", "flow")
STEPS = 50
HEAD = (
    "| posterior | ELBO | $\\log p(x)$ | gap | moved | gap of training rows | CPU s of training |\n"
    + "| --- " * 7
    + "|"
)
Draw = Callable[[Float[Tensor, "n *datum"], Float[Tensor, "n k d"]], Drawn]


@torch.no_grad()
def measured(vae: VAE, draw: Draw, rows: Rows, draws: int) -> Float[Tensor, "3 n"]:
    """ELBO, log p(x) and the same from a quarter of the draws, of every row, nats."""
    found, prior = [], Prior(vae.latents)
    for block in blocks(len(rows), ROWS):
        x, values = rows.x[block], []
        for width, k in ((1.0, draws // 4), (WIDER, draws)):
            noise = torch.randn(len(x), k, vae.latents, generator=stream(0, "noise", block.start, str(width)))
            q = draw(x, width * noise)
            # log q of the wider noise: that of the noise itself in place of that of N(0, I) at the wider one
            log_q = q.log_q.double() + 0.5 * (width**2 - 1) * noise.double().square().sum(2)
            log_q = log_q - vae.latents * math.log(width)
            z = q.z.flatten(0, 1)
            log_x = torch.cat([vae.decode(z[b]).log_prob(_repeated(x, k, b)).double() for b in blocks(len(z), 4096)])
            values.append((log_x + prior.log_prob(z)).reshape(len(x), k) - log_q)
        elbo, terms = values
        few = terms[:, : draws // 4]
        means = [t.logsumexp(1) - math.log(t.shape[1]) for t in (terms, few)]
        found.append(torch.stack([elbo.mean(1), *means]))
    return torch.cat(found, 1)


def _repeated(x: Tensor, k: int, part: slice) -> Tensor:
    """Rows beside the draws of a part, k of each row side by side."""
    return x[torch.arange(part.start, part.stop) // k]


def gaussian(model: SemiAmortised) -> Draw:
    """Draws of the q of rows after steps."""

    def draw(x: Tensor, noise: Tensor) -> Drawn:
        with torch.enable_grad():
            mean, scale = model.encode(x)
        return given_noise(mean.detach(), scale.detach(), noise)

    return draw


def trained(data: str, form: str, seed: int, folder: Path) -> tuple[VAE, Mapping[str, Rows], float]:
    """The model of a run, its rows, and CPU seconds of its training."""
    job = Run.create(folder / f"{form}-{seed}", progress=silent)
    begin = time.process_time()
    vae = job.train(DataSettings(data), VAESettings(posterior=form), seed=seed)
    took = time.process_time() - begin
    return vae, job.folder.rows, took


def line(name: str, of: list[Float[Tensor, "3 n"]], seen: list[Float[Tensor, "3 n"]], seconds: float) -> str:
    """Means over rows and seeds, with standard errors over rows, and the gap of each seed; the gap of training rows."""
    every, learned = torch.cat(of, 1), torch.cat(seen, 1)
    n = every.shape[1]

    def told(v: Tensor) -> str:
        return f"{v.mean():.2f} ± {v.std() / math.sqrt(n):.2f}"

    gaps = [float((values[1] - values[0]).mean()) for values in of]
    by_seed = f" ({', '.join(f'{g:.2f}' for g in gaps)})"
    cells = [name, told(every[0]), told(every[1]), told(every[1] - every[0]) + by_seed]
    cells += [f"{(every[1] - every[2]).mean():+.2f}", told(learned[1] - learned[0])]
    return "| " + " | ".join([*cells, f"{seconds:.1f}"]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
            seconds = 0.0
            for seed in range(given.seeds):
                vae, rows, took = trained(given.data, form, seed, Path(folder))
                seconds += took / given.seeds
                ways: dict[str, Draw] = {form: lambda x, noise, vae=vae: vae.draw(x, noise=noise)}  # type: ignore[misc]
                if form == FORMS[0]:
                    ways[f"{form}, {STEPS} steps"] = gaussian(SemiAmortised(vae, STEPS))
                for name, draw in ways.items():
                    for into, split in zip(found.setdefault(name, ([], [])), ("heldout", "train"), strict=True):
                        into.append(measured(vae, draw, rows[split].head(given.rows), given.draws))
            for name, (of, seen) in found.items():
                print(line(name, of, seen, seconds), flush=True)


if __name__ == "__main__":
    main()

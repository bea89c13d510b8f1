"""A small latent space to explore, for several tests: nothing is trained."""

from dataclasses import replace
from typing import Any

import torch

from zprime.data import Rows
from zprime.exploring import Explorer, Trials
from zprime.latent import Aggregated, Gaussian, Prior
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.vae import VAE, VAESettings

D, N = 3, 60
IMAGE = (1, 4, 4)


def posteriors(n: int = N, *, start: int = 0, scale: float = 0.2) -> MemoryPosteriors:
    rng = stream(start, "explored")
    mean = torch.randn(n, D, generator=rng)
    ids = 1000 * start + 7 * torch.arange(n)
    return MemoryPosteriors(mean, scale + 0.1 * torch.rand(n, D, generator=rng), row_ids=ids, labels=ids % 3)


def rows(n: int = N, *, start: int = 0) -> torch.Tensor:
    return torch.rand(n, *IMAGE, generator=stream(start, "rows"))


def explorer(*, image: bool = True, trials: bool = True, **changes: Any) -> Explorer:
    """60 rows, three latents, images of 4 x 4 or a table of 16 columns in units of their own."""
    decoder = VAE.build(
        IMAGE, VAESettings(latents=D, network="mlp", likelihood="bernoulli", hidden=(8,)), seed=1
    ).eval()
    p, unseen = posteriors(), posteriors(40, start=1)
    shift, scale = torch.full(IMAGE, 3.0), torch.full(IMAGE, 16.0)
    model = GenerativeModel(Prior(D), decoder, shift, scale, IMAGE if image else None)
    known = {
        "train": Rows("train", rows(), p.row_ids),
        "selection": Rows("selection", rows(40, start=1), unseen.row_ids),
    }
    made = Explorer(
        p,
        model,
        {"gaussian": Gaussian(0.5 * torch.ones(D), 1.5 * torch.ones(D)), "aggregated": Aggregated(p.mean, p.scale)},
        "gaussian",
        rows(),
        name="small",
        trials=Trials(p, unseen, Prior(D), decoder, known) if trials else None,
    )
    return replace(made, **changes)

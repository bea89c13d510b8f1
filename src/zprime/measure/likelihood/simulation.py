"""Data simulated from a latent distribution and a decoder: there the posterior of every row is known to one draw."""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.likelihoods import draw
from zprime.posteriors import MemoryPosteriors
from zprime.rng import fork
from zprime.vae import Decoder, Encoder

BATCH = 256  # part of the random streams' names, so a constant


def simulate(
    r: LatentDistribution, model: Decoder, n: int, *, dtype: torch.dtype, rng: torch.Generator
) -> tuple[Float[Tensor, "n d"], Rows]:
    """Draw z ~ r and x ~ p(x|z), noise included: each z is a draw from the posterior of its x under r.

    Args:
        r: where z is drawn from.
        model: where x is drawn from.
        n: how many.
        dtype: what the decoder computes in.
        rng: source of randomness.
    """
    z = r.sample(n, rng=fork(rng, "z")).to(dtype)
    with torch.no_grad():
        parts = [draw(model.decode(z[i]), rng=fork(rng, "x", i.start)) for i in blocks(n, BATCH)]
    return z, Rows("simulated", torch.cat(parts), torch.arange(n))


def encode(model: Encoder, rows: Rows) -> MemoryPosteriors:
    """What the encoder makes of simulated rows."""
    with torch.no_grad():
        parts = [model.encode(rows.x[i]) for i in blocks(len(rows), BATCH)]
    return MemoryPosteriors(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

"""Log p(x|z) of rows at draws of their z, in blocks of latents, and what is wrong with it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.errors import NumericalError
from zprime.measure.likelihood.proposal import Draws
from zprime.vae import Decoder

DECODE = 256  # latents a block: their decoded rows stay in cache
TOGETHER = 3328  # draws of a few rows that are handled together, where each has no more
LEAST = 8  # rows that are, at least


def chunk(draws: int) -> int:
    """How many rows are handled together; their random streams are named by it, so by nothing but `draws`."""
    return max(LEAST, TOGETHER // draws)


def log_probs_of_rows(model: Decoder, drawn: Draws, x: Tensor) -> Float[Tensor, "b k"]:
    """Log p(x_i|z_ik) of a few rows, in nats, in blocks of latents."""
    b, k, d = drawn.z.shape
    row = torch.arange(b).repeat_interleave(k)
    return log_probs_at(model, drawn.z.reshape(-1, d), x, row).reshape(b, k)


@torch.no_grad()
def log_probs_at(model: Decoder, z: Float[Tensor, "m d"], x: Tensor, row: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Log p(x_i|z) in nats, float64, where `row` says which i each z belongs to."""
    z = z.to(x.dtype)
    return torch.cat([model.decode(z[i]).log_prob(x[row[i]]).double() for i in blocks(len(z), DECODE)])


def check_decoded(log_x: Float[Tensor, "b k"], ids: Tensor) -> None:
    """Raise `NumericalError` where the decoder answers NaN, or 0 at every draw: no gain could be computed from it."""
    dead = torch.isneginf(log_x).all(1)
    if bool(dead.any()):
        raise NumericalError(
            f"decoder: p(x|z) is 0 for row {int(ids[dead][0])} at all of {log_x.shape[1]} draws; check that the rows "
            "are of the kind that p(x|z) can make"
        )
    bad = torch.isnan(log_x).any(1)
    if bool(bad.any()):
        raise NumericalError(
            f"decoder: log p(x|z) is NaN for row {int(ids[bad][0])} at {int(torch.isnan(log_x[bad][0]).sum())} of "
            f"{log_x.shape[1]} draws; check that the rows are scaled as in training, and that the weights are finite"
        )

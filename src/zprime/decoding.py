"""z -> x, batch by batch: means of p(x|z), or draws from it."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime import distributed, likelihoods
from zprime.arrays import blocks
from zprime.errors import UsageError
from zprime.rng import fork
from zprime.vae import Decoder, Told

DECODE = 512
"""Latents that are decoded at a time; the draws of each batch have a random stream of their own."""


def decoded(
    decoder: Decoder,
    z: Float[Tensor, "n d"],
    *,
    noise: str,
    rng: torch.Generator,
    given: Any = None,
    parts: Iterable[slice] | None = None,
) -> Iterator[tuple[Float[Tensor, "b d"], Float[Tensor, "b *datum"]]]:
    """Batches of (z, x), without gradients.

    Args:
        decoder: p(x|z).
        z: latents; converted to the decoder's dtype.
        noise: `mean` gives the mean of p(x|z), `draw` a draw from it.
        rng: decides the draws.
        given: a condition, or one for each z, of a decoder that is told them; None draws them from the data's.
        parts: which batches, each beginning at a multiple of `DECODE`; None for all.

    Raises:
        UsageError: an unknown `noise`, or conditions for a decoder that is told none.
        ArrayError: conditions of another shape than the decoder takes.
    """
    if noise not in ("mean", "draw"):
        raise UsageError(f"noise: expected mean or draw, got {noise!r}")
    z = z.to(dtype_of(decoder))
    for part in blocks(len(z), DECODE) if parts is None else parts:
        with torch.no_grad():
            p = decoder.decode(z[part])
            if given is not None:
                p = _told(p).given(_told(p).conditions(given, len(z))[part])
            x = p.mean if noise == "mean" else likelihoods.draw(p, rng=fork(rng, "x", part.start))
        yield z[part], x


def all_decoded(
    decoder: Decoder, z: Float[Tensor, "n d"], *, noise: str, rng: torch.Generator, given: Any = None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n *datum"]]:
    """The same, all at once; the processes of a job share the batches, and the numbers do not depend on how many.

    Each batch of x leaves a GPU before the next one is decoded, as `at_least_float32` gives it.

    Raises:
        UsageError: as `decoded`.
        ArrayError: as `decoded`.
    """
    parts = distributed.each(_finished, (decoder, z, noise, rng, given), list(blocks(len(z), DECODE)))
    latents, x = zip(*parts, strict=True)
    return torch.cat(latents), torch.cat(x)


def x_decoded(
    decoder: Decoder, z: Float[Tensor, "n d"], *, noise: str, rng: torch.Generator
) -> Float[Tensor, "n *datum"]:
    """The x of `all_decoded`, as and where the decoder gives them."""
    parts = distributed.each(_batch, (decoder, z, noise, rng, None), list(blocks(len(z), DECODE)))
    return torch.cat([x for _, x in parts])


def at_least_float32(x: Tensor) -> Tensor:
    """In float32 or a wider type, on the CPU."""
    return x.cpu().to(torch.promote_types(x.dtype, torch.float32))


def _finished(
    decoder: Decoder, z: Tensor, noise: str, rng: torch.Generator, given: Any, part: slice
) -> tuple[Tensor, Tensor]:
    latents, x = _batch(decoder, z, noise, rng, given, part)
    return latents, at_least_float32(x)


def _batch(
    decoder: Decoder, z: Tensor, noise: str, rng: torch.Generator, given: Any, part: slice
) -> tuple[Tensor, Tensor]:
    """One batch."""
    return next(decoded(decoder, z, noise=noise, rng=rng, given=given, parts=[part]))


def both_decoded(
    decoder: Decoder, z: Float[Tensor, "n d"], *, rng: torch.Generator
) -> tuple[Float[Tensor, "n *datum"], Float[Tensor, "n *datum"]]:
    """Means and draws of p(x|z), as `all_decoded` gives each, decoded once."""
    both = distributed.each(_both, (decoder, z.to(dtype_of(decoder)), rng), list(blocks(len(z), DECODE)))
    means, draws = zip(*both, strict=True)
    return torch.cat(means), torch.cat(draws)


@torch.no_grad()
def _both(decoder: Decoder, z: Tensor, rng: torch.Generator, part: slice) -> tuple[Tensor, Tensor]:
    p = decoder.decode(z[part])
    return p.mean, likelihoods.draw(p, rng=fork(rng, "x", part.start))


def _told(p: Distribution) -> Told:
    if not isinstance(p, Told):
        raise UsageError(
            "given: expected None, for this decoder takes z alone; a model from zprime.bring.modules(conditions=...) "
            "is told conditions, and latent.given(r, label) is r(z|label)"
        )
    return p


def dtype_of(decoder: Decoder) -> torch.dtype:
    """The dtype of the decoder's parameters, or what it says; float32 otherwise."""
    if isinstance(decoder, nn.Module):
        for t in (*decoder.parameters(), *decoder.buffers()):
            return t.dtype
    dtype: torch.dtype = getattr(decoder, "dtype", torch.float32)
    return dtype

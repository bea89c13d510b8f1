"""Figures as matplotlib figures: `zprime.plot.gains(audit)`, in a notebook or for a paper."""

from importlib import import_module

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from zprime.errors import UsageError
from zprime.reporting import outputs
from zprime.reporting.claims import (
    averages,
    fidelity,
    hole,
    low_density,
    membership,
    memorised,
    trade_off,
    two_samples,
)
from zprime.reporting.figures import (
    bandwidth_path,
    calibration,
    components,
    dimensions,
    drift,
    gains,
    latent_map,
    surgery,
)
from zprime.reporting.outputs import columns, counts
from zprime.reporting.pictures import sheet
from zprime.results.audit import Audit

__all__ = [
    "averages",
    "bandwidth_path",
    "calibration",
    "columns",
    "components",
    "counts",
    "dimensions",
    "drift",
    "fidelity",
    "gains",
    "hole",
    "latent_map",
    "low_density",
    "membership",
    "memorised",
    "samples",
    "surgery",
    "trade_off",
    "two_samples",
]
RANGES = ((0.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, 255.0, 32.0))
"""What images go from and to, usually, and how far apart their values then are at least."""
SLACK = 0.1
"""How far beyond, in parts of how far they are apart: what a decoder answers is near its data, not among them."""


def samples(
    source: object,
    *,
    n: int = 64,
    seed: int = 0,
    columns: int = 8,
    shape: tuple[int, int, int] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Images side by side: what a generative model draws, those of an audit, or images of your own.

    Args:
        source: a `GenerativeModel`, e.g. `mine.generator(r)`, of which `n` samples are drawn (means of p(x|z')); an
            audit, whose held-out rows, reconstructions and samples of every latent distribution are shown; or images,
            e.g. x' of `zprime.sample(model, n, given=3)`.
        n: how many samples of a model.
        seed: decides them.
        columns: images in a line.
        shape: (channels, height, width) of an image, where x' are flat.
        limits: what is black and what is white. None takes 0 and 1, -1 and 1, or 0 and 255, the first that holds
            nearly all values; else the 0.5 % and the 99.5 % quantile.

    Raises:
        UsageError: it is none of these, they are no images; or the model copies or stores training rows
            (`zprime.sample` draws with leave, and its x' may be given here).
        ArrayError: images of another number of channels than 1 or 3.
    """
    if isinstance(source, Audit):
        return outputs.samples(source, columns=columns)
    if isinstance(source, Tensor):
        x, title = source, ""
    else:
        sampling = import_module("zprime.sampling")  # who only draws figures of audits needs no model
        if not isinstance(source, sampling.GenerativeModel):
            raise UsageError(
                f"samples: expected a GenerativeModel, an audit or a tensor of images, got {type(source).__name__}"
            )
        _, x = sampling.sample(source, n, seed=seed)
        title = f"z' from {source.latent.label}"
        if source.image is not None and limits is None:
            x, limits = (x - source.shift) / source.scale, (0.0, 1.0)
    x = _as_images(x.detach().cpu(), shape)
    low, high = _limits(x) if limits is None else limits
    if not low < high:
        raise UsageError(f"limits: expected a number for black below that for white, got {low:g} and {high:g}")
    return sheet((x - low) / (high - low), title=title, columns=columns)


def _as_images(x: Tensor, shape: tuple[int, int, int] | None) -> Float[Tensor, "n c h w"]:
    """Rows as images.

    Raises:
        UsageError: they have no such shape.
    """
    if shape is not None:
        if x[:1].numel() != torch.Size(shape).numel():
            raise UsageError(f"shape: expected one of {x[:1].numel()} numbers, as the rows have, got {shape}")
        x = x.reshape(len(x), *shape)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UsageError(
            f"samples: expected images, [n, 1 or 3, height, width], got rows of shape {list(x.shape[1:])}; if these "
            "are images, say shape=(channels, height, width)"
        )
    return x.float()


def _limits(x: Tensor) -> tuple[float, float]:
    """Black and white of these images."""
    values = x.flatten()
    values = values[:: -(-len(values) // (1 << 20))]  # torch's quantile takes 16 million numbers at most
    low, high = (float(q) for q in values.quantile(torch.tensor([0.005, 0.995])))
    apart = high - low
    for a, b, least in RANGES:
        if apart >= least and a - SLACK * apart <= low and high <= b + SLACK * apart:
            return a, b
    return low, high

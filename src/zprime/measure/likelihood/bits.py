"""Bits per dimension: log p(x) in the units of the data as they were stored, divided by the entries of a datum."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from zprime.results.likelihood import Units
from zprime.statistics.estimate import Estimate
from zprime.vae import Decoder

NEITHER = "none: p(x|z) is a probability of 0 and 1, and the data are neither (binarise them, or decode a density)"


def units(model: Decoder, x: Float[Tensor, "n *datum"], z: Float[Tensor, "n d"], *, log_scale: float | None) -> Units:
    """Say whether log p(x) is a probability or a density, and in which units.

    Args:
        model: the decoder; the units depend on whether its p(x|z) is discrete.
        x: some data, scaled.
        z: as many latents, to decode.
        log_scale: sum of log scale over the entries of a datum, None where it is not known (then no figure is given in
            stored units).
    """
    entries = x[0].numel()
    with torch.no_grad():
        support = model.decode(z).support
    if support is not None and support.is_discrete:
        if bool(support.check(x).all()):  # type: ignore[no-untyped-call]
            return Units(entries, 0.0, "probabilities of discrete data: the length of a lossless code")
        says = "none: p(x|z) is a probability of other values than those of the data (decode a density)"
        if getattr(support, "base_constraint", support) is constraints.boolean:
            says = NEITHER
        return Units(entries, 0.0, says, meaningful=False)
    if log_scale is None:
        return Units(entries, 0.0, "a density in scaled units (those of the data are not known); no code length")
    return Units(
        entries,
        log_scale,
        "a density in the units of the data as stored, not the probability of a bin: near the length of a code only "
        "where the density is flat over a bin of width 1, and not comparable with discretised likelihoods",
    )


def bits_per_dimension(log_prob: Estimate, unit: Units) -> Estimate:
    """`-(log p(x) - log_scale) / (D log 2)`: of log p(x) in nats a row, with the ends of its interval exchanged."""
    factor = 1 / (unit.entries * math.log(2))

    def turn(value: float) -> float:
        return -(value - unit.log_scale) * factor

    return replace(
        log_prob,
        value=turn(log_prob.value),
        stderr=None if log_prob.stderr is None else log_prob.stderr * factor,
        low=turn(log_prob.high),
        high=turn(log_prob.low),
        unit="bits per dimension",
    )

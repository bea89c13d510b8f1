"""The two ends of encoder and decoder: what q(z|x) is made of, and how many numbers an entry the decoder answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

CONTEXT = 64
"""Numbers that the steps of a flow are told of a row."""


@dataclass(frozen=True)
class Ends:
    """What the encoder answers, and how much the decoder.

    Attributes:
        posterior: form of q(z|x): `diagonal`, `full`, `flow`, or `points`, codes without a q.
        bounds: least and greatest log-variance of q(z|x), of `full` on the diagonal of the factor; empty for none.
        outputs: numbers of the decoder for each entry of a datum.
        inputs: numbers that the encoder sees of each entry.
        before: what makes them; None where the encoder sees the rows as they are.
        steps: of a flow.
    """

    posterior: str = "diagonal"
    bounds: tuple[float, ...] = ()
    outputs: int = 1
    inputs: int = 1
    before: nn.Module | None = None
    steps: int = 0


class Head(nn.Module):
    """From features to the mean and standard deviation of q(z|x), both affine (log-scale)."""

    def __init__(self, features: int, d: int, bounds: Sequence[float] = ()) -> None:
        super().__init__()
        self.mean = nn.Linear(features, d)
        self.log_scale = nn.Linear(features, d)
        self.bounds = [b / 2 for b in bounds]
        # start near the prior: scales of 1/2, so that the first steps see little noise
        _small(self.log_scale, -0.7)

    def forward(self, h: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation."""
        return self.mean(h), _bounded(self.log_scale(h), self.bounds).exp()


class FullHead(nn.Module):
    """From features to the mean and the lower triangular factor of the covariance of q(z|x).

    The diagonal is that of `Head`; the factor begins without correlations.
    """

    def __init__(self, features: int, d: int, bounds: Sequence[float] = ()) -> None:
        super().__init__()
        self.diagonal = Head(features, d, bounds)
        self.below = nn.Linear(features, d * (d - 1) // 2)
        _small(self.below, 0.0)
        self.d = d

    def forward(self, h: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d d"]]:
        """Mean and factor."""
        mean, scale = self.diagonal(h)
        factor = torch.diag_embed(scale)
        row, column = torch.tril_indices(self.d, self.d, -1, device=h.device)
        factor[:, row, column] = self.below(h)
        return mean, factor


class FlowHead(nn.Module):
    """From features to mean and standard deviation as those of `Head`, and to what the steps of a flow are told."""

    def __init__(self, features: int, d: int) -> None:
        super().__init__()
        self.diagonal = Head(features, d)
        self.context = nn.Linear(features, CONTEXT)

    def forward(self, h: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Mean and standard deviation of the base, and the numbers for the steps."""
        mean, scale = self.diagonal(h)
        return mean, scale, self.context(h)


class PointHead(nn.Module):
    """From features to codes, affine; the scale is 0."""

    def __init__(self, features: int, d: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, d)

    def forward(self, h: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Codes and zeros."""
        z: Tensor = self.mean(h)
        return z, torch.zeros_like(z)


def _small(layer: nn.Linear, bias: float) -> None:
    """Let a layer begin at its bias, whatever the features are."""
    if not layer.weight.is_meta:  # there it has no effect, and loads torch's compiler
        nn.init.normal_(layer.weight, std=1e-3)
    nn.init.constant_(layer.bias, bias)


def _bounded(log_scale: Tensor, bounds: Sequence[float]) -> Tensor:
    return log_scale.clamp(*bounds) if bounds else log_scale


def head_of(features: int, d: int, ends: Ends) -> nn.Module:
    """The head of an encoder with so many features, for `d` latents."""
    if ends.posterior == "points":
        return PointHead(features, d)
    if ends.posterior == "flow":
        return FlowHead(features, d)
    if ends.posterior == "full":
        return FullHead(features, d, ends.bounds)
    return Head(features, d, ends.bounds)


def answer_of(shape: Sequence[int], ends: Ends) -> tuple[int, ...]:
    """Shape of what a decoder answers for a datum: that of the datum, with several numbers an entry on a first axis."""
    return (ends.outputs, *shape) if ends.outputs > 1 else tuple(shape)

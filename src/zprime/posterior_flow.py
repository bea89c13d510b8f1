"""q(z|x) as an inverse autoregressive flow on the encoder's Gaussian (Kingma et al. 2016), and draws of any q(z|x).

z is the base's draw `mean + scale * noise`, moved by autoregressive steps that are told features h(x). Draws and log q
there take one pass. log q elsewhere would take an inverse, d passes a step, and nothing here asks for it.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zprime.arrays import LOG_2PI, gaussian_log_prob, times
from zprime.heads import CONTEXT

HIDDEN = 64
"""Units of each of the two hidden layers of a step's network."""
STRETCH = 2.0
"""Bound of |log scale| of a step in a dimension: q stays finite where a network is asked far from its training rows."""


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws z ~ q(z|x), one or several a row, and what is known of q there.

    Attributes:
        z: shape [n, d], or [n, k, d] for k draws a row.
        mean, scale: of the Gaussian that noise was given: q itself, or the base of a flow.
        flow_log_q: log q(z|x) of a flow, nats; None where q is the Gaussian.
    """

    z: Float[Tensor, "*n d"]
    mean: Tensor
    scale: Tensor
    flow_log_q: Float[Tensor, "*n"] | None = None

    @property
    def log_q(self) -> Float[Tensor, "*n"]:
        """Log q(z|x), nats."""
        return gaussian_log_prob(self.z, self.mean, self.scale) if self.flow_log_q is None else self.flow_log_q


def normal_like(mean: Float[Tensor, "n d"], rng: torch.Generator | None) -> Float[Tensor, "n d"]:
    """Standard normal noise, one vector a row, for Gaussians of these means."""
    return torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=mean.device)


def given_noise(mean: Tensor, scale: Tensor, noise: Tensor) -> Drawn:
    """Draws of Gaussians by standard normal noise, shape [n, d] or [n, k, d]."""
    if noise.ndim > mean.ndim:
        mean, scale = mean[:, None], scale[:, None]
    return Drawn(mean + times(scale, noise), mean, scale)


class Masked(nn.Linear):
    """An affine layer in which an output sees those inputs alone whose degree is at most its own (Germain et al. 2015).

    The mask follows from the degrees: it is in no artefact.
    """

    mask: Tensor

    def __init__(self, degrees: Tensor, own: Tensor) -> None:
        super().__init__(len(degrees), len(own))
        self.register_buffer("mask", (degrees[None] <= own[:, None]).to(self.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """As a layer with weights of 0 where the mask is 0."""
        return functional.linear(x, self.weight * self.mask, self.bias)


def degrees(d: int) -> Int[Tensor, " units"]:
    """The last place that each hidden unit of a step sees; -1 for one that sees h alone.

    Up to `HIDDEN` latents every place but the last is that of some unit. Above, the units are spread evenly, so that a
    place is told of all places that are `ceil((d - 1) / (HIDDEN - 1))` before it or more, and perhaps of nearer ones.
    """
    units = torch.arange(HIDDEN)
    return units % d - 1 if d <= HIDDEN else units * (d - 1) // (HIDDEN - 1) - 1


@final
class Step(nn.Module):
    """`z_i -> exp(a_i) z_i + b_i`, a_i and b_i functions of h and of the z that come before i; |a_i| < `STRETCH`.

    The last layer begins at 0, so that the step begins as the identity.
    """

    def __init__(self, d: int, *, backwards: bool) -> None:
        super().__init__()
        place = torch.arange(d).flip(0) if backwards else torch.arange(d)
        hidden = degrees(d)
        self.first, self.second = Masked(place, hidden), Masked(hidden, hidden)
        self.last = Masked(hidden, (place - 1).repeat(2))
        self.told = nn.Linear(CONTEXT, HIDDEN)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Float[Tensor, "*n d"], Float[Tensor, "*n"]]:
        """The z after the step, and the log of the volume that it stretches, nats."""
        seen = functional.silu(self.first(z) + self.told(h))
        stretch, shift = self.last(functional.silu(self.second(seen))).chunk(2, -1)
        log_scale = STRETCH * torch.tanh(stretch / STRETCH)
        return z * log_scale.exp() + shift, log_scale.sum(-1)


@final
class FlowEncoder(nn.Module):
    """q(z|x) whose draws are those of a Gaussian, moved by steps; every second step goes through the latents backwards.

    Called as an encoder it answers for each row one code, that of no noise, and zeros: q is no Gaussian. Zeros are no
    standard deviations, but could be log-variances: `bring.modules` refuses this encoder by its type. `draw` is what q
    is.
    """

    def __init__(self, base: nn.Module, d: int, steps: int) -> None:
        """Take the encoder of the base, x -> mean, standard deviation and h, the latent dimension, and how many steps.

        The steps begin as the identity, and q as the base.
        """
        super().__init__()
        self.base = base
        self.steps = nn.ModuleList(Step(d, backwards=i % 2 == 1) for i in range(steps))

    def forward(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Codes of no noise, and zeros."""
        mean, _, h = self.base(x)
        z, _ = self._moved(mean, h)
        return z, torch.zeros_like(z)

    def draw(
        self,
        x: Float[Tensor, "n *datum"],
        *,
        rng: torch.Generator | None = None,
        noise: Float[Tensor, "n d"] | Float[Tensor, "n k d"] | None = None,
    ) -> Drawn:
        """Draws z ~ q(z|x) and log q(z|x) there, from standard normal `noise`, or one a row from `rng`."""
        mean, scale, h = self.base(x)
        noise = normal_like(mean, rng) if noise is None else noise.to(mean)
        drawn = given_noise(mean, scale, noise)
        z, stretched = self._moved(drawn.z, h[:, None] if noise.ndim > mean.ndim else h)
        # by the noise itself: (z - mean) / scale would lose digits where the scale is small
        log_base = -0.5 * (noise.shape[-1] * LOG_2PI + noise.square().sum(-1)) - drawn.scale.log().sum(-1)
        return Drawn(z, drawn.mean, drawn.scale, log_base - stretched)

    def _moved(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The z after all steps, and the log of the volume that they stretch."""
        stretched = torch.zeros_like(z[..., 0])
        for step in self.steps:
            z, by = step(z, h)
            stretched = stretched + by
        return z, stretched

"""A small encoder in float64 and a VAE of the data on a ring, for the tests of priors that are learned."""

import math

import torch
from torch import Tensor, nn

from zprime.data import Rows
from zprime.learned import (
    AggregatedPrior,
    CoresetPrior,
    ExemplarsPrior,
    FlowPrior,
    LearnedPrior,
    MixturePrior,
    VampPrior,
)
from zprime.rng import stream
from zprime.trainable_prior import TrainablePrior
from zprime.vae import VAE, VAESettings

N, D = 12, 2
SETTINGS: dict[str, LearnedPrior] = {
    "vamp": VampPrior(components=4),
    "mixture": MixturePrior(components=3),
    "mixture, full": MixturePrior(components=3, covariance="full"),
    "flow": FlowPrior(transforms=2, hidden=(8,)),
    "flow, nsf": FlowPrior("nsf", transforms=2, hidden=(8,)),
    "exemplars": ExemplarsPrior(0, 0),
    "aggregated": AggregatedPrior(0, 0),
    "coreset": CoresetPrior(components=4),
}


class Small(nn.Module):
    """Mean and scale are smooth functions of x."""

    def __init__(self) -> None:
        super().__init__()
        rng = stream(0, "encoder")
        self.a = nn.Parameter(torch.randn(3, D, generator=rng, dtype=torch.float64))
        self.b = nn.Parameter(0.3 * torch.randn(3, D, generator=rng, dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x @ self.a).tanh() * 2, (x @ self.b - 0.7).exp()


def rows() -> Tensor:
    return torch.randn(N, 3, generator=stream(0, "x"), dtype=torch.float64)


def begun(settings: LearnedPrior, encoder: nn.Module, *, moved: float = 0.2) -> TrainablePrior:
    """In float64, and with parameters that are not those of the start."""
    prior = settings.make(D)
    prior.begin(encoder, rows(), stream(0, "prior"))
    prior.double()
    rng = stream(0, "moved")
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(moved * torch.randn(p.shape, generator=rng, dtype=torch.float64))
        for name, p in prior.named_parameters():
            if name == "free":
                p.clamp_(0.1, 0.9)  # at the walls of the box there is no derivative
    prior.refresh()
    prior.before_batch(torch.arange(N), rng)
    return prior


def ring(n: int, name: str) -> Rows:
    """Rows on a circle of radius 1 with a noise of 0.1."""
    rng = stream(0, "ring", name)
    angle = 2 * math.pi * torch.rand(n, generator=rng)
    x = torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=rng)
    return Rows(name, x, torch.arange(n))


RING = VAESettings(latents=2, hidden=(32, 32), scale=0.1)


def in_the_hole(vae: VAE) -> float:
    """Share of draws of p(z) that are decoded to the inner half of the disc, where no data are."""
    assert not isinstance(vae.prior, TrainablePrior)
    z = vae.prior.sample(2000, rng=stream(0, "hole"))  # type: ignore[call-arg]
    with torch.no_grad():
        return float((vae.decode(z.float()).mean.norm(dim=1) < 0.5).double().mean())

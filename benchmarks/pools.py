"""Rows and samples of which a known share are copies: what clearing.py judges, and before.py by the rule before."""

import torch
from torch import Tensor

from zprime.measure.samples.copying import Neighbours, TrainingSet
from zprime.rng import stream

COLUMNS, LATENTS, VAR = 12, 6, 0.01
TRAIN, UNSEEN = 400, 300
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
SIZES = (50, 300, 1000, 2000)
KINDS = {"rows": "training rows", "codes": "draws of training posteriors, decoded"}
DOUBLE = torch.float64


class Pools:
    """One training set, and the pools that samples are taken from."""

    def __init__(self, seed: int) -> None:
        self.rng = stream(seed, "clearing")
        basis = torch.linalg.qr(torch.randn(COLUMNS, LATENTS, generator=self.rng, dtype=DOUBLE)).Q
        self.weight = basis * torch.linspace(1.5, 0.7, LATENTS, dtype=DOUBLE)
        self.train = self.draw(TRAIN)
        self.codes, self.scale = self.encode(self.train)
        self.set = TrainingSet(self.train, self.codes, reference=UNSEEN, seed=seed)
        real, unseen = self.draw(UNSEEN), self.draw(UNSEEN)
        self.real = self.set.neighbours(real)
        mean, scale = self.encode(unseen)
        self.unseen = self.find(mean + scale * torch.randn(mean.shape, generator=self.rng, dtype=DOUBLE))
        most = SIZES[-1]
        self.honest = self.find(torch.randn(most, LATENTS, generator=self.rng, dtype=DOUBLE))
        at = torch.randint(TRAIN, (most,), generator=self.rng)
        self.copies = {"rows": self.set.neighbours(self.train[at]), "codes": self.find(self.at_codes(at, 1.0))}

    def draw(self, n: int) -> Tensor:
        z = torch.randn(n, LATENTS, generator=self.rng, dtype=DOUBLE)
        return z @ self.weight.T + VAR**0.5 * torch.randn(n, COLUMNS, generator=self.rng, dtype=DOUBLE)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = self.weight.square().sum(0) + VAR
        mean = x @ self.weight / precision
        return mean, (VAR / precision).sqrt().expand_as(mean)

    def at_codes(self, at: Tensor, part: float) -> Tensor:
        noise = torch.randn(len(at), LATENTS, generator=self.rng, dtype=DOUBLE)
        return self.codes[at] + part * self.scale[at] * noise

    def find(self, z: Tensor) -> Neighbours:
        return self.set.neighbours(z @ self.weight.T)

    def sample(self, kind: str, share: float, n: int) -> Neighbours:
        """Each of n rows a copy with this probability."""
        coin = torch.rand(n, generator=self.rng) < share
        return mixed(self.honest.take(slice(n)), self.copies[kind].take(slice(n)), coin)


def mixed(a: Neighbours, b: Neighbours, coin: Tensor) -> Neighbours:
    """Rows of `b` where the coin is True."""
    pairs = ((a.distance, b.distance), (a.parent, b.parent), (a.cell, b.cell), (a.isolation, b.isolation))
    return Neighbours(*(torch.where(coin.reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in pairs))

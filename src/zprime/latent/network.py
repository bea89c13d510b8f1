"""Latent distributions that are networks on whitened z: whitening, weights as stored tensors, density in blocks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import blocks, check_matrix, row_major
from zprime.distribution import LatentDistribution
from zprime.latent.gaussian import moments
from zprime.posteriors import Posteriors
from zprime.schema import FACTOR, FINITE, Array, Items, Whole, enough

ROWS = 1024  # points that a network sees at once where nothing is trained: its numbers stay in cache

M = TypeVar("M", bound=nn.Module)

TENSORS = {
    "mean": Array({"d": FINITE}),
    "scale_tril": Array({"d d": FACTOR}),
    "net.*": Array({"*": FINITE}, "any"),
}
"""What `NetworkDistribution.tensors` gives, for the schemas of its kinds."""
HIDDEN = Items(Whole(1, 1 << 20), 1, 64)
"""Widths of hidden layers, for schemas."""


@dataclass(frozen=True)
class Whitening:
    """u = L^-1 (z - m), with the mean m and the Cholesky factor L of the covariance of the aggregated posterior.

    A density s of u is the density `s(u) / det L` of z. So a fit to u starts at N(0, I), the moment match of z, and
    sees the same scales whatever the latent space.
    """

    mean: Float[Tensor, " d"]
    scale_tril: Float[Tensor, "d d"]

    @classmethod
    def of(cls, posteriors: Posteriors) -> "Whitening":
        """Moments of the aggregated posterior, in the posteriors' dtype."""
        mean, covariance = moments(posteriors)
        factor, info = torch.linalg.cholesky_ex(covariance)
        if int(info):  # scales so far apart that rounding took the last digit: keep the variances alone
            factor = covariance.diagonal().sqrt().diag()
        dtype = next(iter(posteriors.shards())).mean.dtype
        return cls(mean.to(dtype), factor.to(dtype))

    @classmethod
    def none(cls, posteriors: Posteriors) -> "Whitening":
        """Leave z as it is."""
        dtype = next(iter(posteriors.shards())).mean.dtype
        return cls(torch.zeros(posteriors.d, dtype=dtype), torch.eye(posteriors.d, dtype=dtype))

    @property
    def d(self) -> int:
        """Latent dimension."""
        return len(self.mean)

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor]) -> "Whitening":
        """What `tensors` gave."""
        return cls(tensors["mean"], tensors["scale_tril"])

    @property
    def log_det(self) -> float:
        """The log-determinant of L, in nats."""
        return float(self.scale_tril.diagonal().double().log().sum())

    def whiten(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From z to u, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.d)
        gap = z.double() - self.mean.double()
        u: Tensor = torch.linalg.solve_triangular(self.scale_tril.double(), gap.T, upper=False)
        return u.T.contiguous()

    def colour(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From u to z, in the posteriors' dtype."""
        return (self.mean.double() + u.double() @ row_major(self.scale_tril).double().T).to(self.mean.dtype)

    def noise(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Standard normal numbers for the networks, float32, shape [*shape, d]."""
        return torch.randn(*shape, self.d, generator=rng, device=self.mean.device)

    def tensors(self) -> dict[str, Tensor]:
        """Mean and Cholesky factor."""
        return {"mean": self.mean, "scale_tril": self.scale_tril}


@dataclass(frozen=True, repr=False, eq=False)
class NetworkDistribution(LatentDistribution, Generic[M]):
    """A latent distribution that is a network on whitened z.

    Attributes:
        net: the network.
        whitening: between z and the network's u.
    """

    net: M
    whitening: Whitening

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.whitening.d

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the network, mean, Cholesky factor."""
        return {**self.whitening.tensors(), **weights(self.net)}


def build(make: Callable[[], M], *, rng: torch.Generator) -> M:
    """Make a network whose random weights come from the stream of `rng`; torch's own generator does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.initial_seed())
        return make()


def skeleton(make: Callable[[], M], tensors: Mapping[str, Tensor], *widths: int, times: int = 1) -> M:
    """Make a network and give it stored weights, under the names `net.*`.

    Args:
        make: makes it.
        tensors: where the weights are.
        widths: of the layers of one network in it; it is not made if it has more weights than were stored.
        times: how many such networks it has.

    Raises:
        Refused: it has more weights than `tensors`.
        RuntimeError: names or shapes do not fit (`distribution.rebuild` turns it into an ArtifactError).
    """
    enough(tensors, widths, times=times)
    net = build(make, rng=torch.Generator())
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}, strict=True)
    device = next(iter(tensors.values())).device
    return net.to(device).requires_grad_(requires_grad=False)


def weights(net: nn.Module) -> dict[str, Tensor]:
    """What `skeleton` takes back."""
    return {f"net.{k}": v.detach() for k, v in net.state_dict().items()}


def frozen(net: M) -> M:
    """A copy without gradients, which later steps do not move."""
    return copy.deepcopy(net).requires_grad_(requires_grad=False)


def precise(net: M, dtype: torch.dtype) -> M:
    """The network with its float32 weights in the dtype that a density is asked for in."""
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    return net if next(net.parameters()).dtype == wanted else copy.deepcopy(net).to(wanted)


class MLP(nn.Sequential):
    """Hidden layers with SiLU; the last layer starts at zero, so that what it is added to is where a fit starts."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *hidden), hidden, strict=False):
            layers += [nn.Linear(a, b), nn.SiLU()]
        last = nn.Linear(hidden[-1], outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(*layers, last)


def by_rows(f: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], rows: int = ROWS) -> Tensor:
    """Apply `f` to blocks of rows, and put the answers together; without gradients unless `x` asks for its own."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
        return torch.cat([f(x[part]) for part in blocks(len(x), rows)]) if len(x) else f(x)

"""Parts of larger networks: gated dense layers, and residual convolutions with group norm."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from zprime.heads import Ends, answer_of, head_of

GROUPS = 8  # of channels that are normalised together, at most


@final
class GatedDense(nn.Module):
    """An affine layer times the sigmoid of another (Tomczak & Welling 2018)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.h, self.g = nn.Linear(a, b), nn.Linear(a, b)

    def forward(self, x: Float[Tensor, "n a"]) -> Float[Tensor, "n b"]:
        """Of all rows."""
        gated: Tensor = self.h(x) * self.g(x).sigmoid()
        return gated


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(g for g in range(min(GROUPS, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


@final
class Block(nn.Module):
    """Two 3 x 3 convolutions, each after group norm and SiLU, beside a way around them (He et al. 2016; Wu & He 2018).

    Group norm looks at one row alone, so no row depends on its batch.
    """

    def __init__(self, a: int, b: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(a), nn.SiLU(), nn.Conv2d(a, b, 3, stride, padding=1))
        self.second = nn.Sequential(_norm(b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1))
        around = a == b and stride == 1
        self.around = nn.Identity() if around else nn.Conv2d(a, b, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features of `stride` times smaller height and width, rounded up."""
        out: Tensor = self.around(x) + self.second(self.first(x))
        return out


@final
class ResidualEncoder(nn.Module):
    """Residual blocks, two of them in steps of 2, and a dense layer, for images [channels, height, width]."""

    def __init__(self, shape: Sequence[int], d: int, width: int = 32, dense: int = 256, ends: Ends = Ends()) -> None:
        super().__init__()
        c, h, w = shape
        self.conv = nn.Sequential(
            nn.Conv2d(c, width, 3, padding=1),
            Block(width, width, stride=2),
            Block(width, width),
            Block(width, 2 * width, stride=2),
            Block(2 * width, 2 * width),
            _norm(2 * width),
            nn.SiLU(),
        )
        self.dense = nn.Sequential(nn.Linear(2 * width * -(-h // 4) * -(-w // 4), dense), nn.SiLU())
        self.head = head_of(dense, d, ends)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the head answers: mean and standard deviation of q(z|x), shape [n, d] each, or as `heads` has it."""
        h = self.conv(x.contiguous(memory_format=torch.channels_last))
        answer: tuple[Tensor, ...] = self.head(self.dense(h.flatten(1)))
        return answer


@final
class ResidualDecoder(nn.Module):
    """A dense layer and residual blocks, between which height and width are doubled, cropped to the image."""

    def __init__(self, shape: Sequence[int], d: int, width: int = 32, dense: int = 256, ends: Ends = Ends()) -> None:
        super().__init__()
        self.shape = answer_of(shape, ends)
        c, h, w = shape
        self.grid = (2 * width, -(-h // 4), -(-w // 4))
        self.dense = nn.Sequential(nn.Linear(d, dense), nn.SiLU(), nn.Linear(dense, int(torch.Size(self.grid).numel())))
        self.small = nn.Sequential(Block(2 * width, 2 * width), Block(2 * width, width))
        self.middle = Block(width, width)
        self.large = nn.Sequential(Block(width, width), _norm(width), nn.SiLU())
        self.out = nn.Conv2d(width, c * ends.outputs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Likelihood parameters, shape [n, *shape], or [n, outputs, *shape]."""
        h = self.dense(z).unflatten(1, self.grid).contiguous(memory_format=torch.channels_last)
        h = self.middle(functional.interpolate(self.small(h), scale_factor=2.0))
        h = self.large(functional.interpolate(h, scale_factor=2.0))
        image: Tensor = self.out(h)[..., : self.shape[-2], : self.shape[-1]]
        return image.reshape(z.shape[0], *self.shape)

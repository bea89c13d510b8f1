"""Small encoders and decoders: enough to train a useful VAE on a laptop."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from zprime import memory
from zprime.errors import UsageError
from zprime.heads import Ends, answer_of, head_of
from zprime.posterior_flow import FlowEncoder
from zprime.residual import GatedDense, ResidualDecoder, ResidualEncoder

IMAGE = 3


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers)


def _gated(sizes: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(GatedDense(a, b) for a, b in pairwise(sizes)))


BODIES: Mapping[str, Callable[[Sequence[int]], nn.Sequential]] = {"mlp": _mlp, "gated-mlp": _gated}
"""Hidden layers, by the name of the network."""


class MLPEncoder(nn.Module):
    """A multilayer perceptron: the flattened datum, hidden layers, and the head."""

    def __init__(
        self,
        shape: Sequence[int],
        d: int,
        hidden: Sequence[int] = (256, 256),
        ends: Ends = Ends(),
        body: Callable[[Sequence[int]], nn.Sequential] = _mlp,
    ) -> None:
        super().__init__()
        size = int(torch.Size(shape).numel())
        self.body = body([size, *hidden])
        self.head = head_of(hidden[-1] if hidden else size, d, ends)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the head answers: mean and standard deviation of q(z|x), shape [n, d] each, or as `heads` has it."""
        answer: tuple[Tensor, ...] = self.head(self.body(x.flatten(1)))
        return answer


class MLPDecoder(nn.Module):
    """A multilayer perceptron: hidden layers, then one number for each pixel or column."""

    def __init__(
        self,
        shape: Sequence[int],
        d: int,
        hidden: Sequence[int] = (256, 256),
        ends: Ends = Ends(),
        body: Callable[[Sequence[int]], nn.Sequential] = _mlp,
    ) -> None:
        super().__init__()
        self.shape = answer_of(shape, ends)
        size = int(torch.Size(self.shape).numel())
        self.body = body([d, *hidden])
        self.out = nn.Linear(hidden[-1] if hidden else d, size)

    def forward(self, z: Tensor) -> Tensor:
        """Likelihood parameters, shape [n, *shape], or [n, outputs, *shape]."""
        parameters: Tensor = self.out(self.body(z))
        return parameters.reshape(z.shape[0], *self.shape)  # a number that torch.export keeps open, not so len(z)


class ConvEncoder(nn.Module):
    """Two strided convolutions and a dense layer, for images [channels, height, width]."""

    def __init__(self, shape: Sequence[int], d: int, width: int = 32, dense: int = 256, ends: Ends = Ends()) -> None:
        super().__init__()
        c, h, w = shape
        self.conv = nn.Sequential(
            nn.Conv2d(c, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
        )
        self.dense = nn.Sequential(nn.Linear(2 * width * (h // 4) * (w // 4), dense), nn.SiLU())
        self.head = head_of(dense, d, ends)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the head answers: mean and standard deviation of q(z|x), shape [n, d] each, or as `heads` has it."""
        h = self.conv(x.contiguous(memory_format=torch.channels_last))
        answer: tuple[Tensor, ...] = self.head(self.dense(h.flatten(1)))
        return answer


class _ToImage(nn.ConvTranspose2d):
    """The transposed convolution that ends a decoder: 4 x 4, in steps of 2.

    For one output channel torch's convolution takes as long as for thirty-two. A matrix product and `fold` take a third
    of that time, and are used in its place. Where no gradient is wanted, sums of whole planes take a fifth of it, with
    the same bits.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(width, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Features to images of twice the height and width."""
        if self.out_channels > 1 or self.bias is None:
            return super().forward(x, output_size)
        height, width = x.shape[2:]
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):  # exported, planes are many operations
            return self._planes(x) + self.bias[:, None, None]
        parts = x.permute(0, 2, 3, 1).flatten(1, 2) @ self.weight.flatten(1)  # channels last: no copy
        image = functional.fold(parts.transpose(1, 2), (2 * height, 2 * width), 4, padding=1, stride=2)
        return image + self.bias[:, None, None]

    def _planes(self, x: Tensor) -> Tensor:
        """What `fold` adds up, in its order: each entry of 2 x 2 blocks of the image is a sum of four planes."""
        n, _, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        parts = (self.weight.flatten(1).T @ rows.T).view(2, 2, 2, 2, n, height, width)  # each side: block, place in it
        planes = parts.new_zeros(2, 2, n, height + 1, width + 1)
        for down in (0, 1):
            for right in (0, 1):
                planes[:, :, :, down : down + height, right : right + width] += parts[down, :, right]
        return planes.permute(2, 3, 0, 4, 1).reshape(n, 1, 2 * height + 2, 2 * width + 2)[:, :, 1:-1, 1:-1]


class ConvDecoder(nn.Module):
    """A dense layer and two transposed convolutions, cropped to the image."""

    def __init__(self, shape: Sequence[int], d: int, width: int = 32, dense: int = 256, ends: Ends = Ends()) -> None:
        super().__init__()
        self.shape = answer_of(shape, ends)
        c, h, w = shape
        self.grid = (2 * width, -(-h // 4), -(-w // 4))
        self.dense = nn.Sequential(
            nn.Linear(d, dense), nn.SiLU(), nn.Linear(dense, int(torch.Size(self.grid).numel())), nn.SiLU()
        )
        self.conv = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            _ToImage(width, c * ends.outputs),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Likelihood parameters, shape [n, *shape], or [n, outputs, *shape]."""
        h = self.dense(z).unflatten(1, self.grid).contiguous(memory_format=torch.channels_last)
        parameters: Tensor = self.conv(h)
        image = parameters[..., : self.shape[-2], : self.shape[-1]]
        return image if len(self.shape) == IMAGE else image.reshape(z.shape[0], *self.shape)


IMAGES: Mapping[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "conv": (ConvEncoder, ConvDecoder),
    "residual": (ResidualEncoder, ResidualDecoder),
}
"""Networks for images, by name: encoder and decoder."""


@torch.no_grad()
def start_at(decoder: nn.Module, output: Tensor) -> None:
    """Set the last bias of a new decoder, so that it begins near `output` whatever z is.

    Args:
        decoder: of ours.
        output: what it answers for a datum; a convolution, which has one bias a channel, takes the mean of each.
    """
    if isinstance(decoder, ConvDecoder):
        decoder.conv[-1].bias.copy_(output.mean((-2, -1)).flatten())  # type: ignore[operator]
    elif isinstance(decoder, ResidualDecoder):
        decoder.out.bias.copy_(output.mean((-2, -1)).flatten())  # type: ignore[union-attr]
    elif isinstance(decoder, MLPDecoder):
        decoder.out.bias.copy_(output.flatten())


def build(
    name: str, shape: Sequence[int], d: int, *, hidden: Sequence[int], width: int, ends: Ends = Ends()
) -> tuple[nn.Module, nn.Module]:
    """Make the encoder and decoder of the architecture called `name`, for data of `shape` and `d` latents.

    Some likelihoods have the encoder see something else than the rows: see `Ends`. A flow lies on the encoder.

    Raises:
        UsageError: unknown name, or one of `IMAGES` for data that are not images of at least 8 x 8.
    """
    encoder, decoder = _build(name, shape, d, hidden, width, ends)
    encoder = encoder if ends.before is None else nn.Sequential(ends.before, encoder)
    return FlowEncoder(encoder, d, ends.steps) if ends.posterior == "flow" else encoder, decoder


def _build(
    name: str, shape: Sequence[int], d: int, hidden: Sequence[int], width: int, ends: Ends
) -> tuple[nn.Module, nn.Module]:
    seen = (ends.inputs * shape[0], *shape[1:])
    if name in BODIES:
        return MLPEncoder(seen, d, hidden, ends, BODIES[name]), MLPDecoder(shape, d, hidden, ends, BODIES[name])
    if name in IMAGES:
        if len(shape) != IMAGE or min(shape[1:]) < 8:
            raise UsageError(
                f"network: {name} needs images [channels, height, width] of at least 8 x 8, got {list(shape)}; use mlp"
            )
        encoder, decoder = IMAGES[name]
        net: tuple[nn.Module, nn.Module] = encoder(seen, d, width, ends=ends), decoder(shape, d, width, ends=ends)
        for module in net:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net
    raise UsageError(f"network: expected {', '.join(BODIES)}, {' or '.join(IMAGES)}, got {name!r}")


def count(
    name: str, shape: Sequence[int], d: int, *, hidden: Sequence[int], width: int, ends: Ends = Ends()
) -> int | float:
    """Number of weights that `build` would make, without making them; inf where torch cannot count them.

    Raises:
        UsageError: as for `build`.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            parts = build(name, shape, d, hidden=hidden, width=width, ends=ends)
    except (RuntimeError, TypeError, OverflowError) as error:
        if memory.ran_out(error) is not None:
            raise
        return math.inf  # sizes beyond 64 bits
    return sum(p.numel() for part in parts for p in part.parameters())


def gradient_step(optimiser: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """One step of the optimiser down `loss`; no other parameters get a gradient.

    Args:
        optimiser: holds the parameters.
        loss: a number.
        clip: largest norm of the gradient; a longer one is scaled down to it.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()

"""Latents with a shape: what an encoder answers, as positions of a grid with their channels, and as rows to bring.

A latent of shape [channels, height, width], [channels, time, height, width] or [time, channels] is P positions of C
channels. Diffusion models are trained on the whole grid; what it is scaled by is one number, or one a channel.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import blocks, check_finite
from zprime.bring.brought import Brought, groups_of
from zprime.bring.callables import asked
from zprime.bring.places import Place, modules_of, tensor, unwrapped
from zprime.bring.refusals import check_steady
from zprime.data import Rows
from zprime.decoders import evaluating
from zprime.errors import ArrayError, UsageError
from zprime.posteriors import MemoryPosteriors
from zprime.progress import in_pieces, shown
from zprime.rng import stream

BATCH = 32
STEADY = 8  # rows on which it is looked whether the encoder's answers are the same at the next call


@dataclass(frozen=True)
class Layout:
    """The shape of one datum's latents, and which of its axes holds the channels.

    Attributes:
        shape: without the axis of the data.
        channels: an axis of `shape`, from 0.
    """

    shape: tuple[int, ...]
    channels: int

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[self.channels]

    @property
    def positions(self) -> int:
        """Number of positions."""
        return math.prod(self.shape) // self.width

    def flat(self, z: Float[Tensor, "n *grid"]) -> Float[Tensor, "n p c"]:
        """Latents of the model, position by position."""
        return z.movedim(1 + self.channels, -1).flatten(1, -2)

    def grid(self, z: Float[Tensor, "n p c"]) -> Float[Tensor, "n *grid"]:
        """The other way round."""
        others = [size for axis, size in enumerate(self.shape) if axis != self.channels]
        return z.reshape(len(z), *others, self.width).movedim(-1, 1 + self.channels)


@dataclass(frozen=True, eq=False)
class Grid:
    """Latents of some data, position by position.

    Attributes:
        mean: of q(z|x), or the code where there is no distribution.
        scale: its standard deviations; None for codes.
    """

    mean: Float[Tensor, "n p c"]
    scale: Float[Tensor, "n p c"] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def scaled(self, shift: Float[Tensor, "#p c"], factor: Float[Tensor, "#p c"]) -> Iterator["Grid"]:
        """`(z - shift) * factor` in float64, some data at a time."""
        for rows in blocks(len(self), BATCH):
            mean = (self.mean[rows].double() - shift) * factor
            yield Grid(mean, None if self.scale is None else self.scale[rows].double() * factor.abs())

    def draw(self, rng: torch.Generator) -> Float[Tensor, "n p c"]:
        """A draw for each datum, float64; the codes themselves where there is no distribution."""
        if self.scale is None:
            return self.mean.double()
        noise = torch.randn(self.mean.shape, generator=rng, dtype=self.mean.dtype)
        return (self.mean + self.scale * noise).double()


@dataclass(frozen=True)
class Encoder:
    """An autoencoder with `encode(x)`, and where it computes.

    Attributes:
        vae: the model.
        channels: the axis of its latents that holds the channels, as in [n, C, *grid].
        place: None where it has no parameters.
        networks: in evaluation mode while it computes.
    """

    vae: Any
    channels: int
    place: Place | None
    networks: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, vae: Any, channels: int) -> "Encoder":
        """Find where the model lives.

        Raises:
            UsageError: it has no `encode`, its latents are discrete, or axis 0 is said to hold the channels.
        """
        vae = unwrapped(vae) if isinstance(vae, nn.Module) else vae
        if isinstance(vae, str | bytes) or not callable(getattr(vae, "encode", None)):  # a text has an `encode`, too
            raise UsageError(
                f"vae: expected a model with encode(x), got {type(vae).__name__}; give the model itself, e.g. "
                "AutoencoderKL.from_pretrained(folder)"
            )
        if isinstance(getattr(vae, "quantize", None), nn.Module):
            raise UsageError(
                f"vae: {type(vae).__name__} has a code book (VQ): discrete latents have no density here; fit a prior "
                "over the indices with the library that trained the model"
            )
        if channels == 0:
            raise UsageError("channels: expected an axis of the latents other than 0 (which counts the data), got 0")
        networks = [vae] if isinstance(vae, nn.Module) else modules_of(vae.encode)
        return cls(vae, channels, Place.of(networks), tuple(networks))

    @torch.no_grad()
    def answers(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor | None]:
        """Means and standard deviations (or codes and None) as the model shapes them, in float32 at least."""
        place = self.place or Place(dtype=x.dtype)
        with evaluating(self.networks):
            answer = asked("vae.encode", self.vae.encode, place.go(x))
        q = getattr(answer, "latent_dist", None)
        found = next((t for t in (getattr(answer, n, None) for n in ("latent", "latents")) if t is not None), None)
        if q is None and found is None:
            raise UsageError(
                f"vae.encode: expected an answer with latent_dist, latent or latents, got {type(answer).__name__}; "
                "wrap your model so that encode(x) returns one, e.g. types.SimpleNamespace(latents=z)"
            )
        std = getattr(q, "std", getattr(q, "stddev", None))
        mean = found if q is None else q.mode() if std is None else q.mean
        z = place.back(mean)
        if not z.is_floating_point():
            raise UsageError(
                f"vae.encode: expected floating-point latents, got {z.dtype}: discrete latents have no density"
            )
        if std is None:
            return z, None
        log_var = getattr(q, "logvar", None)
        if tensor(std).dtype == torch.float16 and isinstance(log_var, Tensor) and bool((tensor(std) > 0).any()):
            return z, (0.5 * place.back(log_var)).exp()  # float16 rounds small standard deviations to 0
        return z, place.back(std)

    def layout(self, x: Float[Tensor, "n *datum"]) -> Layout:
        """That of the latents, after a look at whether the answers are the same at the next call.

        Raises:
            ArrayError: latents are vectors, or have no such axis.
            UsageError: the answers change with the call or the batch.
        """
        some = x[:STEADY]
        shape = tuple(self.answers(some)[0].shape)
        if len(shape) < 3 or shape[0] != len(some):
            raise ArrayError(
                f"vae: expected latents of shape [n, channels, *grid], got {list(shape)}; vectors go to bring.modules"
            )
        if not -len(shape) < self.channels < len(shape):
            raise ArrayError(f"channels: expected an axis of latents of shape {list(shape)}, got {self.channels}")
        half = self.place is not None and self.place.dtype != self.place.wide
        check_steady(lambda x: [t.flatten(1) for t in self.answers(x) if t is not None], some, half=half)
        return Layout(shape[1:], self.channels % len(shape) - 1)

    def encode(self, rows: Rows, layout: Layout) -> Grid:
        """The latents of a split.

        Raises:
            ArrayError: latents of different shapes, or numbers that are not finite.
        """
        means: list[Tensor] = []
        scales: list[Tensor] = []
        pieces = [(block, block.stop - block.start) for block in blocks(len(rows), BATCH)]
        for block, _ in in_pieces(shown, f"encode {len(rows):,} {rows.name} rows", pieces):
            for t, into in zip(self.answers(rows.x[block]), (means, scales), strict=True):
                if t is None:
                    continue
                if tuple(t.shape[1:]) != layout.shape:
                    raise ArrayError(f"vae: expected latents of shape {list(layout.shape)}, got {list(t.shape[1:])}")
                into.append(layout.flat(t))
        mean, scale = torch.cat(means).contiguous(), torch.cat(scales).contiguous() if scales else None
        check_finite(f"vae.encode, latents of {rows.name}", mean)
        if scale is None or not bool(scale.any()):  # a distribution without width is a code
            return Grid(mean)
        check_finite(f"vae.encode, standard deviations of {rows.name}", scale)
        return Grid(mean, scale)


def of_positions(
    grids: Mapping[str, Grid],
    rows: Mapping[str, Rows],
    mean: Float[Tensor, " c"],
    std: Float[Tensor, " c"],
    *,
    seed: int,
) -> Brought:
    """Posteriors (or codes) of positions in units of a channel: all of training, a random one of each other datum."""
    posteriors, codes = {}, {}
    for s, r in rows.items():
        g, n = grids[s], len(r)
        positions = g.mean.shape[1]
        at = torch.arange(positions).expand(n, positions)
        if s != "train":
            at = torch.randint(positions, (n, 1), generator=stream(seed, "position", s))
        which = torch.arange(n)[:, None]
        m, scale = (None if t is None else t[which, at].flatten(0, 1) for t in (g.mean, g.scale))
        assert m is not None  # a grid has means
        posteriors[s] = MemoryPosteriors(
            ((m - mean) / std).to(m.dtype),
            None if scale is None else (scale / std).to(m.dtype),
            row_ids=(r.ids[:, None] * positions + at).flatten(),
            labels=None if r.labels is None else r.labels[:, None].expand(at.shape).flatten(),
        )
        if r.groups is not None:
            codes[s] = r.groups[:, None].expand(at.shape).flatten()
    said = (
        f"a row is one of {positions} positions of a grid, {len(mean)} channels; in units of latents_mean and "
        "latents_std, N(0, I) is one Gaussian a channel. Positions of one image depend on each other: draws of single "
        "positions make no image. Equal positions, as of empty corners, are no copied data: if fit or audit refuse "
        "them, give both keep_duplicates=True"
    )
    return Brought(posteriors, says=(said, narrow(grids)), groups=codes or None)


def of_grids(
    grids: Mapping[str, Grid],
    rows: Mapping[str, Rows],
    layout: Layout,
    mean: Float[Tensor, " c"],
    std: Float[Tensor, " c"],
) -> Brought:
    """Posteriors (or codes) of whole grids, a row each, in units of each channel, in the model's order of numbers."""
    posteriors = {}
    for s, r in rows.items():
        g = grids[s]
        flat = layout.grid(((g.mean - mean) / std).to(g.mean.dtype)).flatten(1)
        scale = None if g.scale is None else layout.grid((g.scale / std).to(g.mean.dtype)).flatten(1)
        posteriors[s] = MemoryPosteriors(flat, scale, row_ids=r.ids, labels=r.labels)
    said = (
        f"a row is a whole grid of shape {list(layout.shape)}, flat; in units of latents_mean and latents_std of its "
        "channel"
    )
    return Brought(posteriors, says=(said, narrow(grids)), groups=groups_of(rows))


def narrow(grids: Mapping[str, Grid]) -> str:
    """What to know of the posteriors of such models."""
    return CODES if grids["train"].scale is None else NARROW


NARROW = (
    "the VAE does not say with which weight its KL term was trained (often 1e-6): q(z|x) is then far narrower than a "
    "posterior, and N(0, I) was hardly its prior; gains compare codes, and nothing else"
)
CODES = (
    "the encoder answers codes and no distribution: gains are those in the log-density of held-out codes over one "
    "Gaussian a channel; no KL, surgery, exact-posterior or likelihood gain"
)

"""Two callables as a model; and what these are made of: encoder, decoder, likelihood, conditions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.bring import readings
from zprime.bring.answers import Spelled
from zprime.bring.conditional_priors import Gaussians
from zprime.bring.conditions import Told
from zprime.bring.places import Place, back
from zprime.bring.refusals import check_form, way_out
from zprime.calls import theirs
from zprime.data.conditions import Layout
from zprime.decoders import evaluating
from zprime.errors import ArrayError

ENCODERS = Callable[..., Any]


@dataclass(frozen=True)
class Callables:
    """Two callables as a model, with the `encode` and `decode` that zprime needs."""

    encoder: ENCODERS
    decoder: Callable[[Tensor], Any]
    gives: str
    place: Place  # where the networks compute, and in what

    def matrices(self, x: Float[Tensor, "n *datum"]) -> list[Tensor]:
        """All matrices that the encoder answers, on the CPU and in float32 at least; two or more of one shape.

        Raises:
            ArrayError: there are not two matrices of one shape, a row for each datum.
            UsageError: it is the answer of a model whose latents are of another sort.
        """
        with evaluating(self.place.networks):
            answer = asked("encoder", self.encoder, self.place.go(x))
        check_form(answer, len(x))
        parts = answer if isinstance(answer, tuple | list) else []
        found = [self.place.back(t) for t in parts if hasattr(t, "shape")]
        shapes = [list(t.shape) for t in found]
        full = self.gives in readings.FULL
        if full and len(shapes) >= 2 and len(shapes[0]) == 2 and shapes[1] == [*shapes[0], shapes[0][1]]:
            return found[:2]
        if full or len(shapes) < 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(x):
            want = f"two matrices (mean and scale) of shape [{len(x)}, d]"
            if full:
                want = f"a mean of shape [{len(x)}, d] and a {self.gives} of shape [{len(x)}, d, d]"
            raise ArrayError(
                f"encode: expected {want}, got {_shapes(answer, shapes)}; {way_out(answer, shapes, len(x))}"
            )
        return [t for t, shape in zip(found, shapes, strict=True) if shape == shapes[0]]

    def raw(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """The encoder's first two answers, mean and scale as it gives them."""
        mean, second, *_ = self.matrices(x)
        return mean, second

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """Mean of q(z|x), and its standard deviations or Cholesky factor."""
        mean, raw = self.raw(x)
        return mean, readings.read(raw, self.gives)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), with a datum as its event."""
        with evaluating(self.place.networks):
            p = self.decoder(self.place.go(z))
        if isinstance(p, Tensor):
            raise ArrayError(
                f"decode: expected a torch Distribution, got Tensor, shape {list(p.shape)}: give likelihood=, which "
                "says what it stands for: 'gaussian' (means), 'bernoulli' (logits), 'bernoulli-probs', 'laplace', "
                "'poisson', or likelihoods.Gaussian(scale=...) with the sigma of the loss"
            )
        if not isinstance(p, Distribution) or p.batch_shape != z.shape[:1]:
            got = f"batch shape {list(p.batch_shape)}" if isinstance(p, Distribution) else type(p).__name__
            raise ArrayError(
                f"decode: expected a torch Distribution with batch shape [{len(z)}] and a datum as its event, got "
                f"{got}; wrap the last dimensions in torch.distributions.Independent, or give likelihood="
            )
        return back(p)


@dataclass(frozen=True)
class Parts:
    """What a model is brought as.

    Attributes:
        encoder: x, and c where there are conditions -> mean and spread.
        decoder: z, and c -> what `likelihood` takes.
        likelihood: the decoder's output -> p(x|z).
        place: where the networks compute.
        layout: of a row that holds x and c; None without conditions.
        prior: of p(z|c); None for one that does not depend on c.
        datum: shape of x.
        pool: conditions that draws take; None takes those of the rows at hand.
    """

    encoder: Spelled
    decoder: Callable[..., Any]
    likelihood: Callable[[Any], Any]
    place: Place
    layout: Layout | None
    prior: Gaussians | None
    datum: tuple[int, ...]
    pool: Float[Tensor, "m c"] | None = None

    @torch.no_grad()
    def named(self, row: Float[Tensor, "n *datum"]) -> str | None:
        """The reading that the names in the encoder's answer say; None where it has no names."""
        told = self.told(row, "")
        with evaluating(self.place.networks):
            if told is None:
                given = [self.place.go(row)]
            else:
                x, c = told.layout.parts(row)
                given = [self.place.go(x), told.go(c)]
            reading: str | None = asked("encoder", self.encoder.named, *given)[1]
            return reading

    def told(self, row: Float[Tensor, "n *datum"], gives: str) -> Told | None:
        """The same, with conditions that draws take: of the pool, or of some rows; None without conditions."""
        if self.layout is None:
            return None
        pool = self.layout.parts(row)[1] if self.pool is None else self.pool
        return Told(self.encoder, self._decode, self.prior, gives, self.layout, pool, self.place)

    def model(self, row: Float[Tensor, "n *datum"], gives: str) -> Callables:
        """Encoder and decoder of rows."""
        told = self.told(row, gives)
        if told is None:
            return Callables(self.encoder, self._decode, gives, self.place)
        return Callables(told.encode, told.decode, gives, Place(dtype=self.place.wide))

    def unconditional(self, row: Float[Tensor, "n *datum"], gives: str) -> Callables:
        """The same with its own z, where latents are in units of p(z|c) else."""
        return replace(self, prior=None).model(row, gives)

    def _decode(self, z: Tensor, *c: Tensor) -> Any:
        return self.likelihood(as_datum(asked("decoder", self.decoder, z, *c), self.datum))


def as_datum(output: Any, datum: tuple[int, ...]) -> Any:
    """A decoder's flat output in the shape of a datum, or the other way round; anything else as it is."""
    shape = tuple(getattr(output, "shape", ()))[1:]
    one_is_flat = min(len(shape), len(datum)) == 1
    if shape == datum or not one_is_flat or math.prod(shape) != math.prod(datum):
        return output
    return output.reshape(-1, *datum)


def asked(name: str, f: Callable[..., Any], *given: Tensor) -> Any:
    """What an encoder or a decoder answers.

    Raises:
        UsageError: it fails; the message says with what it was called.
    """

    def says(error: BaseException) -> str:
        way = remedy(str(error), conditions=len(given) > 1)
        return f"{name}: it fails when it is given {_said(given)} ({type(error).__name__}: {error}); {way}"

    with theirs(says):
        return f(*given)


def remedy(said: str, *, conditions: bool) -> str:
    """What to do about an encoder or a decoder that fails; `conditions` says whether it was told any."""
    if "positional argument" in said and conditions:
        return "with conditions they are called as encoder(x, c) and decoder(z, c); give functions of two arguments"
    if "positional argument" in said:
        return (
            "give what else it asks for, such as a class, as conditions={'train': c, 'heldout': c} (on the command "
            "line --conditions label, or a column), or a function of one argument that knows it"
        )
    if "requires grad" in said:
        return "a gradient is asked for here, and numpy has none: give one that computes with torch alone"
    if "embedding" in said or "Long" in said:
        return "numbers come as floating point: where it wants whole ones, give e.g. `lambda x: encoder(x.long())`"
    if conditions:
        return (
            "give data and conditions as they were in training (classes may have been one-hot: "
            "torch.nn.functional.one_hot(c, k).float()), or a function around it that makes them so"
        )
    return "give rows as it had them in training, or a function around it that makes them so, e.g. by x.flatten(1)"


def _shapes(answer: object, shapes: list[list[int]]) -> str:
    if isinstance(answer, Tensor):
        return f"one tensor of shape {list(answer.shape)}"
    return " and ".join(map(str, shapes)) or type(answer).__name__


def _said(given: tuple[Tensor, ...]) -> str:
    return " and ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in given)

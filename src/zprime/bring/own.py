"""What a function of the user's own returns, as a model: tried on rows once, and put together again later."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.bring.answers import Spelled
from zprime.bring.callables import Parts, remedy
from zprime.bring.conditional_priors import gaussians
from zprime.bring.conditions import Conditioned
from zprime.bring.coordinates import Coordinates, Moved
from zprime.bring.named import Likelihood, distribution_of, need_callable, plain
from zprime.bring.places import Place, modules_of
from zprime.bring.refusals import check_no_flow
from zprime.bring.spelling import KNOWN, in_dict, of_dict
from zprime.bring.trial import Claims, Tried, tried
from zprime.bring.whole import decoder_of, encoder_named, find_encoder, inner
from zprime.data.conditions import Layout
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.rng import stream
from zprime.vae import Model

Advice = Callable[[str], str]
Guard = Callable[[str, Advice | None], AbstractContextManager[None]]
"""Called with what is being done, and what to do about an error; turns those of the user's code into ones of zprime."""
POINTS = 4
# of the answers' norm, beyond which two models are not the same:
CLOSE = 1e-4  # computed in float32 on a CPU, where other threads and other machines round by about 1e-6
ROUGH = 0.01  # in half precision, or on an accelerator, whose convolutions round by about 1e-3


@final
@dataclass(frozen=True)
class Own:
    """A model as a function of the user's own describes it.

    Attributes:
        vae: an object with encode and decode; None where the two are given one by one.
        encoder: x -> mean and spread of q(z|x).
        decoder: z -> p(x|z), or what `likelihood` makes one of.
        claims: what is said of them.
        guard: for whatever of it is called.
        layout: of a row that holds x and conditions, which encoder and decoder are told; None without conditions.
        prior: a function of conditions; None for one prior of all rows, which is among the claims.
    """

    vae: Any
    encoder: Any
    decoder: Any
    claims: Claims
    guard: Guard
    layout: Layout | None = None
    prior: Any = None

    @classmethod
    def of(cls, answer: object, guard: Guard, *, seed: int, layout: Layout | None = None) -> "Own":
        """Take apart what was returned: an object with encode and decode, or a dict with some of `KNOWN`.

        Args:
            answer: what the user's function returned.
            guard: for whatever of it is called.
            seed: decides the rows that it is tried on.
            layout: of a row with conditions; None without.

        Raises:
            UsageError: it is neither, or names what is not known.
        """
        given: dict[str, Any] = dict(answer) if isinstance(answer, Mapping) else {"vae": answer}
        unknown = [str(name) for name in given if name not in KNOWN]
        if unknown or not given:
            raise UsageError(
                f"model: expected a dict with some of {', '.join(KNOWN)}, got {', '.join(unknown) or '{}'}"
            )
        vae, encoder, decoder = (given.get(name) for name in ("vae", "encoder", "decoder"))
        if (vae is None) == (encoder is None and decoder is None):
            raise UsageError(
                "model: expected your function to return a VAE (an object with encode and decode), or a dict with vae, "
                f"or with encoder and decoder, got {_shown(answer)}"
            )
        if vae is None:
            need_callable("encoder", encoder)
            need_callable("decoder", decoder)
        else:
            vae = inner(vae)
            with of_dict():
                decoder = decoder_of(vae)
        prior = given.get("prior")
        one = isinstance(prior, LatentDistribution | Distribution | None)
        if not one and (layout is None or not callable(prior)):
            raise UsageError(
                f"prior: expected a torch Distribution or a latent distribution of zprime, got {type(prior).__name__}; "
                "a p(z|c), a function of conditions, goes with --conditions"
            )
        beta = given.get("beta", 1.0)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < float("inf"):
            raise UsageError(f"beta: expected a number above 0, got {beta!r}")
        check = bool(given.get("check", True))
        gives = given.get("gives")
        claims = Claims(
            None if gives is None else str(gives),
            given.get("likelihood"),
            prior if one else None,
            float(beta),
            check,
            seed,
            in_dict,
        )
        return cls(vae, encoder, decoder, claims, guard, layout, None if one else prior)

    def tried(self, x: Float[Tensor, "n *datum"], *, n: int) -> tuple[Tried, str]:
        """Try it on training rows, before all rows of the three splits, n, are encoded.

        Returns:
            The model, and the name of its encoder where there are several.

        Raises:
            UsageError, ArrayError, NumericalError: as `bring.modules` does.
        """
        with of_dict():
            name, encoder = ("", self.encoder) if self.vae is None else self._found(x[:2])
            check_no_flow(encoder)
            return tried(self._parts(encoder, x[0], self.claims.likelihood, 1.0), x, self.claims, n=n), name

    @property
    def close(self) -> float:
        """The share of their norm that answers of the same model may differ by, by where it computes."""
        made_of = (self.vae, self.encoder, self.decoder, self.prior)
        place = Place.of([m for f in made_of for m in modules_of(f)]) or Place()
        return CLOSE if place.device.type == "cpu" and place.dtype == place.wide else ROUGH

    def _found(self, x: Float[Tensor, "n *datum"]) -> tuple[str, Callable[..., Any]]:
        """Name and encoder of a whole VAE, by its answers to some rows."""
        if self.layout is None:
            return find_encoder(self.vae, {"train": x})
        data, c = self.layout.parts(x)
        return find_encoder(self.vae, {"train": data}, {"train": self.layout.told(c)})

    def again(self, row: Float[Tensor, "*datum"], chosen: "Chosen") -> Model:
        """The model as it was when it was tried.

        Args:
            row: any, of the shape of a row.
            chosen: what was found then.
        """
        encoder = encoder_named(self.vae, chosen.encoder) if chosen.encoder else self.encoder
        scale = 1.0 if chosen.scale is None else chosen.scale
        parts = replace(self._parts(encoder, row, self.claims.likelihood, scale), pool=chosen.pool)
        model = parts.model(row[None], chosen.gives)
        return model if chosen.coordinates is None else Moved(model, chosen.coordinates)

    def _parts(self, encoder: Any, row: Tensor, likelihood: Likelihood, scale: float) -> Parts:
        networks = [m for f in (encoder, self.decoder, self.claims.prior, self.prior) for m in modules_of(f)]
        place = Place.of(networks) or Place(dtype=row.dtype)
        place = replace(place, networks=(*networks, *modules_of(likelihood)))
        made = distribution_of(likelihood, scale)
        layout = self.layout
        advice = partial(remedy, conditions=layout is not None)
        encode, decode = (
            self._guarded(f, what, advice) for f, what in ((encoder, "the encoder"), (self.decoder, "the decoder"))
        )
        likely, datum = (
            self._guarded(made, "the likelihood", None),
            tuple(row.shape) if layout is None else layout.shape,
        )
        each = None if self.prior is None else gaussians(self._guarded(self.prior, "the prior", None))
        return Parts(Spelled(encode, math.prod(datum)), decode, likely, place, layout, each, datum)

    def _guarded(self, f: Callable[..., Any], what: str, advice: Advice | None) -> Callable[..., Any]:
        guard = self.guard

        def call(*batch: Any) -> Any:
            with guard(f"{what} on {_batch(batch)}", advice):
                return f(*batch)

        return call


@final
@dataclass(frozen=True)
class Chosen:
    """What was found when a model was tried.

    Attributes:
        encoder: which of the encoders of a whole VAE it is; empty where it was given by itself.
        gives: what its second answer is.
        scale: of a p(x|z) that was given by name alone.
        coordinates: in which the prior is N(0, I), as far as they are not the model's own.
        pool: conditions that draws take, of the training rows; None without conditions.
    """

    encoder: str
    gives: str
    scale: float | None
    coordinates: Coordinates | None
    pool: Float[Tensor, "m c"] | None = None


@torch.no_grad()
def answers(model: Model, d: int) -> Float[Tensor, "points k"]:
    """What a model is known by, at some fixed z: the spread of p(x|z), and mean and spread of q(z|x) for its mean."""
    z = torch.randn(POINTS, d, generator=stream(0, "own model"))
    p = model.decode(z)
    mean, scale = model.encode(p.mean)
    return torch.cat([_spread(_of_x(p)), mean.flatten(1), scale.flatten(1)], 1).float()


def _of_x(p: Distribution) -> Distribution:
    """p(x|z, c) of what is told conditions: of x alone, under those that its mean has."""
    return p.beside(p.mean)[0] if isinstance(p, Conditioned) else p


def _spread(p: Distribution) -> Float[Tensor, "n 1"]:
    """Root mean variance of p(x|z); 0 where it has none."""
    try:
        spread = p.variance.flatten(1).mean(1, keepdim=True).sqrt()
    except NotImplementedError:
        return torch.zeros(POINTS, 1)
    return spread.nan_to_num(0.0, posinf=0.0)


def alike(a: Tensor, b: Tensor, close: float = CLOSE) -> bool:
    """Whether two models answered the same where the first answered finite numbers, up to a share of their norm."""
    if a.shape != b.shape:
        return False
    finite = torch.isfinite(a)
    a, b = a.where(finite, 0.0), b.where(finite, 0.0)
    # each for itself: a narrow p(x|z) is small beside the codes, and log p(x|z) depends on it all the same
    parts = ((a[:, :1], b[:, :1]), (a[:, 1:], b[:, 1:]))
    return all(float((one - other).norm()) <= close * float(one.norm()) for one, other in parts)


def likelihood_name(likelihood: Likelihood, model: Model, d: int) -> str:
    """What p(x|z) is called: by the name that was given, or by its class."""
    if isinstance(likelihood, str):
        return plain(likelihood)
    p = _of_x(model.decode(torch.zeros(1, d)))
    while isinstance(getattr(p, "base_dist", None), Distribution):
        p = p.base_dist  # type: ignore[attr-defined]
    return type(p).__name__


def _shown(answer: object) -> str:
    return f"a dict with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else type(answer).__name__


def _batch(batch: tuple[Any, ...]) -> str:
    shapes = [f"{list(t.shape)}" for t in batch if isinstance(t, Tensor)]
    told = " and conditions of shape ".join(shapes)
    return f"a batch of shape {told}" if shapes else "a batch"

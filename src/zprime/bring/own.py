"""What a function of the user's own returns, as a model: tried on rows once, and put together again later."""

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
from zprime.bring.coordinates import Coordinates, Moved
from zprime.bring.named import Likelihood, distribution_of, need_callable, plain
from zprime.bring.places import Place, modules_of
from zprime.bring.trial import Claims, Tried, tried
from zprime.bring.whole import decoder_of, encoder_named, find_encoder, inner
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.rng import stream
from zprime.vae import Model

KNOWN = ("vae", "encoder", "decoder", "gives", "likelihood", "prior", "beta", "check")
"""What a dict that describes a model may hold."""
Advice = Callable[[str], str]
Guard = Callable[[str, Advice | None], AbstractContextManager[None]]
"""Called with what is being done, and what to do about an error; turns those of the user's code into ones of zprime."""
POINTS = 4
CLOSE = 0.01  # of the answers' norm: farther apart, two models are not the same


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
    """

    vae: Any
    encoder: Any
    decoder: Any
    claims: Claims
    guard: Guard

    @classmethod
    def of(cls, answer: object, guard: Guard, *, seed: int) -> "Own":
        """Take apart what was returned: an object with encode and decode, or a dict with some of `KNOWN`.

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
            decoder = decoder_of(vae)
        prior = given.get("prior")
        if not isinstance(prior, LatentDistribution | Distribution | None):
            raise UsageError(
                f"prior: expected a torch Distribution or a latent distribution of zprime, got {type(prior).__name__}; "
                "a p(z|c) goes with conditions, which zprime.bring.modules takes in Python"
            )
        beta = given.get("beta", 1.0)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < float("inf"):
            raise UsageError(f"beta: expected a number above 0, got {beta!r}")
        check = bool(given.get("check", True))
        gives = given.get("gives")
        claims = Claims(None if gives is None else str(gives), given.get("likelihood"), prior, float(beta), check, seed)
        return cls(vae, encoder, decoder, claims, guard)

    def tried(self, x: Float[Tensor, "n *datum"], *, n: int) -> tuple[Tried, str]:
        """Try it on training rows, before all rows of the three splits, n, are encoded.

        Returns:
            The model, and the name of its encoder where there are several.

        Raises:
            UsageError, ArrayError, NumericalError: as `bring.modules` does.
        """
        name, encoder = ("", self.encoder) if self.vae is None else find_encoder(self.vae, {"train": x[:2]})
        return tried(self._parts(encoder, x[0], self.claims.likelihood, 1.0), x, self.claims, n=n), name

    def again(self, row: Float[Tensor, "*datum"], chosen: "Chosen") -> Model:
        """The model as it was when it was tried.

        Args:
            row: any, of the shape of a row.
            chosen: what was found then.
        """
        encoder = encoder_named(self.vae, chosen.encoder) if chosen.encoder else self.encoder
        scale = 1.0 if chosen.scale is None else chosen.scale
        model = self._parts(encoder, row, self.claims.likelihood, scale).model(row[None], chosen.gives)
        return model if chosen.coordinates is None else Moved(model, chosen.coordinates)

    def _parts(self, encoder: Any, row: Tensor, likelihood: Likelihood, scale: float) -> Parts:
        networks = [m for f in (encoder, self.decoder, self.claims.prior) for m in modules_of(f)]
        place = Place.of(networks) or Place(dtype=row.dtype)
        place = replace(place, networks=(*networks, *modules_of(likelihood)))
        made = distribution_of(likelihood, scale)
        advice = partial(remedy, conditions=False)
        encode, decode = (
            self._guarded(f, what, advice) for f, what in ((encoder, "the encoder"), (self.decoder, "the decoder"))
        )
        likely, datum = self._guarded(made, "the likelihood", None), tuple(row.shape)
        return Parts(Spelled(encode, row.numel()), decode, likely, place, None, None, datum)

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
    """

    encoder: str
    gives: str
    scale: float | None
    coordinates: Coordinates | None


@torch.no_grad()
def answers(model: Model, d: int) -> Float[Tensor, "points k"]:
    """What a model is known by, at some fixed z: the spread of p(x|z), and mean and spread of q(z|x) for its mean."""
    z = torch.randn(POINTS, d, generator=stream(0, "own model"))
    p = model.decode(z)
    mean, scale = model.encode(p.mean)
    return torch.cat([_spread(p), mean.flatten(1), scale.flatten(1)], 1).float()


def _spread(p: Distribution) -> Float[Tensor, "n 1"]:
    """Root mean variance of p(x|z); 0 where it has none."""
    try:
        spread = p.variance.flatten(1).mean(1, keepdim=True).sqrt()
    except NotImplementedError:
        return torch.zeros(POINTS, 1)
    return spread.nan_to_num(0.0, posinf=0.0)


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two models answered the same, up to rounding, where the first answered finite numbers."""
    if a.shape != b.shape:
        return False
    finite = torch.isfinite(a)
    a, b = a.where(finite, 0.0), b.where(finite, 0.0)
    # each for itself: a narrow p(x|z) is small beside the codes, and log p(x|z) depends on it all the same
    parts = ((a[:, :1], b[:, :1]), (a[:, 1:], b[:, 1:]))
    return all(float((one - other).norm()) <= CLOSE * float(one.norm()) for one, other in parts)


def likelihood_name(likelihood: Likelihood, model: Model, d: int) -> str:
    """What p(x|z) is called: by the name that was given, or by its class."""
    if isinstance(likelihood, str):
        return plain(likelihood)
    p = model.decode(torch.zeros(1, d))
    while isinstance(getattr(p, "base_dist", None), Distribution):
        p = p.base_dist  # type: ignore[attr-defined]
    return type(p).__name__


def _shown(answer: object) -> str:
    return f"a dict with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else type(answer).__name__


def _batch(batch: tuple[Any, ...]) -> str:
    shapes = [list(t.shape) for t in batch if isinstance(t, Tensor)]
    return f"a batch of shape {shapes[0]}" if shapes else "a batch"

"""Models without Gaussian posteriors: deterministic autoencoders, and encoders of which only draws are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zprime import fitting
from zprime.bring.brought import Brought, groups_of
from zprime.bring.callables import as_datum, asked
from zprime.bring.encoded import encoding
from zprime.bring.named import Likelihood, distribution_of, measured, need_callable, plain
from zprime.bring.places import Place, back, modules_of, tensor
from zprime.bring.refusals import check_code, check_codes, check_form, check_steady
from zprime.bring.splits import closed, seen, split
from zprime.calls import called
from zprime.data import Rows
from zprime.decoders import evaluating
from zprime.errors import ArrayError, UsageError
from zprime.posteriors import MemoryPosteriors

BATCH = 512
LOOK_AT = 256  # rows that are looked at before all are encoded
CALL = Callable[[Tensor], Any]


@dataclass(frozen=True)
class CodesModel:
    """An encoder of codes and a decoder, as fit and audit take a model; scales are 0, which no density takes.

    Attributes:
        encoder: x -> z, or (z, what is not looked at).
        decoder: z -> p(x|z).
        place: where they compute.
    """

    encoder: CALL
    decoder: CALL
    place: Place

    def code(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n d"]:
        """The codes of some rows.

        Raises:
            ArrayError: the answer is no matrix with a row for each datum.
        """
        with evaluating(self.place.networks):
            answer = asked("encoder", self.encoder, self.place.go(x))
        check_form(answer, len(x))
        z = self.place.back(answer[0] if isinstance(answer, tuple | list) else answer)
        if z.ndim != 2 or len(z) != len(x):
            raise ArrayError(f"encode: expected codes of shape [{len(x)}, d], got {list(z.shape)}; flatten them")
        return z

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Codes, and zeros."""
        z = self.code(x)
        return z, torch.zeros_like(z)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), with a datum as its event."""
        with evaluating(self.place.networks):
            p = self.decoder(self.place.go(z))
        if not isinstance(p, Distribution):
            raise ArrayError(f"decode: expected a torch Distribution, got {type(p).__name__}; give likelihood=")
        return back(p)


@called("bring.codes")
def codes(
    encoder: CALL | None,
    data: Mapping[str, Any],
    decoder: CALL | None = None,
    *,
    likelihood: Likelihood = None,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Brought:
    """Bring a deterministic autoencoder: one code a row, and no posterior.

    There is then no KL term, no surgery, no exact-posterior gain and no likelihood gain. Gains are those of held-out
    log r(code) over the Gaussian with mean and covariance of the training codes, which is `Brought.prior`: give it to
    `audit`. Samples are compared with data as for any model. (docs/theory.md, section 10.)

    Args:
        encoder: x, shape [n, *datum] -> z, shape [n, d]; None where `data` holds the codes themselves.
        data: `train`, `heldout` and perhaps `selection`: see `modules`.
        decoder: z -> a torch Distribution with a datum as its event, or a tensor: then p(x|z) is N(decoder(z), s^2),
            s the root mean square error of reconstructions of training rows, unless `likelihood` makes one.
        likelihood: decoder's output -> Distribution; or a name, see `modules`.
        labels: split -> integers.
        groups: split -> one name a row; see `modules`.
        seed: decides the selection split.

    Raises:
        UsageError: a split is missing, or codes that have no density in R^d: on a sphere, or discrete.
        ArrayError: shapes that do not fit, numbers that are not finite.
    """
    if encoder is None and decoder is not None:
        raise UsageError("encoder: expected one beside a decoder, got None: rows are needed to compare samples with")
    if encoder is not None:
        need_callable("encoder", encoder)
        encoder = _alone(encoder)
    rows, model, says = rows_and_model(encoder, decoder, data, likelihood, (labels, groups, seed))
    if encoder is None:
        found = {s: r.x for s, r in rows.items()}
    else:
        with torch.no_grad():
            check_steady(
                lambda x: [model.code(x)], rows["train"].x[:LOOK_AT], half=model.place.dtype != model.place.wide
            )
            parts: dict[str, list[Tensor]] = {s: [] for s in rows}
            for s, i in encoding(rows, BATCH):
                parts[s].append(model.code(rows[s].x[i]))
            found = {s: torch.cat(part) for s, part in parts.items()}
    check_codes(found["train"], "codes")
    posteriors = {s: MemoryPosteriors(z, None, row_ids=rows[s].ids, labels=rows[s].labels) for s, z in found.items()}
    train, selection = posteriors["train"], posteriors["selection"]
    base = fitting.fit("gaussian", train, selection=selection, keep_duplicates=True, seed=seed).distribution
    says = (
        "the encoder gives codes without posteriors: no KL term, no surgery, no exact-posterior or likelihood gain; "
        "gains are over the Gaussian with mean and covariance of the training codes (audit with prior=mine.prior)",
        *(says if encoder is None else (*says, *seen(rows), *closed(rows))),
    )
    return Brought(
        posteriors,
        None if decoder is None else model,
        None if encoder is None else rows,
        base,
        says,
        groups_of(rows),
    )


def _alone(encoder: CALL) -> CALL:
    """The same encoder, whose answer is looked at: codes alone, or codes and what is no spread of them."""

    def code(x: Tensor) -> Any:
        answer = encoder(x)
        check_code(answer, x[0].numel())
        return answer

    return code


Asked = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None, int]


def _likelihood(likelihood: Likelihood) -> Callable[[Any], Any]:
    """What makes p(x|z) of a decoder's output; the output as it is for a Gaussian whose scale is to be measured."""
    if measured(likelihood):
        if plain(str(likelihood)) == "gaussian":
            return distribution_of(None)
        raise UsageError(f"likelihood: give {likelihood!r} with its scale, e.g. zprime.likelihoods.Laplace(scale=0.1)")
    return distribution_of(likelihood)


@torch.no_grad()
def rows_and_model(
    encoder: CALL | None,
    decoder: CALL | None,
    data: Mapping[str, Any],
    likelihood: Likelihood,
    given: Asked,
) -> tuple[dict[str, Rows], CodesModel, tuple[str, ...]]:
    """Rows of the splits, the networks as a model in evaluation mode, and what to know of it.

    `given` has labels, groups and seed.
    """
    labels, groups, seed = given
    for name, f in (("encoder", encoder), ("decoder", decoder)):
        if f is not None:
            need_callable(name, f)
    networks = [m for f in (encoder, decoder) if f is not None for m in modules_of(f)]
    place = Place.of(networks)
    rows = split(data, labels, groups, seed=seed, dtype=None if place is None else place.wide)
    place = place or Place(dtype=rows["train"].x.dtype, networks=tuple(networks))

    datum, made_of = tuple(rows["train"].x.shape[1:]), _likelihood(likelihood)

    def decode(z: Tensor) -> Any:
        return None if decoder is None else made_of(as_datum(asked("decoder", decoder, z), datum))

    model = CodesModel(encoder or (lambda x: x), decode, place)
    if decoder is None:
        return rows, model, ()
    x = rows["train"].x[:LOOK_AT]
    with evaluating(networks):
        looks = decode(place.go(model.code(x)))
    if isinstance(looks, Distribution):
        if looks.event_shape != x.shape[1:]:
            raise ArrayError(
                f"decode: expected p(x|z) of data of shape {list(x.shape[1:])}, as the rows are, got "
                f"{list(looks.event_shape)}; wrap the last dimensions in torch.distributions.Independent"
            )
        return rows, model, ()
    made = place.back(looks)
    if made.shape != x.shape:
        raise ArrayError(f"decode: expected rows of shape {list(x.shape)}, got {list(made.shape)}")
    sigma = float((made - x).square().mean().sqrt().clamp(min=1e-6))

    def noisy(z: Tensor) -> Distribution:
        mean = tensor(decode(z))
        return Independent(Normal(mean, torch.full_like(mean, sigma)), mean.ndim - 1)

    says = (
        f"the decoder gives one x a z: p(x|z) is taken as N(decoder(z), s^2) with s = {sigma:.3g}, the root mean "
        f"square error of reconstructions of {len(x)} training rows",
    )
    return rows, CodesModel(model.encoder, noisy, place), says

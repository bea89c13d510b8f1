"""A whole VAE as one object: its encoder and its decoder are found."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zprime.bring.answers import Spelled
from zprime.bring.brought import Brought
from zprime.bring.callables import remedy
from zprime.bring.encoded import LOOK
from zprime.bring.modules import modules
from zprime.bring.places import Place, modules_of, unwrapped
from zprime.bring.splits import whole
from zprime.calls import called
from zprime.decoders import evaluating
from zprime.errors import UsageError

ENCODERS = ("encode", "encoder", "forward")
DECODERS = ("decode", "decoder", "generate", "generator")
"""What codebases call the two, in the order in which they are tried."""


@called("bring.model", like=modules, instead="encoder and decoder one by one go to bring.modules")
def model(vae: Any, data: Mapping[str, Any], **how: Any) -> Brought:
    """Bring a whole VAE: an object with `encode` and `decode`, or whose call answers (reconstruction, mean, scale).

    The encoder is the first of `vae.encode`, `vae.encoder` and the call of `vae` whose answer to two rows has a mean
    and a spread of one shape; the decoder is the first of `vae.decode`, `vae.decoder` and `vae.generate` that there is.

    Args:
        vae: a torch module, or any object.
        data: see `modules`.
        how: everything else that `modules` takes: `gives`, `likelihood`, `prior`, `conditions`, ...

    Raises:
        UsageError: it has no decoder, or none of its encoders answers a mean and a spread; and see `modules`.
        ArrayError: see `modules`.
    """
    vae = inner(vae)
    decoder = decoder_of(vae)
    return modules(find_encoder(vae, data, how.get("conditions"))[1], decoder, data, **how)


def inner(vae: Any) -> Any:
    """The model inside DataParallel, DistributedDataParallel and torch.compile; any other as it is."""
    return unwrapped(vae) if isinstance(vae, torch.nn.Module) else vae


def decoder_of(vae: Any) -> Callable[..., Any]:
    """The decoder of a whole model.

    Raises:
        UsageError: it has none.
    """
    decoder: Callable[..., Any] | None = next((f for n in DECODERS if callable(f := getattr(vae, n, None))), None)
    if decoder is None:
        raise UsageError(
            f"vae: expected an object with decode(z), got {type(vae).__name__} with none of {', '.join(DECODERS)}; "
            "bring.modules takes the two one by one"
        )
    return decoder


def encoder_named(vae: Any, name: str) -> Callable[..., Any]:
    """The encoder that `find_encoder` found, by its name."""
    encoder: Callable[..., Any] = vae if name == "forward" else getattr(vae, name)
    return encoder


@torch.no_grad()
def find_encoder(
    vae: Any, data: Mapping[str, Any], conditions: Mapping[str, Any] | None = None
) -> tuple[str, Callable[..., Any]]:
    """The first that answers a mean and a spread, with its name.

    Raises:
        UsageError: none does.
    """
    given = (data, *(() if conditions is None else (conditions,)))
    if any(not isinstance(part, Mapping) or "train" not in part for part in given):
        return next(_candidates(vae))  # `modules` says what is wrong with the data
    networks = modules_of(vae) or [m for _, f in _candidates(vae) for m in modules_of(f)]
    some = [whole(part["train"])[:LOOK] for part in given]
    place = Place.of(networks) or Place(dtype=some[0].dtype if some[0].is_floating_point() else torch.float32)
    x, *c = (place.go(t) if i == 0 or t.is_floating_point() else t.to(place.device) for i, t in enumerate(some))
    tried = []
    for name, f in _candidates(vae):
        try:
            with evaluating(networks):
                answer = Spelled(f, x[0].numel())(x, *c)
        except Exception as error:
            tried.append(f"{name}: {type(error).__name__}: {error}")
            continue
        shapes = [list(t.shape) for t in answer if hasattr(t, "shape")] if isinstance(answer, tuple | list) else []
        if len(shapes) >= 2 and shapes[0] == shapes[1][: len(shapes[0])]:
            return name, f
        tried.append(f"{name}: {shapes or _shape(answer)}")
    way = "bring.modules takes an encoder that answers (mean, scale)"
    if any("positional argument" in t for t in tried):
        way = f"{remedy('; '.join(tried), conditions=bool(c))}; {way}"
    raise UsageError(
        f"vae: expected {type(vae).__name__} to answer the mean and the spread of q(z|x) to two rows, by encode, "
        f"encoder or its call, got {'; '.join(tried)}; {way}"
    )


def _candidates(vae: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in ENCODERS:
        f = vae if name == "forward" else getattr(vae, name, None)
        if callable(f):
            yield name, f


def _shape(answer: object) -> str:
    return f"one tensor {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__

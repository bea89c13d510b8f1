"""The schema of a model of the user's own: the code that makes it is named, and not there."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zprime import manifest
from zprime.schema import (
    ANY,
    FACTOR,
    FINITE,
    LATENTS,
    MOST,
    POSITIVE,
    Array,
    Field,
    Flag,
    Items,
    Maybe,
    Part,
    Real,
    Record,
    Schema,
    Sizes,
    Text,
    Whole,
    need,
)

SHA256 = Text(pattern=manifest.SHA256.pattern)


def _own_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    both = [name in tensors for name in ("coordinates.loc", "coordinates.scale")]
    need("coordinates", both[0] == both[1], "loc and scale, or neither", both)


OF_OWN: dict[str, Field] = {
    "code": Record({"named": Text(), "function": Text(), "sha256": SHA256}),
    "weights": Maybe(Record({"file": Text(), "sha256": SHA256})),
    "encoder": Text(("", "encode", "encoder", "forward")),
    "gives": Text(("std", "variance", "log-variance", "log-std", "scale_tril", "covariance")),
    "likelihood": Text(),
    "scale": Maybe(Real(0, inside=True)),
    "beta": Real(0, inside=True),
    "shape": Items(Whole(1, MOST), 1, 8),
    "latents": Whole(1, LATENTS, size="d"),
    "unit": Flag(),
    "says": Items(Text()),
    "prior": Maybe(Part()),
}
OWN_MODEL = Schema(
    OF_OWN,
    {
        "answers": Array({"*": ANY}, "real"),
        "coordinates.loc": Array({"d": FINITE}, "real", optional=True),
        "coordinates.scale": Array({"d": POSITIVE, "d d": FACTOR}, "real", optional=True),
        "prior.*": Array({"*": ANY}, "any"),
    },
    _own_model,
)
"""A model of the user's own: the code that makes it is named, and not there. Without `prior` it is N(0, I)."""

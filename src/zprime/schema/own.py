"""The schema of a model of the user's own: the code that makes it is named, and not there."""

import math
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
LAYOUT: Mapping[str, Field] = {
    "shape": Items(Whole(1, MOST), 1, 8),
    "width": Whole(1, MOST),
    "whole": Flag(),
    "flat": Flag(),
}
"""How x and conditions stand in a row."""


def laid_out(layout: Mapping[str, Any], shape: list[int]) -> None:
    """Raise unless rows of this shape are x and conditions side by side."""
    entries = math.prod(layout["shape"]) + layout["width"]
    need("shape", shape == [entries], f"[{entries}], x and its conditions", shape)
    need("conditions", not layout["flat"] or layout["width"] == 1, "one number a row where they are flat", layout)


def _own_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    both = [name in tensors for name in ("coordinates.loc", "coordinates.scale")]
    need("coordinates", both[0] == both[1], "loc and scale, or neither", both)
    layout = config.get("conditions")
    need(
        "conditions", (layout is None) == ("conditions" not in tensors), "what they are and a tensor, or neither", both
    )
    if layout is not None:
        laid_out(layout, config["shape"])
        need("conditions", tensors["conditions"].shape[1] == layout["width"], f"{layout['width']} columns", sizes)


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
    "conditions": Maybe(Record(LAYOUT)),
    "close": Maybe(Real(0, 1)),
    "units": Maybe(Text()),
    "says": Items(Text()),
    "prior": Maybe(Part()),
}
OWN_MODEL = Schema(
    OF_OWN,
    {
        "answers": Array({"*": ANY}, "real"),
        "conditions": Array({"* *": FINITE}, "real", optional=True),
        "coordinates.loc": Array({"d": FINITE}, "real", optional=True),
        "coordinates.scale": Array({"d": POSITIVE, "d d": FACTOR}, "real", optional=True),
        "prior.*": Array({"*": ANY}, "any"),
    },
    _own_model,
)
"""A model of the user's own: the code that makes it is named, and not there. Without `prior` it is N(0, I)."""

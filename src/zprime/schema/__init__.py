"""What an artefact may hold: types and ranges of its settings, dtypes, shapes and values of its tensors.

A `Schema` says it, and `Schema.check` compares, before anything is built. `kinds.py` has those of the kinds that are
no latent distributions; theirs stand beside them. Names of sizes (`n`, `d`, `k`) mean the same number wherever they
stand in one artefact. What is compared are shapes of tensors that were read, so a setting that asks for more is refused
before that is allocated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zprime.schema.arrays import (
    ANY,
    COUNTS,
    DATUM_IDS,
    FACTOR,
    FINITE,
    LOG_SCALES,
    LOG_WEIGHTS,
    ORIGINS,
    POSITIVE,
    ROW_IDS,
    UNITS,
    WEIGHTS,
    Array,
    Values,
)
from zprime.schema.fields import (
    LARGEST,
    LATENTS,
    MOST,
    WHOLE,
    Field,
    Flag,
    Items,
    Maybe,
    Named,
    Number,
    Part,
    Plain,
    Real,
    Record,
    Sizes,
    Text,
    Whole,
)
from zprime.schema.refusal import Found, Refused, enough, guarded, need, of_this_version

__all__ = [
    "ANY",
    "COUNTS",
    "DATUM_IDS",
    "FACTOR",
    "FINITE",
    "LARGEST",
    "LATENTS",
    "LOG_SCALES",
    "LOG_WEIGHTS",
    "MOST",
    "ORIGINS",
    "POSITIVE",
    "ROW_IDS",
    "UNITS",
    "WEIGHTS",
    "WHOLE",
    "Array",
    "Field",
    "Flag",
    "Found",
    "Items",
    "Maybe",
    "Named",
    "Number",
    "Part",
    "Plain",
    "Real",
    "Record",
    "Refused",
    "Schema",
    "Sizes",
    "Text",
    "Values",
    "Whole",
    "enough",
    "guarded",
    "need",
    "of_this_version",
]


def _nothing(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    """Nothing more to compare."""


@dataclass(frozen=True)
class Schema:
    """What the artefacts of one kind hold.

    Attributes:
        config: name -> what the setting may be; other settings are not looked at.
        tensors: name -> what the tensor may be; a name that ends in `*` stands for all that begin like it, and those
            need not be there. No others may be there.
        also: what else has to fit together; raises `Refused`.
    """

    config: Mapping[str, Field] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    also: Callable[[Mapping[str, Any], Mapping[str, Tensor], Sizes], None] = _nothing

    def settings(self, config: Mapping[str, Any]) -> Sizes:
        """Check the settings alone; the sizes that they name.

        Raises:
            Refused: a setting is missing or another.
        """
        sizes: Sizes = {}
        Record(self.config).check("", config, sizes)
        return sizes

    def check(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sizes:
        """Check settings and tensors; the sizes that they name.

        Raises:
            Refused: something is missing, or is another.
        """
        sizes, dtypes = self.settings(config), dict[str, torch.dtype]()
        for name, array in self.tensors.items():
            if not name.endswith("*") and not array.optional and name not in tensors:
                raise Refused(name, "a tensor", Found("none"))
        beginnings = [name for name in self.tensors if name.endswith("*")]
        for name, tensor in tensors.items():
            like = name if name in self.tensors else next((b for b in beginnings if name.startswith(b[:-1])), None)
            if like is None:
                raise Refused(name, "no tensor of this name", list(tensor.shape))
            self.tensors[like].check(name, tensor, sizes, dtypes)
        self.also(config, tensors, sizes)
        return sizes

"""Two audits as they are stored, compared number by number."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zprime.results.names import CandidateId

ROUNDING = 1e-5
"""Two numbers that differ by less, in parts of the larger one or of 1, are equal within rounding."""
BESIDE = ("versions", "command", "data.name", "data.used", "model.prior")
"""What an audit says of the machine and the place that it was made at, which may be others; what older ones lack."""
MISSING = "nothing"
LARGEST = 1e300
"""Numbers above it are no measured ones, and are equal to the bit or not at all."""


@dataclass(frozen=True)
class Difference:
    """Something that is recorded otherwise than it was found again.

    Attributes:
        what: field of the audit, with the candidate that it is of; or a tensor, or a line or metric of a card.
        recorded: its value there.
        found: its value now.
    """

    what: str
    recorded: str
    found: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: recorded {self.recorded}, found {self.found}"


@dataclass(frozen=True)
class Checked:
    """A number of a card, and what came of measuring it again.

    Attributes:
        kind: of metric, e.g. `likelihood_gain`.
        name: in words.
        recorded: as the card shows it.
        found: as it was found again; empty where it was not measured.
        status: `reproduced`, `differs` or `not checked`.
        because: why, where that is not plain.
    """

    kind: str
    name: str
    recorded: str
    found: str
    status: str
    because: str = ""

    def __str__(self) -> str:
        """In one line."""
        return f"{self.status}: {self.told}"

    @property
    def told(self) -> str:
        """The number, without the status."""
        found = f", found {self.found}" if self.found else ""
        why = f" ({self.because})" if self.because else ""
        return f"{self.name}: {self.recorded} on the card{found}{why}"


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        equal: numbers and tensors that are equal to the bit.
        rounded: those that are equal within rounding.
        different: all others, and texts that differ.
    """

    equal: int = 0
    rounded: int = 0
    different: list[Difference] = field(default_factory=list)

    def __add__(self, other: "Compared") -> "Compared":
        """Both together."""
        return Compared(self.equal + other.equal, self.rounded + other.rounded, [*self.different, *other.different])


def compare(recorded: Any, again: Any) -> Compared:
    """Compare two audits as JSON: every number and text, by the path that leads to it."""
    then, now = _flat(recorded), _flat(again)
    equal = rounded = 0
    different = []
    for what in dict.fromkeys([*then, *now]):
        a, b = (of.get(what, MISSING) for of in (then, now))
        if type(a) is type(b) and a == b:
            equal += isinstance(a, int | float)
        elif _near(a, b):
            rounded += 1
        else:
            different.append(Difference(what, _shown(a), _shown(b)))
    # numbers before the texts that quote them
    return Compared(equal, rounded, sorted(different, key=lambda d: d.recorded.startswith(("'", '"'))))


def compare_tensors(recorded: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> Compared:
    """Compare per-row gains, codes and pictures."""
    found = Compared()
    for name in sorted({*recorded, *again}):
        found += _one_tensor(name, recorded.get(name), again.get(name))
    return found


def _one_tensor(name: str, a: Tensor | None, b: Tensor | None) -> Compared:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return Compared(different=[Difference(f"tensor {name}", *(_form(t) for t in (a, b)))])
    if torch.equal(a, b):
        return Compared(equal=1)
    off = (a.double() - b.double()).abs() - ROUNDING * torch.maximum(a.double().abs(), b.double().abs()).clamp(min=1)
    off = torch.where(a == b, -1.0, off.nan_to_num(torch.inf)).flatten()
    if bool((off <= 0).all()):
        return Compared(rounded=1)
    at = int(off.argmax())
    entry = f"tensor {name}, entry {at}, one of {int((off > 0).sum())} that differ"
    return Compared(different=[Difference(entry, *(repr(t.flatten()[at].item()) for t in (a, b)))])


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    """Every number and text of JSON by the path that leads to it, in which candidates are called by their names."""
    found: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for k, v in value.items():
            inner = f"{where}.{k}" if where else str(k)
            found |= {} if inner in BESIDE else _flat(v, inner)
    elif isinstance(value, list):
        for i, v in enumerate(value):
            found |= _flat(v, f"{where}[{_called(v, i)}]")
    else:
        found[where] = value
    return found


def _called(value: Any, i: int) -> str:
    """What an item of a list is called: as the candidate that it is of, or by its number."""
    identity = value.get("id") if isinstance(value, Mapping) else None
    if isinstance(identity, Mapping) and {"name", "percent"} <= identity.keys():
        percent = identity["percent"]
        known = isinstance(percent, int | float) and 0 <= percent < 100
        return str(CandidateId(str(identity["name"]), float(percent))) if known else str(i)
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) and name else str(i)


def _near(a: Any, b: Any) -> bool:
    """Whether two numbers are equal within rounding."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST for v in (a, b)):
        return False
    near: bool = abs(float(a) - float(b)) <= ROUNDING * max(abs(a), abs(b), 1.0)
    return near


def _shown(value: Any) -> str:
    return MISSING if value is MISSING else repr(value)


def _form(t: Tensor | None) -> str:
    return MISSING if t is None else f"{list(t.shape)} {t.dtype}"

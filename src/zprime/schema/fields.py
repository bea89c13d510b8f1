"""What a setting of an artefact may be: JSON values with their types and ranges."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from zprime.schema.refusal import Found, Refused

LARGEST = 1e30
"""Numbers beyond it are none of ours; the square of a ratio of two of them is still finite in float64."""
WHOLE = (1 << 62) - 1
MOST = 1 << 24
"""Entries of a list, or of one axis, where nothing else bounds them."""
LATENTS = 1 << 20
"""Latent dimensions."""

Sizes = dict[str, int]
"""Name of a size -> the number that it has in one artefact."""


@runtime_checkable
class Field(Protocol):
    """What a setting may be."""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value; note the sizes that it names."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`; with `size`, the one that the size of this name has."""

    low: int = 0
    high: int = WHOLE
    size: str = ""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise Refused(name, f"a whole number from {self.low} to {self.high}", value)
        if self.size and sizes.setdefault(self.size, value) != value:
            raise Refused(name, f"{sizes[self.size]} ({self.size})", value)


@dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`; `inside` leaves the two ends out."""

    low: int | float = -LARGEST
    high: int | float = LARGEST
    inside: bool = False

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high  # so is NaN
            or (self.inside and value in (self.low, self.high))
        ):
            ends = "between" if self.inside else "from"
            raise Refused(name, f"a number {ends} {self.low:g} {'and' if self.inside else 'to'} {self.high:g}", value)


@dataclass(frozen=True)
class Number:
    """Any number that was measured: infinity and NaN too."""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for what is no number."""
        Real().check(name, value if not isinstance(value, float) or math.isfinite(value) else 0.0, sizes)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if not isinstance(value, bool):
            raise Refused(name, "true or false", value)


@dataclass(frozen=True)
class Text:
    """A text: one of `among`, where any are given, or one that `pattern` matches."""

    among: tuple[str, ...] = ()
    pattern: str = r"(?s).*"

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise Refused(name, "a text" if self.pattern == Text.pattern else f"a text like {self.pattern}", value)
        if self.among and value not in self.among:
            raise Refused(name, f"one of {', '.join(self.among)}", value)


@dataclass(frozen=True)
class Maybe:
    """A value, null, or nothing at all."""

    of: Field

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if value is not None:
            self.of.check(name, value, sizes)


@dataclass(frozen=True)
class Items:
    """A list."""

    of: Field
    least: int = 0
    most: int = MOST
    size: str = ""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            raise Refused(name, f"a list of {self.least} to {self.most} values", value)
        if self.size:
            Whole(size=self.size).check(f"length of {name}", len(value), sizes)
        for i, item in enumerate(value):
            self.of.check(f"{name}[{i}]", item, sizes)


@dataclass(frozen=True)
class Named:
    """Values by names that `keys` matches."""

    of: Field
    keys: str = r"(?s).*"

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if not isinstance(value, Mapping):
            raise Refused(name, "names and values", value)
        for key, item in value.items():
            Text(pattern=self.keys).check(f"a name in {name}", key, sizes)
            self.of.check(f"{name}.{key}" if name else key, item, sizes)


@dataclass(frozen=True)
class Record:
    """Values under names that are known. What is not `Maybe` is there; other names are not looked at."""

    fields: Mapping[str, Field]

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if not isinstance(value, Mapping):
            raise Refused(name, "names and values", value)
        for key, wanted in self.fields.items():
            full = f"{name}.{key}" if name else key
            if key not in value and not isinstance(wanted, Maybe):
                raise Refused(full, "a value", Found("none"))
            wanted.check(full, value.get(key), sizes)


@dataclass(frozen=True)
class Plain:
    """A value of a setting, as JSON has it; lists and mappings of such."""

    deep: int = 4

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        if isinstance(value, Mapping | list):
            if not self.deep:
                raise Refused(name, "a plain value", value)
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                Plain(self.deep - 1).check(f"{name}.{key}", item, sizes)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            Number().check(name, value, sizes)


@dataclass(frozen=True)
class Part:
    """A latent distribution inside another one: its kind and settings, which are checked when it is rebuilt."""

    def check(self, name: str, value: object, sizes: Sizes) -> None:
        """Raise `Refused` for another value."""
        Record({"kind": Text()}).check(name, value, sizes)
        if not isinstance(value, Mapping) or not isinstance(value.get("config"), Mapping):
            raise Refused(f"{name}.config", "names and values", value)

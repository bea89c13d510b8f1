"""Dataclasses to JSON and back, by their type hints: no code runs when a file is read."""

import dataclasses
import math
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

NOT_FINITE = ("nan", "inf", "-inf")
LATER: Mapping[str, bool] = types.MappingProxyType({"later": True})
"""Metadata of a setting that came later: at its default it is in no key and no manifest, as before it came."""


def recorded(settings: Any) -> dict[str, Any]:
    """Name and value of the settings in a flat dataclass, for keys and manifests; see `LATER`."""
    fields = dataclasses.fields(settings)
    values = {f.name: getattr(settings, f.name) for f in fields}
    return {f.name: values[f.name] for f in fields if not (f.metadata.get("later") and values[f.name] == f.default)}


def later(settings: Any) -> dict[str, Any]:
    """Name and default of the settings that came later: what `recorded` leaves out where they are not others."""
    return {f.name: f.default for f in dataclasses.fields(settings) if f.metadata.get("later")}


def to_jsonable(value: Any) -> Any:
    """Dictionaries, lists, strings and numbers; JSON has no infinity or NaN: they become strings that float() reads."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(v) for v in value]
    return value


def from_jsonable(hint: type[T], value: Any) -> T:
    """Read what `to_jsonable` wrote of a value of this type: dataclasses, dict, list, tuple, None, numbers, strings.

    Raises:
        KeyError, TypeError, ValueError: `value` is not of that form.
        ZprimeError: a dataclass refuses its values.
    """
    out: T = _read(hint, value)
    return out


def outline(hint: Any) -> Any:
    """What `to_jsonable` writes of a value of this type, as JSON: the fields of every dataclass in it, by name."""
    if dataclasses.is_dataclass(hint):
        return {k: outline(v) for k, v in sorted(get_type_hints(hint).items())}
    return [outline(h) for h in get_args(hint)]


def _read(hint: Any, value: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _one_of([t for t in inner if t is not type(None)], value)
    if (dataclasses.is_dataclass(hint) or origin is dict) and not isinstance(value, Mapping):
        raise TypeError(f"expected names and values for {hint}, got {value!r:.80}")
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        other = value.keys() - hints.keys()
        if other:
            raise TypeError(
                f"{getattr(hint, '__name__', hint)}: expected {', '.join(hints)}, got {min(map(str, other))!r:.80}"
            )
        return hint(**{k: _read(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if origin is dict:
        return {_key(inner[0], k): _read(inner[1], v) for k, v in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise TypeError(f"expected a list, got {value!r:.80}")
        return origin(_read(inner[0], v) for v in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return _plain(hint, value)


def _one_of(hints: list[Any], value: Any) -> Any:
    """What the first type that fits makes of a value; of plain ones each takes its own only."""
    for hint in hints[:-1]:
        try:
            return _read(hint, value)
        except (KeyError, TypeError, ValueError):
            continue
    return _read(hints[-1], value)


def _plain(hint: Any, value: Any) -> Any:
    """A truth value, number or text, of that type and no other; `float` also takes what `to_jsonable` makes of NaN.

    Raises:
        TypeError: it is of another type.
    """
    if hint is float and value in NOT_FINITE:
        return float(value)
    if hint in (bool, int, str, float):
        taken = (int, float) if hint is float else hint
        if not isinstance(value, taken) or (isinstance(value, bool) and hint is not bool):
            raise TypeError(f"expected {hint.__name__}, got {type(value).__name__}")
        return float(value) if hint is float else value
    return value


def _key(hint: Any, text: str) -> Any:
    """A key as `str` wrote it: enums by value, and what knows how to `parse` itself."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(text)
    return hint.parse(text) if hasattr(hint, "parse") else text

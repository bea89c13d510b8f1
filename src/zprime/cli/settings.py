"""Settings of kinds given as `KIND.FIELD=VALUE`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from zprime.distribution import Settings
from zprime.errors import UsageError
from zprime.latent import SETTINGS, settings_for


def kinds_with(kinds: Sequence[str], changes: Sequence[str]) -> list[Settings]:
    """Default settings of each kind, with the changes; `all` stands for every kind that has a density.

    Raises:
        UsageError: unknown kind, field, or a value of the wrong type.
    """
    if "all" in kinds:
        kinds = [k for k in SETTINGS if k not in ("prior", "shared-nuts")]
    out = [settings_for(k) for k in kinds]
    for change in changes:
        where, equals, value = change.partition("=")
        kind, dot, name = where.partition(".")
        if not (equals and dot):
            raise UsageError(f"set: expected KIND.FIELD=VALUE, e.g. mixture.components=64, got {change!r}")
        if kind not in kinds:
            raise UsageError(f"set: expected one of the kinds to fit ({', '.join(kinds)}), got {kind!r}")
        at = list(kinds).index(kind)
        out[at] = _changed(out[at], name, value)
    return out


def _changed(settings: Settings, name: str, value: str) -> Settings:
    fields = {f.name for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    if name not in fields:
        raise UsageError(f"set: {settings.kind} has {', '.join(sorted(fields)) or 'nothing to set'}, got {name!r}")
    hint = get_type_hints(type(settings))[name]
    return dataclasses.replace(settings, **{name: _convert(settings.kind, name, hint, value)})  # type: ignore[type-var]


def _convert(kind: str, name: str, hint: Any, value: str) -> Any:
    try:
        if hint is bool:
            return {"true": True, "false": False}[value.lower()]
        if hint in (int, float, str):
            return hint(value)
        # tuples of numbers or words, separated by commas
        inner = hint.__args__[0]
        return tuple(inner(v) for v in value.split(",") if v)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"set: {kind}.{name} expected {getattr(hint, '__name__', hint)}, got {value!r}") from error

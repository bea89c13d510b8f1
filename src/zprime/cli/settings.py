"""Settings of kinds given as `KIND.FIELD=VALUE`."""

import dataclasses
from collections.abc import Sequence
from types import UnionType
from typing import Any, get_type_hints

from zprime.errors import UsageError
from zprime.fit_stage import settings_of
from zprime.latent import SETTINGS, Settings, settings_for
from zprime.learned import LearnedPrior
from zprime.learned import settings_for as settings_for_prior


def kinds_with(kinds: Sequence[str], changes: Sequence[str], by: str = "") -> list[Settings]:
    """Default settings of each kind, with the changes; `all` stands for every kind that has a density.

    Args:
        kinds: names.
        changes: `KIND.FIELD=VALUE`.
        by: `label` fits each kind once for every label.

    Raises:
        UsageError: unknown kind, field, or a value of the wrong type.
    """
    if "all" in kinds:
        kinds = [k for k, s in SETTINGS.items() if k != "prior" and s.has_density]
    wanted = [settings_for(k) for k in kinds]
    for change in changes:
        where, equals, value = change.partition("=")
        kind, dot, name = where.partition(".")
        if not (equals and dot):
            raise UsageError(f"set: expected KIND.FIELD=VALUE, e.g. mixture.components=64, got {change!r}")
        if kind not in kinds:
            raise UsageError(f"set: expected one of the kinds to fit ({', '.join(kinds)}), got {kind!r}")
        at = list(kinds).index(kind)
        wanted[at] = _changed(wanted[at], name, value)
    return settings_of(wanted, by)


def learned_with(kind: str, changes: Sequence[str]) -> LearnedPrior | None:
    """Default settings of a prior that is learned, with the changes; None where none is asked for.

    Args:
        kind: e.g. `vamp`; empty for N(0, I).
        changes: `FIELD=VALUE`.

    Raises:
        UsageError: unknown kind, field, or a value that cannot be used.
    """
    if not kind:
        if changes:
            raise UsageError(f"prior-set: expected a prior to set {changes[0]!r} of; say which with --prior")
        return None
    settings = settings_for_prior(kind)
    hints = get_type_hints(type(settings))
    known = [f.name for f in dataclasses.fields(settings)]
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in known:
            raise UsageError(f"prior-set: expected FIELD=VALUE, of {kind} {', '.join(known)}, got {change!r}")
        settings = dataclasses.replace(settings, **{name: _convert(kind, name, hints[name], value, option="prior-set")})
    settings.check()
    return settings


def _changed(settings: Settings, name: str, value: str) -> Settings:
    name, _, rest = name.partition(".")
    fields = {f.name for f in dataclasses.fields(settings)}
    if name not in fields:
        raise UsageError(f"set: {settings.kind} has {', '.join(sorted(fields)) or 'nothing to set'}, got {name!r}")
    current, new = getattr(settings, name), None
    if isinstance(current, Settings):
        new = _changed(current, rest, value) if rest else settings_for(value)
    elif rest:
        raise UsageError(f"set: {settings.kind}.{name} has no fields of its own, got {rest!r}")
    else:
        new = _convert(settings.kind, name, get_type_hints(type(settings))[name], value)
    return dataclasses.replace(settings, **{name: new})


def _convert(kind: str, name: str, hint: Any, value: str, *, option: str = "set") -> Any:
    try:
        if isinstance(hint, UnionType):  # a value or None
            if value.lower() == "none":
                return None
            hint = hint.__args__[0]
        if hint is bool:
            return {"true": True, "false": False}[value.lower()]
        if hint in (int, float, str):
            return hint(value)
        # tuples of numbers or words, separated by commas
        inner = hint.__args__[0]
        return tuple(inner(v) for v in value.split(",") if v)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{option}: {kind}.{name} expected {getattr(hint, '__name__', hint)}, got {value!r}"
        ) from error

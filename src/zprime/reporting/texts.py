"""An audit with every text in it escaped, before a renderer that escapes nothing by itself."""

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from zprime.results.audit import Audit
from zprime.results.names import NAME, SHARE


def texts(audit: Audit, change: Callable[[str], str]) -> Audit:
    """The same audit with `change` applied to its labels, sentences and names of columns.

    Keys stay, and so do names of candidates, splits and decisions, by which things are found: they have letters,
    digits, `-`, `_` and `.` only.
    """
    changed: Audit = _changed(audit, change)
    return changed


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if isinstance(value, Enum) or NAME.fullmatch(SHARE.sub("", value)) else change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        new = {name: _changed(inner, change) for name, inner in old.items()}
        different = {name: inner for name, inner in new.items() if inner is not old[name]}
        return dataclasses.replace(value, **different) if different else value
    if isinstance(value, Mapping):
        return {k: _changed(inner, change) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_changed(inner, change) for inner in value)
    return value

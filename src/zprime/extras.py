"""Libraries that come with an extra of the package, and not with the package itself."""

import importlib
from typing import Any

from zprime.errors import UsageError


def imported(module: str, *, user: str, packages: str, extra: str) -> Any:
    """A module of such a library, imported now.

    Args:
        module: its name.
        user: what needs it.
        packages: what has to be installed.
        extra: of zprime.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{user}: expected {packages} to be installed, got {error}; run: pip install 'zprime[{extra}]'"
        ) from error

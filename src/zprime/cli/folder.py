"""Folders as arguments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from zprime.errors import UsageError


def _named(kind: type, tokens: Sequence[Token]) -> Path:
    """A path as it was given; an empty text, as of a variable of the shell that is not set, would be this folder."""
    (token,) = tokens
    if not token.value:
        name = token.keyword or "run"
        raise UsageError(f"{name}: expected the path of a folder, got an empty text; write . for this one")
    return Path(token.value)


Folder = Annotated[Path, Parameter(converter=_named)]
"""The folder of a run."""

"""Folders as arguments."""

import contextlib
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from zprime.errors import ArtifactError, UsageError


def _named(kind: type, tokens: Sequence[Token]) -> Path:
    """A path as it was given; an empty text, as of a variable of the shell that is not set, would be this folder."""
    (token,) = tokens
    if not token.value:
        name = token.keyword or "run"
        raise UsageError(f"{name}: expected the path of a folder, got an empty text; write . for this one")
    return Path(token.value)


Folder = Annotated[Path, Parameter(converter=_named)]
"""The folder of a run."""


def check_there(value: Path | Sequence[Path]) -> None:
    """Raise `ArtifactError` for the folder of a run at which nothing lies, with the name that may be meant."""
    for path in (value,) if isinstance(value, Path) else value:
        if not os.path.lexists(path):
            beside, names = path.parent, list[str]()
            with contextlib.suppress(OSError):  # it may not be there either, or not be readable
                names = [p.name for p in beside.iterdir()]
            near = difflib.get_close_matches(path.name, names, 1)
            raise ArtifactError(f"no such folder: {path}" + (f"; did you mean {beside / near[0]}?" if near else ""))

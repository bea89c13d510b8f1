"""What messages of bring say of its arguments, as a dict has it that describes a model on the command line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from zprime.errors import ZprimeError

KNOWN = ("vae", "encoder", "decoder", "gives", "likelihood", "prior", "beta", "check")
"""What a dict that describes a model may hold."""
_ARGUMENT = re.compile(rf"\b({'|'.join(KNOWN)})=(?=(\S?))")
_PARTS = "bring.modules takes"


def in_dict(text: str) -> str:
    """Arguments of `bring.modules` as entries of a dict: `check=False` as `"check": False`, `beta=` as `"beta"`."""

    def entry(found: re.Match[str]) -> str:
        name, value = found.group(1), found.group(2)
        return f'"{name}": ' if value.isalnum() or value in ("'", '"', "(", "[", "{", "-") else f'"{name}"'

    return _ARGUMENT.sub(entry, text.replace(_PARTS, 'a dict with "encoder" and "decoder" takes'))


@contextmanager
def of_dict() -> Iterator[None]:
    """Say errors of the block by the entries of a dict; those that quote an error of the user's code stay as they are.

    Raises:
        ZprimeError: the block raised it; of the same class.
    """
    try:
        yield
    except ZprimeError as error:
        if error.__cause__ is None and len(error.args) == 1:
            error.args = (in_dict(str(error.args[0])),)
        raise

"""How a value is refused: what was expected, what was found, and one error for whoever reads."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from zprime import memory
from zprime.errors import ArtifactError, NumericalError, UsageError

FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Refused(ValueError):  # noqa: N818  (an answer, which `guarded` turns into an error)
    """A value that an artefact of this kind does not have.

    Attributes:
        name: of the setting or tensor.
        why: what was expected and what was found.
    """

    def __init__(self, name: str, expected: str, found: object) -> None:
        self.name, self.why = name, f"expected {expected}, got {shown(found)}"
        super().__init__(f"{self.name}: {self.why}")

    def inside(self, part: str) -> "Refused":
        """The same, told of the whole that `part` is in."""
        self.name = f"{part}.{self.name}"
        self.args = (f"{self.name}: {self.why}",)
        return self


@contextlib.contextmanager
def guarded(where: Path | str, todo: str = "make the artefact again") -> Iterator[None]:
    """Turn whatever goes wrong in the block into an `ArtifactError`: what was read is not what this kind holds.

    Args:
        where: folder or file that was read, for the message.
        todo: what to do.

    Raises:
        ArtifactError: something went wrong.
    """
    try:
        yield
    except Refused as error:
        raise ArtifactError(f"{where}: {error}; {todo}") from error
    except (*FAULTS, UsageError, NumericalError) as error:
        if memory.ran_out(error) is not None:
            raise
        why = f"{type(error).__name__}: {error!s:.300}"
        raise ArtifactError(f"{where}: what it holds does not fit together ({why}); {todo}") from error


@contextlib.contextmanager
def of_this_version(where: Path | str, todo: str) -> Iterator[None]:
    """Turn what does not fit the types that this version writes into an `ArtifactError` that says so.

    Args:
        where: folder or file that was read, for the message.
        todo: what to do.

    Raises:
        ArtifactError: a name, a type or a number does not fit.
    """
    try:
        yield
    except (*FAULTS, UsageError, NumericalError) as error:
        if memory.ran_out(error) is not None:
            raise
        raise ArtifactError(f"{where}: made by another version of zprime ({error}); {todo}") from error


def shown(value: object) -> str:
    """A value in a message, in a few characters."""
    if isinstance(value, Found):
        return value.text
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python does not print whole numbers of more than 4,300 digits
        return f"a {type(value).__name__} that is too large to print"
    return text if len(text) <= 80 else f"{text[:80]}.."


@dataclass(frozen=True)
class Found:
    """What was found, in words."""

    text: str


def need(name: str, fits: bool, expected: str, found: object) -> None:  # noqa: FBT001
    """Raise `Refused` unless it fits."""
    if not fits:
        raise Refused(name, expected, found)


def enough(tensors: Mapping[str, Tensor], widths: tuple[int, ...], *, times: int = 1) -> None:
    """Raise `Refused` where `times` networks of these widths have more weights than the tensors hold."""
    stored, wanted = sum(t.numel() for t in tensors.values()), times * max(1, sum(a * b for a, b in pairwise(widths)))
    need("network", wanted <= stored, f"at most {stored} weights, as many as its tensors hold", Found(f"{wanted}"))

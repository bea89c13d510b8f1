"""Every error that zprime raises on purpose.

    ZprimeError                 exit 1   the root: shown on the command line without a traceback
    ├── UsageError              exit 2   a setting or a path: says what was expected and what it got
    ├── ArtifactError           exit 3   a file or folder on disk: missing, altered, newer; names it
    ├── NumericalError          exit 4   a number that is not finite; names the row, dimension or step
    ├── ArrayError (ValueError) exit 5   data: wrong shape, empty, not finite, constant
    └── ResourceError           exit 6   memory ran out, or a worker process was ended; says what to make smaller

A fit that ends badly raises no error: it returns an `Outcome` with advice (see `zprime.distribution`).
"""

__all__ = ["ArrayError", "ArtifactError", "NumericalError", "ResourceError", "UsageError", "ZprimeError"]


class ZprimeError(Exception):
    """Root of the tree; the text says what was expected, what was given, and what to do.

    Attributes:
        call: the public function that was called, as users write it, which the text then begins with; empty where the
            text stands for itself.
    """

    exit_code = 1
    call = ""

    def __str__(self) -> str:
        """The text, behind the call."""
        text = super().__str__()
        return f"{self.call}: {text}" if self.call else text


class UsageError(ZprimeError):
    """A setting, an option or a path that cannot be used."""

    exit_code = 2


class ArtifactError(ZprimeError):
    """An artefact on disk that is missing, truncated, altered or of a newer schema."""

    exit_code = 3


class NumericalError(ZprimeError):
    """A number that should be finite, or within a proven bound, but is not."""

    exit_code = 4


class ArrayError(ZprimeError, ValueError):
    """An array that cannot be used; the text is *expected ..., got ...*."""

    exit_code = 5


class ResourceError(ZprimeError):
    """Memory ran out, or the system ended a worker process."""

    exit_code = 6

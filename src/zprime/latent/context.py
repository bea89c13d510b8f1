"""What some kinds need besides posteriors: the model and the rows."""

from dataclasses import dataclass

from zprime.data import Rows
from zprime.errors import UsageError
from zprime.vae import Model


@dataclass(frozen=True)
class Context:
    """The model that made the posteriors, and the rows they belong to (row i of `train` made posterior i)."""

    model: Model
    train: Rows
    selection: Rows


def need(context: Context | None, kind: str) -> Context:
    """Give the context, or say that this kind cannot do without.

    Raises:
        UsageError: no context.
    """
    if context is None:
        raise UsageError(f"kind {kind}: needs the model and the rows, not posteriors alone; give fit() a context")
    return context

"""All rows of a model that was brought, encoded; and a look at it before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.bring.brought import Brought, groups_of, told
from zprime.bring.coordinates import Coordinates, Moved
from zprime.bring.splits import closed, seen
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.encoding import encode
from zprime.errors import ArrayError
from zprime.progress import Expectation, in_pieces, shown
from zprime.vae import Model

LOOK = 2  # rows that are decoded to see whether the shapes fit


def encoding(rows: Mapping[str, Rows], batch: int) -> Iterator[tuple[str, slice]]:
    """The batches of all splits in order; once some are encoded it is told about how long all take."""
    pieces = [((s, i), i.stop - i.start) for s, r in rows.items() for i in blocks(len(r), batch)]
    for piece, _ in in_pieces(shown, f"encode {sum(map(len, rows.values())):,} rows", pieces):
        yield piece


@dataclass(frozen=True)
class Counted:
    """An encoder that counts the rows which it has encoded.

    Attributes:
        model: what encodes.
        expectation: of how long all rows take.
    """

    model: Model
    expectation: Expectation

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z|x)."""
        answer = self.model.encode(x)
        self.expectation.finished(len(x))
        return answer


def bring(
    model: Model,
    rows: Mapping[str, Rows],
    *,
    prior: LatentDistribution | None = None,
    coordinates: Coordinates | None = None,
    says: tuple[str, ...] = (),
    seconds: float | None = None,
) -> Brought:
    """Encode all rows, after a check that encoder, decoder and rows belong together; it is told how long that takes.

    Args:
        model: encoder and decoder, with their own latents.
        rows: split -> rows.
        prior: what the model was trained with; None is N(0, I), in the coordinates.
        coordinates: in which the prior is N(0, I); None for the model's own.
        says: sentences on the model.
        seconds: that the encoder takes for a row; None where that is not known, and is measured on the first rows.

    Raises:
        ArrayError: see `look`.
        NumericalError: the encoder gave NaN, infinity or a scale that is not above 0.
    """
    look(model, rows["train"].x[:LOOK])
    if coordinates is not None:
        model = Moved(model, coordinates)
    n = sum(len(r) for r in rows.values())
    expectation = Expectation(shown, f"encode {n:,} rows", pieces=n)
    if seconds is not None:
        expectation.tell(seconds)
    try:
        posteriors = {s: encode(Counted(model, expectation), r) for s, r in rows.items()}
    finally:
        expectation.done()
    says = (*says, *seen(rows), *closed(rows), *told(coordinates, prior))
    return Brought(posteriors, model, rows, prior, says, groups_of(rows), coordinates)


@torch.no_grad()
def look(model: Model, x: Float[Tensor, "n *datum"]) -> None:
    """Encode and decode some rows.

    Raises:
        ArrayError: p(x|z) is of data of another shape than the rows are.
    """
    event = model.decode(model.encode(x)[0]).event_shape
    if event != x.shape[1:]:
        raise ArrayError(
            f"decode: expected p(x|z) of data of shape {list(x.shape[1:])}, as the rows are, got {list(event)}; "
            "reshape the rows, or the decoder's answer, so that they agree"
        )

"""What the verdict for generation is made from: contenders on the selection split, and the controls."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from zprime.measure.samples.fidelity import Compared


@dataclass(frozen=True)
class Contender:
    """What the verdict compares of one candidate, measured on the selection split.

    Attributes:
        name, label, bytes: of the candidate.
        copies: status of the copying test.
        compared: its samples beside rows of the selection split.
        missing: labels that are generated far too rarely.
        right: which real rows of the selection split a classifier trained on its samples labels rightly; None without
            labels.
    """

    name: str
    label: str
    bytes: int
    copies: str
    compared: Compared
    missing: list[str]
    right: Bool[Tensor, " m"] | None = None


@dataclass(frozen=True)
class Controls:
    """Samples whose quality is known, beside held-out rows.

    Attributes:
        reconstructions: of rows of the selection split: what a perfect r(z) gives.
        real: rows of the selection split: what a perfect generator gives.
        tested: whether the copying test gave the right answer for the controls.
    """

    reconstructions: Compared
    real: Compared
    tested: bool

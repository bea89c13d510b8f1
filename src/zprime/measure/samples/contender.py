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
        copies: status of the copying test beside reconstructions of the selection split.
        compared: its samples beside rows of the selection split.
        missing: labels that are generated far too rarely.
        right: which real rows of the selection split a classifier trained on its samples labels rightly; None without
            labels.
        because: why copying is untested.
        holds_rows: whether functions of single training rows are stored.
    """

    name: str
    label: str
    bytes: int
    copies: str
    compared: Compared
    missing: list[str]
    right: Bool[Tensor, " m"] | None = None
    because: str = ""
    holds_rows: bool = False


@dataclass(frozen=True)
class Confirmed:
    """Fresh draws of one candidate beside held-out rows.

    Attributes:
        compared: the samples beside the rows.
        copies: status of the copying test beside reconstructions of held-out rows.
        because: why copying is untested.
    """

    compared: Compared
    copies: str = "passes"
    because: str = ""


@dataclass(frozen=True)
class Controls:
    """Samples whose quality is known, beside held-out rows, and what is known of the decoder.

    Attributes:
        reconstructions: of rows of the selection split: what a perfect r(z) gives.
        real: rows of the selection split: what a perfect generator gives.
        tested: whether the copying test gave the right answer for the controls.
        ignores: how it is seen that the decoder ignores z; empty where it does not.
        memorises: how it is seen that the decoder memorises; empty where it does not.
    """

    reconstructions: Compared
    real: Compared
    tested: bool
    ignores: str = ""
    memorises: str = ""

"""Rows of a split as samples are compared with them, and what is measured of one sample."""

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor

from zprime.data import Rows
from zprime.errors import UsageError
from zprime.measure.samples.contender import Contender
from zprime.measure.samples.fidelity import Compared
from zprime.measure.samples.frechet import Roots
from zprime.measure.samples.manifold import Neighbourhoods
from zprime.measure.study import Split
from zprime.results.samples import Sampled


@dataclass(frozen=True)
class RealRows:
    """Some rows of a split in random order, with all that samples are compared with.

    Attributes:
        x: the rows.
        truth: their own labels, or None.
        features: of the rows.
        neighbourhoods: of the features.
        labels: as the classifier labels the rows, or None.
        roots: kept of the features' moments, for Frechet distances.
    """

    x: Tensor
    truth: Int[Tensor, " n"] | None
    features: Tensor
    neighbourhoods: Neighbourhoods
    labels: Int[Tensor, " n"] | None
    roots: Roots = field(default_factory=Roots)


@dataclass(frozen=True)
class Measured:
    """What is measured of one sample: the entry, and what verdicts need beside it.

    Attributes:
        entry: what the audit keeps.
        heldout: the sample beside held-out rows.
        missing: labels generated far too rarely, beside the selection split.
        right: which rows of the selection split a classifier trained on the sample labels rightly; None without labels.
        contender: what the verdict for generation is made from; None of what may not be chosen.
    """

    entry: Sampled
    heldout: Compared
    missing: list[str]
    right: Bool[Tensor, " n"] | None
    contender: Contender | None = None


def rows_of(split: Split) -> Rows:
    """The rows of a split.

    Raises:
        UsageError: there are none.
    """
    if split.rows is None:
        raise UsageError(f"rows: expected the {split.name} rows, got none")
    return split.rows

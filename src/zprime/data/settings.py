"""Settings of a data set: what to read and how to split it."""

from dataclasses import dataclass, field

from zprime.data.conditions import LABELS
from zprime.data.readers import formats
from zprime.data.stores import check_address
from zprime.errors import UsageError
from zprime.serialise import LATER


@dataclass(frozen=True)
class DataSettings:
    """What to read and how to split it.

    Attributes:
        data: what to read, in one of the formats of `zprime.data.READERS`.
        selection: proportion of the rows for the selection split (of the training part where the set has a test part;
            at most 5,000 rows then).
        heldout: proportion of the rows for the held-out split; where the set has a test part, that is the held-out
            split instead.
        limit: keep this many training rows only, at random; 0 keeps all.
        binarise: draw 0/1 pixels with the grey value as probability: afresh every epoch in training, once elsewhere.
        split_seed: decides the splits (and the binarised rows) instead of the seed of the run, so that runs with other
            seeds have the same rows to train on and to be scored on.
        group: column of a .csv, .parquet or .npz file, or of Zarr, that says which rows belong together, e.g. a
            subject: they come into one split, and errors are by group. It is no part of the rows. Empty where rows are
            independent.
        aside: columns of a .csv or .parquet file that are no part of the rows, with commas between their names: those
            that `fit` and `audit` are to weigh rows by. (`run` sets the column of its weights aside by itself.)
        keep_duplicates: keep selection and held-out rows that equal a training row. Without it they are left out, and
            more than 1 % of a split is refused.
        heldout_data: what to read the held-out rows from, where the set has no test part of its own; in the same form
            and units.
        conditions: what a model of your own is told of each row beside x, by --model: `label`, or columns of a .csv,
            .parquet or .npz file, or of Zarr, with commas between their names. They are no part of x. Whole numbers
            come as whole numbers.
        as_stored: leave rows in the units that they are stored in: counts, and codes of categories. Otherwise images go
            to [0, 1], and columns are standardised.
    """

    data: str
    selection: float = 1 / 6
    heldout: float = 1 / 6
    limit: int = 0
    binarise: bool = False
    split_seed: int | None = None
    group: str = ""
    aside: str = ""
    keep_duplicates: bool = False
    heldout_data: str = ""
    conditions: str = ""
    as_stored: bool = field(default=False, metadata=LATER)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are no part of x: those of groups, those set aside, and conditions."""
        told = [name for name in self.told if name not in LABELS]
        return tuple(dict.fromkeys(filter(None, (self.group, *self.weighing, *told))))

    @property
    def told(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return tuple(filter(None, (name.strip() for name in self.conditions.split(","))))

    @property
    def weighing(self) -> tuple[str, ...]:
        """Names of the columns set aside."""
        return tuple(filter(None, (name.strip() for name in self.aside.split(","))))

    def seed_of_splits(self, seed: int) -> int:
        """What decides the splits of a run with this seed."""
        return seed if self.split_seed is None else self.split_seed

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if not self.data:
            raise UsageError(f"data: expected {formats()}, got an empty text; for this folder write --data .")
        for place in (self.data, self.heldout_data):
            check_address(place)
        for name, value in (("selection", self.selection), ("heldout", self.heldout)):
            if not 0 < value < 1:
                raise UsageError(f"{name}: expected a proportion between 0 and 1, got {value:g}")
        if self.selection + self.heldout >= 1:
            raise UsageError(f"selection + heldout: expected less than 1, got {self.selection + self.heldout:g}")
        if self.heldout_data and self.heldout_data == self.data:
            raise UsageError(f"heldout-data: expected other rows than --data, got the same, {self.data}")
        if len(set(self.told)) < len(self.told) or (self.conditions and not self.told):
            raise UsageError(
                f"conditions: expected label, or different names of columns, with commas between them, got "
                f"{self.conditions!r}"
            )
        if self.limit < 0:
            raise UsageError(f"limit: expected 0 (all rows) or more, got {self.limit}")


if DataSettings.__doc__ is not None:  # it is under python -OO
    DataSettings.__doc__ = DataSettings.__doc__.replace(
        "what to read, in one of the formats of `zprime.data.READERS`", formats(details=True)
    )

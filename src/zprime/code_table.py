"""The codes of a data set as one table, for tools that show points: where they lie, how new they are, what r says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zprime import artifact
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError, UsageError
from zprime.extras import imported
from zprime.kernels import ExactIndex
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.prior import prior_log_prob
from zprime.measure.samples.features import Entries
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.reporting.figures import principal_axes
from zprime.schema.kinds import SPLITS

Array = npt.NDArray[Any]
TRAIN = "train"
library = partial(imported, user="Parquet", packages="pyarrow", extra="parquet")
"""A module of the `parquet` extra."""


@dataclass(frozen=True, eq=False)
class CodesTable:
    """A line for each row of the data.

    It is as confidential as the data: a code decodes to about its row, and row ids say whose it is
    (docs/publishing.md). Distances are those of selection and held-out rows only: how far a training row is from the
    others would name the rows that stand out among those that the model has seen.

    Attributes:
        columns: `row_id`; `split`; `label`, where the data have labels; `x` and `y`, the mean of q(z|x) on the first
            two principal axes of those of the training rows; `log_ratio`, log r(z) - log p(z) at that mean, nats, where
            r has a density; `distance`, Euclidean, from the row to the nearest training row in the units that the
            model sees, counts in a table as log(1 + count); NaN for training rows, and left out where rows are not
            known.
        says: what r and p are.
    """

    columns: Mapping[str, Array]
    says: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.columns["row_id"])

    def save(self, path: str | Path) -> Path:
        """Write a Parquet file; `embedding-atlas FILE --x x --y y` shows it.

        Raises:
            UsageError: pyarrow is not installed (`zprime[parquet]`), or the path does not end in `.parquet`.
        """
        path = Path(path)
        if path.suffix != ".parquet":  # by the ending embedding-atlas knows how to read it
            raise UsageError(f"out: expected a path that ends in .parquet, got {str(path)!r}")
        pa, parquet = library("pyarrow"), library("pyarrow.parquet")
        table = pa.table({name: pa.array(v, from_pandas=True) for name, v in self.columns.items()})  # NaN is null
        sink = pa.BufferOutputStream()
        parquet.write_table(table.replace_schema_metadata({"zprime": json.dumps(dict(self.says))}), sink)
        artifact.make_folder(path.parent)
        artifact.write_file(path, sink.getvalue().to_pybytes())
        return path


@torch.no_grad()
def codes_table(
    posteriors: Mapping[str, Posteriors],
    r: LatentDistribution,
    *,
    prior: LatentDistribution | None = None,
    rows: Mapping[str, Rows] | None = None,
) -> CodesTable:
    """Codes, splits, labels, log r - log p and distances to training rows of all rows, to look at.

    The code of a row whose posterior is known by draws is their mean.

    Args:
        posteriors: of the splits, `train` among them.
        r: a latent distribution.
        prior: what the VAE was trained with; None is N(0, I).
        rows: the rows of the same splits, for the distances; None leaves these out. Of a posterior known by draws one
            a datum, or one a draw, as `zprime.bring.draws` has them.

    Raises:
        UsageError: there is no training split.
        ArrayError: rows and posteriors do not belong together.
    """
    if TRAIN not in posteriors:
        raise UsageError(f"posteriors: expected train among them, got {', '.join(posteriors) or 'none'}")
    order = sorted(posteriors, key=lambda s: SPLITS.index(s) if s in SPLITS else len(SPLITS))
    given = {s: posteriors[s].gather() for s in order}
    parts = {s: ByDatum.centred(p) for s, p in given.items()}
    rows = None if rows is None else {s: _one_a_datum(r, given.get(s)) for s, r in rows.items()}
    codes = torch.cat([p.mean.double() for p in parts.values()])
    trained = parts[TRAIN].mean.double()
    place = (codes - trained.mean(0)) @ principal_axes(trained)
    columns: dict[str, Array] = {
        "row_id": torch.cat([p.row_ids for p in parts.values()]).numpy(),
        "split": np.repeat(order, [p.n for p in parts.values()]),
        "x": place[:, 0].float().numpy(),
        "y": (place[:, 1] if place.shape[1] > 1 else torch.zeros(len(place))).float().numpy(),
    }
    labels = [p.labels for p in parts.values() if p.labels is not None]
    if len(labels) == len(parts):
        columns["label"] = torch.cat(labels).numpy()
    if r.density != "none":
        columns["log_ratio"] = (r.log_prob(codes) - prior_log_prob(prior, codes)).numpy()
    if rows is not None:
        columns["distance"] = torch.cat(_distances(parts, rows)).float().numpy()
    says = {"r": r.label, "density": r.density, "prior": "N(0, I)" if prior is None else prior.label, "unit": "nats"}
    return CodesTable(columns, says)


def _one_a_datum(rows: Rows, draws: MemoryPosteriors | None) -> Rows:
    """Rows of which there is one a draw without those of later draws; others as they are."""
    if draws is None or draws.datum is None or len(rows) != draws.n:
        return rows
    return rows.take(ByDatum.of(draws).first.sort().values)


def _distances(parts: Mapping[str, MemoryPosteriors], rows: Mapping[str, Rows]) -> list[Tensor]:
    """From each row that is no training row to the nearest training row; NaN for training rows."""
    for split, p in parts.items():
        if split not in rows or not torch.equal(rows[split].ids, p.row_ids):
            raise ArrayError(f"rows: expected the {split} rows in the order of their posteriors, got other rows")
    entries = Entries.fitting(rows[TRAIN].x)
    index = ExactIndex(entries.whole(rows[TRAIN].x))
    return [
        torch.full((p.n,), torch.nan) if split == TRAIN else index.nearest(entries.whole(rows[split].x), 1)[0][:, 0]
        for split, p in parts.items()
    ]

"""A hash of what models see of a data set: equal where the same rows are in the same splits, in the same units."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from zprime import artifact
from zprime.data.settings import DataSettings


def seen(content: str, ids: Mapping[str, Tensor], settings: DataSettings, seed: int) -> str:
    """SHA-256. The scaling follows from the training rows, but for its last bit, which is no part of it.

    Args:
        content: hash of the stored rows.
        ids: split -> its row ids.
        settings: of the data; pixels may be drawn.
        seed: of the run.
    """
    drawn = [settings.seed_of_splits(seed)] if settings.binarise else []
    return artifact.digest([content, hashlib.sha256(artifact.pack(ids)).hexdigest(), settings.as_stored, drawn])

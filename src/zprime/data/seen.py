"""A hash of what models see of a data set: equal where the same rows are in the same splits, in the same units."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from zprime import artifact
from zprime.data.settings import DataSettings


def seen(content: str, tensors: Mapping[str, Tensor], settings: DataSettings, seed: int) -> str:
    """SHA-256.

    Args:
        content: hash of the stored rows.
        tensors: row ids of the splits, and the scaling.
        settings: of the data; pixels may be drawn.
        seed: of the run.
    """
    drawn = [settings.seed_of_splits(seed)] if settings.binarise else []
    return artifact.digest([content, hashlib.sha256(artifact.pack(tensors)).hexdigest(), drawn])

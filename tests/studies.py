"""What an audit works on, for tests of one measure."""

from collections.abc import Mapping
from typing import Any

from zprime.data import Rows
from zprime.latent import Prior
from zprime.measure.study import Study, gather
from zprime.posteriors import Posteriors


def study(posteriors: Mapping[str, Posteriors], rows: Mapping[str, Rows] | None = None, **more: Any) -> Study:
    """With N(0, I) as the prior; a split that is not given is the held-out one."""
    every = {name: posteriors.get(name, posteriors["heldout"]) for name in ("train", "selection", "heldout")}
    return Study(*gather(every, rows), prior=Prior(posteriors["heldout"].d), **more)

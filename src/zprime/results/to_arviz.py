"""Scores of an audit for ArviZ: log p(x) and gains of every row under every candidate.

xarray and arviz-stats are the extra `arviz`; nothing here needs them before it is called.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zprime.errors import UsageError
from zprime.extras import imported
from zprime.results.entries import Entry
from zprime.results.names import CandidateId, Gain, by_id

if TYPE_CHECKING:
    import arviz_stats.utils
    import xarray

log = logging.getLogger("zprime")
SPLITS = ("selection", "heldout")
"""Those whose rows are scored one by one."""
EXP = 700.0
"""Numbers beyond which exp is 0 or infinite in float64."""
Array = npt.NDArray[Any]
_library = partial(imported, user="ArviZ", packages="xarray and arviz-stats", extra="arviz")
"""A module of the `arviz` extra."""


@dataclass(frozen=True)
class Scored:
    """What an audit measured of single rows.

    Attributes:
        entries: the candidates.
        tensors: `gain.<split>.<gain>.<candidate>`, `log_prior.<split>`, `row_ids.<split>`, and where there are any,
            `weights.<split>` and `groups.<split>`.
        draws: a row.
        khat: Pareto k-hat above which importance sampling is not relied on.
        says: name -> what is said of the whole.
    """

    entries: Sequence[Entry]
    tensors: Mapping[str, Tensor]
    draws: int
    khat: float
    says: Mapping[str, str | int]

    def datatree(self) -> "xarray.DataTree":
        """Groups `log_likelihood` and `gain` over candidates and rows; see `Audit.to_datatree`."""
        xr = _library("xarray")
        ids = [self._rows(s) for s in SPLITS]
        coords: dict[str, Any] = {
            "candidate": [e.name for e in self.entries],
            "row": np.concatenate(ids),
            "split": ("row", np.repeat(SPLITS, [len(i) for i in ids])),
            "label": ("candidate", [e.label for e in self.entries]),
            "share_of_prior": ("candidate", [e.id.epsilon for e in self.entries]),
            "eligible": ("candidate", [e.eligible for e in self.entries]),
            "density": ("candidate", [e.density for e in self.entries]),
        }
        for what in ("weights", "groups"):
            found = self._both(what)
            if found is not None:
                coords[what] = ("row", found)
        gains = {g.value: (("candidate", "row"), v) for g in Gain if (v := self._gains(g)) is not None}
        groups = {"gain": xr.Dataset(gains, coords)}
        log_prior = self._both("log_prior")
        if log_prior is not None and Gain.LIKELIHOOD in gains:
            log_p = gains[Gain.LIKELIHOOD][1] + log_prior
            groups["log_likelihood"] = xr.Dataset({"x": (("candidate", "row"), log_p)}, coords)
        for group in groups.values():
            group.attrs.update(self.says)
        tree: xarray.DataTree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(self.says)), **groups})
        return tree

    def elpd(
        self, split: str, names: Sequence[str] | None, *, over_prior: bool
    ) -> "dict[str, arviz_stats.utils.ELPDData]":
        """Candidate -> what `arviz_stats.compare` takes; see `Audit.to_elpd`."""
        if split not in SPLITS:
            raise UsageError(f"split: expected selection or heldout, got {split!r}")
        if f"weights.{split}" in self.tensors:
            raise UsageError(
                "to_elpd: ArviZ knows no weights of rows, and this audit has some; to_datatree() has them beside the "
                "gains"
            )
        wanted = [by_id(self.entries, CandidateId.parse(n)) for n in names or ()]
        entries = wanted if names is not None else [e for e in self.entries if e.eligible]
        xr, utils = _library("xarray"), _library("arviz_stats.utils")
        values = {e.name: self._pointwise(split, e, over_prior=over_prior) for e in entries}
        if any(float(v.abs().max()) > EXP for v in values.values()):
            log.warning(
                "to_elpd: of some values exp is 0 or infinite: arviz_stats.compare ranks candidates, but its weights "
                "mean nothing; with over_prior=True ranks and differences are the same, and weights can be computed"
            )
        groups = self.tensors.get(f"groups.{split}")
        dim, at = ("row", self._rows(split)) if groups is None else ("group", torch.unique(groups).numpy())
        found = {}
        for e in entries:
            v, score = values[e.name].numpy(), e.scores[split].likelihood
            found[e.name] = utils.ELPDData(
                kind=split,
                elpd=float(v.sum()),
                se=math.sqrt(len(v) * v.var()),
                p=math.nan,  # of parameters that the scored rows were fitted with; none were
                n_samples=self.draws,
                n_data_points=len(v),
                scale="log",
                warning=score is not None and not score.gain.stable,
                good_k=self.khat,
                elpd_i=xr.DataArray(v, coords={dim: at}, dims=[dim]),
            )
        return found

    def _pointwise(self, split: str, e: Entry, *, over_prior: bool) -> Tensor:
        """Log p_r(x) of every row, or its gain over the prior; summed over the rows of a group, where there are any."""
        gain = self.tensors.get(f"gain.{split}.{Gain.LIKELIHOOD}.{e.id}")
        log_prior = self.tensors.get(f"log_prior.{split}")
        if gain is None or log_prior is None:
            raise UsageError(f"{e.name}: log p(x) was not measured: it needs the decoder, the rows and draws of them")
        v = gain if over_prior else gain + log_prior
        groups = self.tensors.get(f"groups.{split}")
        if groups is None:
            return v
        _, place = torch.unique(groups, return_inverse=True)
        return torch.zeros(int(place.max()) + 1, dtype=v.dtype).index_add(0, place, v)

    def _rows(self, split: str) -> Array:
        """Ids of the rows that were scored."""
        ids = self.tensors.get(f"row_ids.{split}")
        if ids is None:
            raise UsageError(
                f"row_ids.{split}: expected an audit with row ids, got one that is public or of an older version; "
                "audit again"
            )
        return ids.numpy()

    def _both(self, what: str) -> Array | None:
        """A tensor of both splits, one after the other; None where one has none."""
        parts = [self.tensors[f"{what}.{s}"] for s in SPLITS if f"{what}.{s}" in self.tensors]
        return torch.cat(parts).numpy() if len(parts) == len(SPLITS) else None

    def _gains(self, gain: Gain) -> Array | None:
        """One gain, candidates by rows, NaN where it was not measured; None where it was of no candidate."""
        lines = [self._both_or_nan(f"gain.{{}}.{gain}.{e.id}") for e in self.entries]
        return None if all(np.isnan(line).all() for line in lines) else np.stack(lines)

    def _both_or_nan(self, name: str) -> Array:
        parts = [
            self.tensors[at].numpy() if (at := name.format(s)) in self.tensors else np.full(len(self._rows(s)), np.nan)
            for s in SPLITS
        ]
        return np.concatenate(parts)

"""`check.json` of an exported folder: what the numbers of its card were measured by, and what they are.

By it, the generator and the rows `zprime verify` measures the numbers again. It holds no row and no hash of rows: rows
are known again by their codes, summed up with random weights.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zprime import serialise
from zprime.artifact import Artifact
from zprime.errors import ArtifactError
from zprime.posteriors import Posteriors
from zprime.reporting.card import PROTOCOL, Metric, metrics
from zprime.results.audit import Audit, AuditSettings
from zprime.results.public import publish
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.statistics.estimate import mean_estimate

FILE = "check.json"
CLOSE = 1e-3
"""How far sums of codes may be apart, of the larger of the two or of 1: far more than rounding, less than a row."""


@dataclass(frozen=True)
class DataRecord:
    """How the rows of a run are read and split again, wherever they lie.

    Attributes:
        settings: of `DataSettings`, without paths; `heldout_data` is `given` where held-out rows were in a file of
            their own.
        seed: of the splits.
        brought: whether the model was trained elsewhere.
        weights: column that rows are weighed by; empty for equal weights.
        sizes: split -> number of rows.
        codes: split -> sums of its posterior means with random weights, one a latent dimension.
    """

    settings: dict[str, Any]
    seed: int
    brought: bool
    weights: str
    sizes: dict[str, int]
    codes: dict[str, list[float]]


@dataclass(frozen=True)
class Record:
    """What was measured, and by what.

    Attributes:
        candidate: what the card is of, as the audit called it.
        seed: of every draw.
        settings: of the audit.
        metrics: the numbers of the card.
        lines: lines of the card that have numbers in them.
        simulation: error of the likelihood gain by its draws, nats (see `simulation_error`).
        data: how to read the rows again; None where the audit was made in Python, of rows in memory.
        protocol: what the numbers mean.
        versions: of the libraries that measured them.
    """

    candidate: str
    seed: int
    settings: AuditSettings
    metrics: list[Metric]
    lines: list[str]
    simulation: float = 0.0
    data: DataRecord | None = None
    protocol: str = PROTOCOL
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audited:
    """Which audit measured a generative model.

    Attributes:
        audit: that measured it.
        name: what the audit calls it, e.g. `mixture+p5`.
        data: how to read the rows again; None where this is not known.
    """

    audit: Audit
    name: str
    data: DataRecord | None = None

    def record(self, lines: list[str]) -> Record:
        """For `check.json`; `lines` are those of the card."""
        public = publish(self.audit)
        found = metrics(public, public.entry(self.name))
        error = simulation_error(self.audit.tensors, self.name)
        how = self.audit.seed, replace(public.settings, draws=public.draws)  # as many as were taken
        return Record(self.name, *how, found, lines, error, self.data, versions=dict(self.audit.versions))


def read_record(source: Artifact) -> Record | None:
    """What an exported folder tells of its numbers; None where no audit measured it.

    Raises:
        ArtifactError: altered.
    """
    if FILE not in source.files:
        return None
    try:
        return serialise.from_jsonable(Record, json.loads(source.content(FILE)))
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{source.path / FILE}: not what this version of zprime writes ({error}); export it again"
        ) from error


def simulation_error(tensors: Mapping[str, Tensor], name: str) -> float:
    """Root mean square error of a held-out likelihood gain that is due to its draws alone, in nats; 0 where none is.

    It is found by the difference between all draws and their first quarter, row by row: three quarters of the variance
    of a quarter's are in it, so the variance of the whole is a third of its variance. The bias of the log of a mean is
    at all draws a third of what it moved from a quarter to all.

    Args:
        tensors: gains row by row, by their names in an audit.
        name: of the candidate.
    """
    whole, quarter = tensors.get(f"gain.heldout.likelihood.{name}"), tensors.get(f"quarter.heldout.{name}")
    if whole is None or quarter is None:
        return 0.0
    design = Design(tensors.get("weights.heldout"), tensors.get("groups.heldout"))
    moved = mean_estimate(whole - quarter, unit="nats per row", split="heldout", seed=None, design=design)
    error = math.sqrt((moved.stderr or 0.0) ** 2 / 3 + moved.value**2 / 9)
    return error if math.isfinite(error) else 0.0


def sums_of_codes(posteriors: Posteriors) -> list[float]:
    """Sums of the means of all rows with random weights, one a dimension: other rows, or another order, give others."""
    weight = torch.randn(posteriors.n, generator=stream(0, "sums of codes"), dtype=torch.float64)
    total = torch.zeros(posteriors.d, dtype=torch.float64)
    for shard in posteriors.shards():
        total += weight[shard.start : shard.start + len(shard.mean)] @ shard.mean.cpu().double()
    return [float(v) for v in total / math.sqrt(posteriors.n)]


def same_codes(recorded: list[float], posteriors: Posteriors) -> bool:
    """Whether these are the rows that were recorded, in the same order."""
    found = sums_of_codes(posteriors)
    if len(found) != len(recorded):
        return False
    pairs = zip(recorded, found, strict=True)
    return all(abs(a - b) <= CLOSE * max(1.0, abs(a), abs(b)) for a, b in pairs)


__all__ = ["FILE", "Audited", "DataRecord", "Record", "read_record", "same_codes", "simulation_error", "sums_of_codes"]

"""Whether rows that came after a run still fit it."""

import json
from dataclasses import dataclass
from pathlib import Path

from zprime import artifact, chain, serialise
from zprime.artifact import Artifact, Manifest
from zprime.schema import of_this_version
from zprime.statistics.estimate import Estimate

KIND = PLACE = "drift"
FILE = "drift.json"


@dataclass(frozen=True)
class Shift:
    """How far the codes of one dimension have moved.

    Attributes:
        dimension: from 0.
        statistic: Kolmogorov and Smirnov's, the largest gap between the two distribution functions.
        p_value: corrected for the number of dimensions (Holm 1979).
    """

    dimension: int
    statistic: float
    p_value: float


@dataclass(frozen=True)
class Drift:
    """New rows compared with held-out rows.

    Attributes:
        source: name of the latent distribution.
        rows: how many new rows.
        tested: how many of them the three tests compare: independent rows, drawn by weight; all of them where rows come
            neither in groups nor with weights.
        log_density: mean log r(z) at new codes less that at held-out codes, nats: below 0, r finds them less likely.
        density_p: two-sided rank test that the two have one distribution (Mann & Whitney 1947).
        moments: KL between the Gaussians with the moments of new and of held-out aggregated posteriors, nats. Above 0
            by chance alone, which the p-value allows for.
        moments_p: permutation test of the same.
        dimensions: every dimension, the least likely first.
        gain: ELBO gain of r over the prior on new rows: above 0, r still is the better of the two.
        gain_heldout: the same on held-out rows.
        p_value: of the three tests together (the least, times three).
        drifted: whether that is below 0.05.
        sentence: in words.
    """

    source: str
    rows: int
    tested: int
    log_density: Estimate
    density_p: float
    moments: Estimate
    moments_p: float
    dimensions: list[Shift]
    gain: Estimate
    gain_heldout: Estimate
    p_value: float
    drifted: bool
    sentence: str

    def save(self, path: Path, *, key: str, seed: int, inputs: dict[str, str]) -> Artifact:
        """Write the artefact.

        Args:
            path: its folder.
            key: what it follows from.
            seed: of draws and shuffles.
            inputs: `audit` -> hash of the audit that says what is shipped.
        """
        content = (json.dumps(serialise.to_jsonable(self), indent=1) + "\n").encode()
        return artifact.write(path, Manifest(KIND, {}, key, seed, inputs), extra={FILE: content})


def of_run(run: Path, *, audit: str) -> Drift | None:
    """What was found last in the folder of a run; None where nothing was, or beside another audit.

    Args:
        run: the folder.
        audit: hash of its audit.

    Raises:
        ArtifactError: it was altered, or written by another version.
    """
    path = run / PLACE
    if not artifact.is_artifact(path):
        return None
    stored = chain.read(path, KIND)
    if stored.inputs.get("audit") != audit:
        return None
    with of_this_version(path, "run `zprime audit --new-data` again"):
        return serialise.from_jsonable(Drift, json.loads(stored.content(FILE)))

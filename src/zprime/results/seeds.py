"""What comes out when training and audit are repeated with other seeds: gains between and within seeds, verdicts."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zprime import artifact, chain, serialise
from zprime.artifact import Artifact, Manifest
from zprime.results.names import Gain
from zprime.schema import of_this_version
from zprime.schema.kinds import check_settings
from zprime.statistics.estimate import Estimate

KIND = "seeds"
PLACE = "seeds/summary"
"""Where the summary lies in the folder of a run; `seeds/<seed>` beside it are the other runs."""


@dataclass(frozen=True)
class CandidateOverSeeds:
    """The held-out gain of one fit over seeds; lists are in the order of the seeds, None where a seed has no such fit.

    Attributes:
        name: of the fit.
        labels: what it is in each seed, with the share of the prior that was chosen there.
        gains: gain over the prior in each seed, with its error over rows.
        mean: mean of these values, its standard error and 95 % interval over seeds (by the t distribution); None of
            one seed.
        between: standard deviation between seeds, nats a row; None of one seed.
        within: mean standard error within a seed, nats a row.
    """

    name: str
    labels: list[str | None]
    gains: list[Estimate | None]
    mean: Estimate | None
    between: float | None
    within: float


@dataclass(frozen=True)
class VerdictOverSeeds:
    """One of the two verdicts, seed by seed.

    Attributes:
        decisions: of each seed.
        choices: name of the fit that is chosen in each seed, or `prior`.
    """

    decisions: list[str]
    choices: list[str]

    @property
    def unanimous(self) -> bool:
        """Whether decision and choice are the same in all seeds."""
        return len(set(zip(self.decisions, self.choices, strict=True))) == 1

    @property
    def sentence(self) -> str:
        """How often each decision was taken, the commonest first: `leave the prior in 2 of 3 seeds (mixture in 2)`."""
        n, parts = len(self.decisions), []
        for decision, count in Counter(self.decisions).most_common():
            at = [c for d, c in zip(self.decisions, self.choices, strict=True) if d == decision and c != "prior"]
            chosen = ", ".join(f"{c} in {k}" for c, k in Counter(at).most_common())
            parts.append(f"{decision} in {count} of {n} seeds" + (f" ({chosen})" if chosen else ""))
        return "; ".join(parts) + ". " + ("The same in all of them" if self.unanimous else DEPENDS) + "."


DEPENDS = "Decision or choice depends on the seed: take none of them as a property of the data and the architecture"


@dataclass(frozen=True)
class Seeds:
    """Several trainings and audits on the same split of the data.

    Attributes:
        seeds: of training, fits and audit; the first is that of the run itself, which also split the data.
        gain: the gain over the prior that is compared: the likelihood gain where all have it, else the ELBO gain.
        candidates: fit by fit.
        likelihood: the verdict by likelihood.
        generation: the verdict for generation; None where samples were not compared with data.
        shipped: name of the fit that each run ships.
    """

    seeds: list[int]
    gain: Gain
    candidates: list[CandidateOverSeeds]
    likelihood: VerdictOverSeeds
    generation: VerdictOverSeeds | None
    shipped: list[str]

    def save(self, path: Path, *, key: str, audits: dict[int, str], inputs: dict[str, str]) -> Artifact:
        """Write the artefact.

        Args:
            path: its folder.
            key: what it follows from.
            audits: seed -> key of the audit that it was made from.
            inputs: `audit` -> hash of the audit of the first seed.
        """
        content = (json.dumps(serialise.to_jsonable(self), indent=1) + "\n").encode()
        manifest = Manifest(KIND, {"audits": {str(s): k for s, k in audits.items()}}, key, self.seeds[0], inputs)
        return artifact.write(path, manifest, extra={"seeds.json": content})


def of_run(run: Path, *, seed: int, audit: str) -> Seeds | None:
    """The summary in the folder of a run; None where there is none that was made from this audit.

    Args:
        run: the folder.
        seed: of the run's own audit.
        audit: key of that audit.

    Raises:
        ArtifactError: it was altered, or written by another version.
    """
    path = run / PLACE
    if not artifact.is_artifact(path):
        return None
    stored = chain.read(path, KIND)
    check_settings(path, KIND, stored.config)
    audits = stored.config["audits"]
    if not audit or audits.get(str(seed)) != audit:
        return None
    for other in audits:
        if other != str(seed) and chain.read(path.parent / other / "audit").key != audits[other]:
            return None
    file = path / "seeds.json"
    with of_this_version(file, "give `zprime run` with --seeds again"):
        return serialise.from_jsonable(Seeds, json.loads(stored.content(file.name)))

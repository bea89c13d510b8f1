"""What an audit keeps: JSON and tensors, enough to draw every page without a model."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from zprime import artifact, serialise
from zprime.errors import ArtifactError, UsageError
from zprime.measure.candidates import PURE
from zprime.measure.samples.features import SPACES
from zprime.measure.samples.fidelity import FEWEST
from zprime.notebook import box, size
from zprime.results.drift import Drift
from zprime.results.latents import Averages, LatentsSide, Surgery
from zprime.results.likelihood import LikelihoodSide
from zprime.results.names import named
from zprime.results.samples import SamplesSide
from zprime.results.verdicts import Verdict
from zprime.statistics.estimate import Estimate

__all__ = ["PURE", "Audit", "AuditSettings", "Entry", "Score", "load"]


@dataclass(frozen=True)
class AuditSettings:
    """How much to measure.

    Attributes:
        rows: rows of the selection and of the held-out split that are scored, at most (drawn at random).
        draws: draws a row for the likelihood gain, a multiple of 4; 0 leaves it out.
        grid: samples of each candidate that are decoded for the pictures.
        map: codes and draws that the picture of the latent space shows.
        simulated: simulated rows that the encoder is calibrated on, at least 100; 0 leaves it out.
        ais: simulated rows that log p(x) is bracketed on by annealing, slow: about 5 seconds a row; 0 leaves it out.
        temperatures: of the annealing.
        samples: generated rows of each candidate that are compared with data, at least 40; 0 leaves it out.
        features: where they are compared: `auto`, `pixels`, `log-counts`, `codes`, `classifier` or `selfsupervised`.
    """

    rows: int = 1000
    draws: int = 400
    grid: int = 64
    map: int = 2000
    simulated: int = 1000
    ais: int = 0
    temperatures: int = 200
    samples: int = 2000
    features: str = "auto"

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.rows < 2:
            raise UsageError(f"rows: expected at least 2, got {self.rows}")
        if self.draws and (self.draws % 4 or self.draws < 8):
            raise UsageError(f"draws: expected 0, or a multiple of 4 that is at least 8, got {self.draws}")
        if self.grid < 1 or self.map < 1:
            raise UsageError(f"grid and map: expected at least 1, got {self.grid} and {self.map}")
        if self.simulated and self.simulated < 100:
            raise UsageError(f"simulated: expected 0, or at least 100, got {self.simulated}")
        if self.ais < 0 or self.ais == 1:
            raise UsageError(f"ais: expected 0, or at least 2 rows, got {self.ais}")
        if self.temperatures < 1:
            raise UsageError(f"temperatures: expected at least 1, got {self.temperatures}")
        if self.samples and self.samples < FEWEST:
            raise UsageError(f"samples: expected 0, or at least {FEWEST}, got {self.samples}")
        if self.features not in ("auto", *SPACES):
            raise UsageError(f"features: expected auto, {', '.join(SPACES)}, got {self.features!r}")


@dataclass(frozen=True)
class Score:
    """One rung of one blend on one split.

    Attributes:
        gain: mean over rows, with its error.
        median: median over rows.
        above: share of rows above 0.
        below: share of rows below -5 nats.
        diverged: rows whose value is infinite; they are not in `gain`.
        khat: share of rows with Pareto k-hat above 0.7 (likelihood gain only).
    """

    gain: Estimate
    median: float
    above: float
    below: float
    diverged: int = 0
    khat: float | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        name: as the candidate was called; with ` (e = 0)` its base without the prior's share, for information.
        label: what it is.
        eligible: whether the verdict could choose it.
        bytes: stored.
        holds_rows: whether what is stored are functions of single training rows.
        scores: split -> rung (`code`, `evidence`, `likelihood`) -> score.
        outcome: how its fit ended.
        chosen: what the selection split decided in its fit.
        curve: what that was chosen from.
        rate: draws z' per CPU second.
        seconds: CPU time of its fit, all threads; None where nothing was fitted, or it was not measured.
    """

    name: str
    label: str
    eligible: bool
    bytes: int
    holds_rows: bool
    scores: dict[str, dict[str, Score]]
    outcome: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    rate: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, repr=False)
class Audit:
    """Everything measured, enough to draw every page without a model.

    Attributes:
        data: name, shape, sizes of the splits, as the data set describes itself.
        model: what is told of the model.
        entries: the table.
        surgery: split -> ELBO surgery.
        verdict: by likelihood.
        log_prior: log p(x) of held-out rows under the prior (a lower bound in expectation), or None.
        storage: the two ways to keep the aggregated posterior, as latents and as data: bytes, and draws per CPU second.
        settings, seed: how it was measured.
        tensors: per-row gains, decoded grids, codes and draws for the latent map.
        images: whether the grids are pictures.
        latents_side: what is memorised, the hole as a bracket, two-sample tests and what else needs no decoder.
        likelihood_side: log p(x) and bits under every candidate, the encoder's gap and calibration; None without a decoder.
        generation: what comes out and who gets copied, with the verdict for generation; None without a decoder.
        averages: the "average" of the posteriors under each criterion.
        drift: whether new rows still fit what was shipped; None until `zprime audit --new-data` looks.
        versions: library -> version that measured.
        inputs: model, posteriors and latent distributions -> hash.
        command: shell command that makes the run again; empty where the audit comes from no run.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    entries: list[Entry]
    surgery: dict[str, Surgery]
    verdict: Verdict
    log_prior: Estimate | None
    storage: dict[str, int]
    settings: AuditSettings
    seed: int
    tensors: dict[str, Tensor]
    images: bool
    warnings: list[str] = field(default_factory=list)
    latents_side: LatentsSide | None = None
    likelihood_side: LikelihoodSide | None = None
    generation: SamplesSide | None = None
    averages: Averages | None = None
    drift: Drift | None = None
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def entry(self, name: str) -> Entry:
        """The row of the table called `name`.

        Raises:
            UsageError: no such row.
        """
        return named(self.entries, name)

    @property
    def shipped(self) -> str:
        """What to ship: what the verdict for generation says where it is decided; else that by likelihood, uncopied."""
        if self.generation is None:
            return self.verdict.choice
        made = self.generation.verdict
        if made.decision in ("leave the prior", "keep the prior"):
            return made.choice
        return "prior" if self.copying(self.verdict.choice) == "copies" else self.verdict.choice

    def copying(self, name: str) -> str:
        """Whether samples of the candidate called `name` copy training rows: `copies`, `passes` or `untested`."""
        found = [] if self.generation is None else [e.status for e in self.generation.entries if e.name == name]
        return found[0] if found else "untested"

    def __repr__(self) -> str:
        """Both verdicts, in words."""
        made = "" if self.generation is None else f" For generation: {self.generation.verdict.sentence}"
        return f"<Audit of {len(self.entries)} candidates, seed {self.seed}. {self.verdict.sentence}{made}>"

    def __str__(self) -> str:
        """The verdicts and the table; `zprime.report(audit, "audit.html")` shows all of it."""
        heads, rows = self._table()
        cells = [[str(c) for c in r] for r in (heads, *rows)]
        widths = [max(len(r[j]) for r in cells) for j in range(len(heads))]
        heldout = next(iter(self.entries[0].scores["heldout"].values())).gain
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]
        lines.append(
            f"gains over the prior ± one standard error, nats a row: {heldout.n} held-out rows, seed {self.seed}"
        )
        lines.append(f"By likelihood: {self.verdict.sentence}")
        if self.generation is not None:
            lines.append(f"For generation: {self.generation.verdict.sentence}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The verdict and the table, in a notebook."""
        heads, rows = self._table()
        return box(self.verdict.sentence, rows, heads=heads, bold=self.entry(self.verdict.choice).label)

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        """Headings, and for each entry its name, bytes and gains."""
        scores = [e.scores["heldout"] for e in self.entries]
        rungs = [r for r in ("code", "evidence", "likelihood") if any(r in s for s in scores)]
        rows = [
            [
                e.label if e.eligible else f"{e.label} alone",
                size(e.bytes),
                *(f"{s[r].gain}{'' if s[r].gain.stable else ' ?'}" if r in s else "–" for r in rungs),
            ]
            for e, s in zip(self.entries, scores, strict=True)
        ]
        return ["z′ from", "stored", *(f"{r} gain" for r in rungs)], rows

    def to_json(self) -> dict[str, Any]:
        """All but the tensors."""
        out: dict[str, Any] = serialise.to_jsonable(replace(self, tensors={}))
        del out["tensors"]
        return out

    def save(self, path: str | Path, *, key: str = "", **inputs: str) -> artifact.Artifact:
        """Write the artefact folder: `audit.json` and tensors."""
        content = (json.dumps(self.to_json(), indent=1) + "\n").encode()
        config = {
            "verdict": self.verdict.decision,
            "choice": self.shipped,
            "copying": {e.name: self.copying(e.name) for e in self.entries},
        }
        manifest = artifact.Manifest("audit", config, key, self.seed, inputs)
        return artifact.write(path, manifest, tensors=self.tensors, extra={"audit.json": content})


def load(path: str | Path) -> Audit:
    """Read the audit of a run.

    Args:
        path: folder of a run, or of an audit itself.

    Raises:
        ArtifactError: missing, altered, or of another kind.
    """
    inner = Path(path) / "audit"
    found = artifact.read(inner if artifact.is_artifact(inner) else path, "audit")
    file = found.path / "audit.json"
    content = artifact.read_bytes(file)
    artifact.verify(file, content, found.files.get("audit.json"))
    try:
        out = serialise.from_jsonable(Audit, {**json.loads(content), "tensors": {}})
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file}: made by another version of zprime ({error}); audit the run again") from error
    return replace(out, tensors=found.tensors())

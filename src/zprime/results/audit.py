"""What an audit keeps: JSON and tensors, enough to draw every page without a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zprime import artifact, chain, serialise
from zprime.errors import ArtifactError, UsageError
from zprime.escape import visible
from zprime.memory import size
from zprime.results.density import marked
from zprime.results.drift import Drift
from zprime.results.drift import of_run as drift_of_run
from zprime.results.entries import Entry, Score, Scores
from zprime.results.facts import DataInfo, ModelInfo, Storage
from zprime.results.latents import ALWAYS, Averages, LatentsSide, Surgery
from zprime.results.likelihood import LikelihoodSide, Membership
from zprime.results.machine import apart, together, with_path
from zprime.results.names import NAME, STANDARD, CandidateId, Gain, by_id
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED, SamplesSide
from zprime.results.seeds import Seeds, of_run
from zprime.results.settings import AuditSettings
from zprime.results.thresholds import THRESHOLDS, Thresholds
from zprime.results.to_arviz import Scored
from zprime.results.verdicts import Verdict, worst
from zprime.schema import guarded, need, of_this_version
from zprime.schema.kinds import check
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import explained
from zprime.tables import Cell, Column, Row, Style, Table, to_html, to_text

if TYPE_CHECKING:
    import arviz_stats.utils
    import xarray

__all__ = ["Audit", "AuditSettings", "Entry", "Score", "Scores", "load"]


@dataclass(frozen=True, repr=False)
class Audit:
    """Everything measured, enough to draw every page without a model.

    Attributes:
        data: the data set, as it describes itself.
        model: the model, and how it was trained.
        entries: the table.
        surgery: split -> ELBO surgery; empty where the posteriors have no density (`model.posterior`).
        verdict: by likelihood.
        log_prior: log p(x) of held-out rows under the prior (a lower bound in expectation), or None.
        storage: the two ways to keep the aggregated posterior.
        settings, seed, thresholds: how it was measured.
        tensors: per-row gains, decoded grids, codes and draws for the latent map.
        images: whether the grids are pictures.
        latents: what is memorised, bounds on the hole, two-sample tests and what else needs no decoder.
        likelihood: log p(x) and bits under every candidate, the encoder's gap and calibration; None without a decoder.
        membership: whether training rows can be told from held-out rows by their scores; None where it was left out.
        samples: fidelity and copying of generated rows, with the verdict for generation; None without a decoder.
        averages: the "average" of the posteriors under each criterion.
        drift: whether new rows still fit what was shipped; None until `zprime audit --new-data` looks. An artefact of
            its own, not in the JSON.
        seeds: gains and verdicts over seeds, where the run was repeated; an artefact of its own, not in the JSON.
        versions: library -> version that measured.
        inputs: model, posteriors and latent distributions -> hash.
        command: shell command that makes the run again; empty where the audit comes from no run.
        prior: what the model was trained with, and all gains are over: `N(0, I)`, or the label of another.
        draws: draws a row that gains took: as many as `settings.draws`, or fewer where these were enough.
    """

    data: DataInfo
    model: ModelInfo
    entries: list[Entry]
    surgery: dict[str, Surgery]
    verdict: Verdict
    log_prior: Estimate | None
    storage: Storage
    settings: AuditSettings
    seed: int
    tensors: dict[str, Tensor]
    images: bool
    warnings: list[str] = field(default_factory=list)
    latents: LatentsSide | None = None
    likelihood: LikelihoodSide | None = None
    membership: Membership | None = None
    samples: SamplesSide | None = None
    averages: Averages | None = None
    drift: Drift | None = None
    seeds: Seeds | None = None
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    thresholds: Thresholds = THRESHOLDS
    command: str = ""
    prior: str = STANDARD
    draws: int = 0

    @property
    def rows(self) -> int:
        """Training rows whose codes were measured."""
        return self.surgery["train"].mean_kl.n if self.surgery else self.model.codes

    @property
    def variance(self) -> list[float]:
        """Variance over training rows of the posterior means, or of the codes, in every dimension."""
        return self.surgery["train"].mean_variance if self.surgery else self.model.variance

    @property
    def active(self) -> int:
        """Dimensions in which that is above the threshold."""
        return sum(v > self.thresholds.active for v in self.variance)

    def entry(self, name: str) -> Entry:
        """The row of the table called `name`: `aggregated+p10` is a candidate, `aggregated` the distribution itself.

        Raises:
            UsageError: no such row.
        """
        return by_id(self.entries, CandidateId.parse(name))

    def log_prob(self, name: str) -> Tensor:
        """Log p_r(x) of each held-out row that was measured, in nats, e.g. to rank rows by how unusual they are.

        An estimate by importance sampling, by `draws` a row: the fewer, the lower (`AuditSettings(first_draws=400)`).
        Low for rows that the decoder cannot make or whose z is unlikely under r. Shape [n], in the order of the rows.

        Args:
            name: of a row of the table, e.g. `prior` or `mixture+p1`.

        Raises:
            UsageError: no such row, or no likelihood gain was measured.
        """
        wanted = self.entry(name).id
        prior, gain = (self.tensors.get(n) for n in ("log_prior.heldout", f"gain.heldout.{Gain.LIKELIHOOD}.{wanted}"))
        if prior is None or gain is None:
            raise UsageError(f"{name}: log p(x) was not measured: it needs the decoder, the rows and draws of them")
        return prior + gain

    @property
    def leading(self) -> list[Entry]:
        """One row for every fit: that of its candidate, or of the distribution itself where there is none."""
        first: dict[str, Entry] = {}
        for e in self.entries:
            first.setdefault(e.id.name, e)
        return list(first.values())

    @property
    def shipped(self) -> str:
        """What to ship: the choice of the verdict for generation where it decides, else of the verdict by likelihood.

        The prior is shipped in place of a choice whose samples are not cleared of copying (`copying` is not `passes`),
        and of one that stores functions of single training rows, unless the settings allow that.
        """
        verdict = self.verdict.choice
        if self.samples is not None and self.samples.verdict.decision in ("leave the prior", "keep the prior"):
            verdict = self.samples.verdict.choice
        if verdict == "prior" or self.copying(verdict) != "passes":
            return "prior"
        return "prior" if self.entry(verdict).holds_rows and not self.settings.allow_rows else verdict

    def copying(self, name: str) -> str:
        """Whether samples of what is called `name` copy training rows: `copies`, `passes` or `untested`.

        It is the worse of the two splits where the held-out split was opened for it.
        """
        wanted = CandidateId.parse(name)
        sampled = None if self.samples is None else next((s for s in self.samples.entries if s.id == wanted), None)
        if self.samples is None or sampled is None:
            return "untested"
        return worst(sampled.status, self.samples.verdict.copying.get(str(wanted), "passes"))

    def __repr__(self) -> str:
        """Both verdicts, in words."""
        generation = "" if self.samples is None else f" For generation: {self.samples.verdict.sentence}"
        said = f"{len(self.entries)} candidates, seed {self.seed}. {self.verdict.sentence}{generation}"
        return f"<{'Quick audit' if self.settings.quick else 'Audit'} of {visible(said)}>"

    def __str__(self) -> str:
        """The verdicts and the table; `zprime.report(audit, "audit.html")` shows everything."""
        heldout = self.entries[0].heldout.elbo.gain
        lines = [
            to_text(self._measured()),
            f"gains over the prior ± one standard error, nats a row: {heldout.n} held-out rows, seed {self.seed}",
            f"By likelihood: {visible(self.verdict.sentence)}",
        ]
        if self.samples is not None:
            lines.append(f"For generation: {visible(self.samples.verdict.sentence)}")
        lines += [f"Note: {self.settings.says}."] if self.settings.quick else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The verdict and the table, in a notebook."""
        return to_html(replace(self._measured(), title=self.verdict.sentence))

    def table(self) -> Table:
        """Every candidate with its held-out gains; the columns are `name`, `stored` and each `Gain`."""
        heldout = self.entries[0].heldout.elbo.gain
        columns = [
            Column("name", "z′ from", "z' from", numeric=False),
            Column("stored", "stored"),
            *(Column(g, g.words, g.few_words) for g in Gain),
        ]
        return Table(
            f"Held-out gain over the prior, nats per row ({heldout.n} rows, seed {self.seed})",
            columns,
            [self._row(e) for e in self.entries],
        )

    def _row(self, e: Entry) -> Row:
        kept = f"Bytes of the arrays that a shipped model carries for this latent distribution: {e.bytes:,}."
        stored = Cell(size(e.bytes), kept, e.bytes, size(e.bytes) + ("*" if e.holds_rows else " "))
        scores = [(g, e.heldout.of(g)) for g in Gain]
        gains = [marked(explained(s.gain if s else None, g.says), e.density) for g, s in scores]
        return Row([Cell(e.title, key=e.title), stored, *gains], self._style(e))

    def _style(self, e: Entry) -> Style:
        if str(e.id) == self.verdict.choice:
            return Style.CHOSEN
        if e.eligible:
            return Style.PLAIN
        return Style.SHOWN if e.id in {x.id for x in self.leading} else Style.ITSELF

    def _measured(self) -> Table:
        """The table with the gains that were measured of some candidate."""
        return self.table().pick(
            "name", "stored", *(g for g in Gain if any(e.heldout.of(g) is not None for e in self.entries))
        )

    def to_datatree(self) -> "xarray.DataTree":
        """Log p(x) and gains row by row, as an xarray DataTree, the form of ArviZ.

        Returns:
            Group `log_likelihood` with `x`, log p_r(x) in nats (where it was measured), and group `gain` with the gains
            over the prior: each by candidate and row. Coordinates of a row are its id, its split and, where rows have
            them, its weight and its group; those of a candidate its label, share of the prior, whether a verdict may
            choose it, and what its log r(z) is. Attributes are seed, unit, prior, draws a row and the verdict. Log p(x)
            is of a mean over z, so there are no dimensions `chain` and `draw`. It holds row ids: do not publish it.

        Raises:
            UsageError: xarray is not installed (`zprime[arviz]`); an audit without row ids.
        """
        return self._scored.datatree()

    def to_elpd(
        self, split: str = "heldout", *, names: Sequence[str] | None = None, over_prior: bool = False
    ) -> "dict[str, arviz_stats.utils.ELPDData]":
        """Candidate -> ELPDData, for `arviz_stats.compare(audit.to_elpd())`.

        Nothing is left out one by one: no model was fitted to the rows of these splits. Differences and their errors
        are sums over rows, where the audit has means; of rows in groups a data point is the sum over a group.

        Args:
            split: `heldout` or `selection`.
            names: candidates, e.g. `mixture+p1`; None for all that a verdict may choose.
            over_prior: log p_r(x) - log p_p(x) in place of log p_r(x). Ranks, differences and stacking weights are the
                same; take it where log p(x) is beyond +-700 nats, so that `compare` cannot compute weights.

        Raises:
            UsageError: arviz-stats is not installed (`zprime[arviz]`); no such split or candidate; log p(x) was not
                measured, or rows are weighted.
        """
        return self._scored.elpd(split, names, over_prior=over_prior)

    @property
    def _scored(self) -> Scored:
        says: dict[str, str | int] = {
            "inference_library": "zprime",
            "inference_library_version": self.versions.get("zprime", ""),
            "seed": self.seed,
            "unit": "nats per row",
            "prior": self.prior,
            "draws": self.draws,
            "decision": self.verdict.decision,
            "choice": self.verdict.choice,
        }
        return Scored(self.entries, self.tensors, self.draws, self.thresholds.khat, says)

    def to_json(self) -> dict[str, Any]:
        """All but the tensors, and the drift and the summary over seeds, which are artefacts of their own."""
        fields: dict[str, Any] = serialise.to_jsonable(replace(self, tensors={}, seeds=None, drift=None))
        for name in ("tensors", "seeds", "drift"):
            del fields[name]
        return fields

    def save(
        self, path: str | Path, *, key: str = "", inputs: Mapping[str, str] = MappingProxyType({})
    ) -> artifact.Artifact:
        """Write the artefact folder: `audit.json` and tensors; what the machine measured is kept beside."""
        entries, storage, model, measured = apart(self.entries, self.storage, self.model)
        alone = replace(self, entries=entries, storage=storage, model=model)
        content = (json.dumps(alone.to_json(), indent=1) + "\n").encode()
        config = {
            "verdict": self.verdict.decision,
            "choice": self.shipped,
            "quick": self.settings.quick,
            "copying": {str(e.id): self.copying(e.name) for e in self.entries},
        }
        manifest = artifact.Manifest("audit", config, key, self.seed, dict(inputs), measured)
        return artifact.write(path, manifest, tensors=self.tensors, extra={"audit.json": content})


def load(path: str | Path) -> Audit:
    """Read the audit of a run.

    Args:
        path: folder of a run, or of an audit itself.

    Raises:
        ArtifactError: missing, altered, or of another kind; the run was not audited yet.
    """
    path = Path(path)
    inner = path / "audit"
    if not artifact.is_artifact(inner) and artifact.is_artifact(path) and artifact.read(path).kind == chain.RUN:
        raise ArtifactError(f"{path}: this run has not been audited yet; run `zprime audit {path}` first")
    stored = chain.read(inner if artifact.is_artifact(inner) else path, "audit")
    file = stored.path / "audit.json"
    with of_this_version(file, "audit the run again"):
        audit = serialise.from_jsonable(Audit, {**json.loads(stored.content(file.name)), "tensors": {}})
        entries, storage, model = together(audit.entries, audit.storage, audit.model, stored.measured)
        audit = replace(audit, entries=entries, storage=storage, model=model)
        _check_names(audit)
    tensors = stored.tensors()
    check(stored.path, "audit", stored.config, tensors)
    with guarded(stored.path, "audit the run again"):
        need("choice", stored.config["choice"] == audit.shipped, f"{audit.shipped}, as {file.name} says", "another")
    run = stored.path.parent
    audit = replace(audit, command=with_path(audit.command, run / "data"))
    moved = drift_of_run(run, audit=stored.hash)
    return replace(audit, tensors=tensors, drift=moved, seeds=of_run(run, seed=audit.seed, audit=stored.key))


def _check_names(audit: Audit) -> None:
    """Raise `KeyError` where a name is missing that every audit has, `ValueError` where one cannot be that of a fit."""
    wrong = next((e.id.name for e in audit.entries if not NAME.fullmatch(e.id.name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r:.80} is no name of a fit")
    splits = ("train", "selection", "heldout")
    cut = splits if audit.model.posterior == "density" else ()
    named: list[tuple[str, Mapping[str, object], tuple[str, ...]]] = [("surgery", audit.surgery, cut)]
    named += [(f"scores of {e.id}", e.scores, splits[1:]) for e in audit.entries]
    if audit.averages is not None:
        named.append(("averages", audit.averages.members, ALWAYS))
    if audit.samples is not None:
        named.append(("controls", audit.samples.controls, (REAL, RECONSTRUCTED, PLANTED)))
    for where, there, wanted in named:
        missing = [name for name in wanted if name not in there]
        if missing:
            raise KeyError(f"no {missing[0]} among the {where}")

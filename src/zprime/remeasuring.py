"""The numbers of an exported folder's card, measured again from the folder and rows, without the run.

With the data of the run they are measured by an audit of the shipped candidate and the prior alone. What it draws is as
in the run, but for the draws of likelihood gains, which all candidates of a run share: these numbers come out equal
within the error of simulation. With held-out rows alone the gains are measured, and what the folder says by itself.
"""

import math
import shlex
from dataclasses import dataclass, replace

import torch

from zprime import auditing, threads
from zprime import data as datasets
from zprime.arrays import check_finite
from zprime.data import SPLITS, DataSettings, Rows, Source, read_source
from zprime.data.scaling import scaled_rows, stored
from zprime.data.splitting import split_rows
from zprime.data.stores import is_missing
from zprime.distribution import LatentDistribution, Prior
from zprime.encoding import encode, is_flow
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.exporting import DataRecord, Record, same_codes, simulation_error
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.scores import scores
from zprime.measure.study import Split
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent
from zprime.reporting.card import Metric, metrics, of_gains
from zprime.results.audit import AuditSettings
from zprime.results.differences import ROUNDING, Checked
from zprime.results.names import PRIOR, CandidateId
from zprime.results.public import publish
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.threads import Threads
from zprime.vae import Model

GAINS = ("likelihood_gain", "likelihood_gain_lower")
"""Numbers by draws that all candidates of an audit share."""
ATTACK = "membership_auc"
"""So is this, by the order of such gains."""
APART = 4.0
"""How far such a gain may be from the recorded one, in errors of simulation of both."""
LESS = 2.0
"""By how much the recorded error of simulation may be above the one that is found, as far as it counts."""
OF_ROWS = 1.0
"""How far the attack may be from the recorded one, in standard errors over rows."""
ALONE = "measured with training rows, which held-out rows alone have not: give the data of the run, --data"


@dataclass(frozen=True)
class Remeasure:
    """How to measure the numbers of a card again.

    Attributes:
        record: what was measured, and by what.
        model: r(z) and decoder; encoder and decoder are one object.
        prior: what the VAE was trained with; None is N(0, I).
        workers: threads that measure side by side.
        threads: how many threads torch uses, by the work.
        progress: called by the long parts.
    """

    record: Record
    model: GenerativeModel
    prior: LatentDistribution | None
    workers: int = 1
    threads: Threads = Threads()
    progress: Progress = silent

    def run(self, data: str, heldout_data: str) -> list[Checked]:
        """Measure, and compare number by number.

        Args:
            data: the data of the run; empty where there are only held-out rows.
            heldout_data: held-out rows that are in a file of their own; may be empty where `data` are given.

        Raises:
            UsageError: neither is given, nothing to read there, or what is given does not suffice.
            ArrayError: rows that cannot be used.
            ArtifactError: they are others than those of the run, or the folder does not say how they are read.
        """
        told = self.record.data
        if is_flow(self.model.decoder):
            raise UsageError(
                "verify: the posteriors of this model are flows, and what was measured by their draws is measured "
                "again in the run alone: zprime verify RUN; --files-only checks the files of this folder and its card"
            )
        if told is None:
            raise ArtifactError(
                "verify: this folder was exported in Python, of rows in memory, and does not say how they are read; "
                "--files-only checks its files and its card"
            )
        if not isinstance(self.model.decoder, Model):
            raise ArtifactError("verify: this folder holds no encoder; export it from the run again")
        if data:
            found, error = self._of_run(told, self.model.decoder, data, heldout_data)
            because = "this audit, of what was shipped and the prior alone, came to another verdict"
        elif heldout_data:
            found, error = self._of_heldout(told, self.model.decoder, heldout_data)
            because = ALONE
        else:
            raise UsageError(
                "verify: expected the data that an exported folder was measured on: --data PATH, the data of its run, "
                "or --heldout-data PATH, its held-out rows alone; --files-only checks its files and its card"
            )
        by_kind = {m.kind: m for m in found}
        limit = APART * math.hypot(error, min(self.record.simulation, LESS * error))
        return [checked(m, by_kind.get(m.kind), limit, because) for m in self.record.metrics]

    def _of_run(self, told: DataRecord, model: Model, data: str, heldout_data: str) -> tuple[list[Metric], float]:
        settings = self._settings(told, data, heldout_data)
        dataset = datasets.load(settings, seed=told.seed, brought=told.brought)
        self._check_shape(dataset.shape, data)
        rows = {s: dataset.rows(s) for s in SPLITS}
        posteriors: dict[str, Posteriors] = {s: encode(model, r, progress=self.progress) for s, r in rows.items()}
        for split, p in posteriors.items():
            check_rows(told, split, p, data)
        train = posteriors["train"]
        large = threads.large(train.n * train.d)
        self.threads.use(heavy=large)
        if told.weights:
            weighted = {s: p.gather().weighted(dataset.weights(told.weights, s)) for s, p in posteriors.items()}
            posteriors = dict(weighted)
        audit = auditing.audit(
            {self._base: self.model.latent},
            posteriors,
            model=model,
            rows=rows,
            prior=self.prior,
            data=replace(dataset.info(), weights=told.weights),
            settings=_of_card(self.record.settings),
            seed=self.record.seed,
            workers=self.workers if large and not told.brought else 1,
            progress=self.progress,
        )
        public = publish(audit)
        name = self.record.candidate
        return metrics(public, public.entry(name)), simulation_error(audit.tensors, name)

    def _of_heldout(self, told: DataRecord, model: Model, file: str) -> tuple[list[Metric], float]:
        settings = DataSettings(**{**told.settings, "data": file, "heldout_data": ""})
        if told.weights or settings.group:
            raise UsageError(
                "heldout-data: the rows of this folder come in groups, or are weighed, and are known by the data of "
                "the run only; give --data PATH"
            )
        rows = self._rows(told, settings, file)
        posteriors = encode(model, rows, progress=self.progress).gather()
        check_rows(told, "heldout", posteriors, file)
        rng = stream(self.record.seed, "audit", "heldout")
        how: AuditSettings = self.record.settings
        picked = posteriors.pick(how.rows, rng=rng)
        prior = Prior(posteriors.d) if self.prior is None else self.prior
        wanted = CandidateId.parse(self.record.candidate)
        r = candidate_of(self.model.latent, None, prior) if wanted.name != PRIOR else prior
        among = Candidates({wanted.name: r}, prior=prior)
        some = Split("heldout", posteriors, rows).take(picked)
        gains = measure_gains(among, some, rng=rng, model=model, draws=how.draws, progress=self.progress)
        least = self.model.latent.least_rows
        found = of_gains(scores(gains, wanted, self.record.seed))
        found += [] if least is None else [Metric("least_rows", "", f"{least:.1f}", least)]
        return found, simulation_error(gains.tensors(), self.record.candidate)

    def _rows(self, told: DataRecord, settings: DataSettings, file: str) -> Rows:
        """Held-out rows from a file of them, or from one of all rows that the model has not seen."""
        if is_missing(file):
            raise UsageError(f"heldout-data: {file} is not there; say where the held-out rows are")
        source = read_source(file, settings.columns)
        x = stored(source.x)
        self._check_shape(tuple(x.shape[1:]), file)
        check_finite(file, x)
        ids, wanted = torch.arange(len(x)), told.sizes["heldout"]
        if told.brought and len(x) != wanted:  # a half of them is the selection split
            seed = settings.seed_of_splits(told.seed)
            ids = split_rows(len(x) + 1, len(x), replace(settings, limit=0), seed, brought=True)["heldout"] - 1
        if len(ids) != wanted:
            raise ArtifactError(
                f"{file}: expected {wanted:,} held-out rows, in the order that they have in the data, got {len(x):,}"
                f"{_all_rows(told, source, file)}"
            )
        x = scaled_rows(x, ids, self.model.shift, self.model.scale)
        if settings.binarise:
            rng = stream(settings.seed_of_splits(told.seed), "binarise", "heldout")
            x = torch.bernoulli(x.clamp(0, 1), generator=rng)
        return Rows("heldout", x, ids)

    def _settings(self, told: DataRecord, data: str, heldout_data: str) -> DataSettings:
        beside = bool(told.settings.get("heldout_data"))
        if beside != bool(heldout_data):
            what = (
                "were in a file of their own: give it by --heldout-data too"
                if beside
                else ("are among the data: leave --data or --heldout-data out")
            )
            raise UsageError(f"heldout-data: the held-out rows of this folder {what}")
        for option, place in (("data", data), ("heldout-data", heldout_data)):
            if is_missing(place):
                raise UsageError(f"{option}: {place} is not there; say where the rows are")
        return DataSettings(**{**told.settings, "data": data, "heldout_data": heldout_data})

    def _check_shape(self, shape: tuple[int, ...], file: str) -> None:
        wanted = tuple(self.model.shift.shape)
        if shape != wanted:
            raise ArrayError(f"{file}: expected rows of shape {list(wanted)}, as the model has, got {list(shape)}")

    @property
    def _base(self) -> str:
        """What the candidate is called without its share of the prior."""
        return CandidateId.parse(self.record.candidate).name


def _all_rows(told: DataRecord, source: Source, file: str) -> str:
    """What to do where a file of held-out rows seems to hold all rows of the run; empty where it does not."""
    if not source.test and len(source.x) < sum(told.sizes.values()):
        return ""
    aside = " --heldout-data HELDOUT, the file of the held-out rows" if told.settings.get("heldout_data") else ""
    return f"; if these are all rows of the run, give them as its data: --data {shlex.quote(file)}{aside}"


def _of_card(settings: AuditSettings) -> AuditSettings:
    """Without what no number of a card depends on."""
    return replace(settings, latent_side=False, simulated=0, other_scale=0, bandwidth_path=False, ais=0)


def check_rows(told: DataRecord, split: str, posteriors: Posteriors, file: str) -> None:
    """Raise `ArtifactError` unless these are the rows of a split, in its order, by their codes."""
    if posteriors.n != told.sizes[split] or not same_codes(told.codes[split], posteriors):
        raise ArtifactError(
            f"{file}: these are not the rows that the folder was measured on: {posteriors.n:,} {split} rows "
            f"(recorded {told.sizes[split]:,}) with other codes; give those, in the order that they had"
        )


def checked(recorded: Metric, found: Metric | None, limit: float, because: str) -> Checked:
    """A number of a card beside what was found.

    Args:
        recorded: on the card.
        found: again; None where it was not measured.
        limit: how far a likelihood gain may be from the recorded one, nats.
        because: why a number was not measured.
    """
    told = recorded.kind, recorded.name, recorded.shown
    if found is None:
        if recorded.kind.endswith("_lower") and because == ALONE:
            because = "bets are in the order of row ids, which held-out rows alone have not: give --data"
        return Checked(*told, "", "not checked", because)
    if recorded.value is None or found.value is None:
        same = recorded.shown == found.shown
        return Checked(*told, found.shown, "reproduced" if same else "differs")
    pairs = [(recorded.value, found.value), (recorded.stderr or 0.0, found.stderr or 0.0)]
    if recorded.n == found.n and all(abs(a - b) <= ROUNDING * max(1.0, abs(a), abs(b)) for a, b in pairs):
        return Checked(*told, found.shown, "reproduced")
    limits = {ATTACK: OF_ROWS * max(recorded.stderr or 0.0, found.stderr or 0.0)} | dict.fromkeys(GAINS, limit)
    if recorded.n == found.n and recorded.kind in limits:
        apart, allowed = max(abs(a - b) for a, b in pairs), limits[recorded.kind]
        by = f"measured by other draws: {apart:.2g} apart, at most {allowed:.2g} allowed"
        return Checked(*told, found.shown, "reproduced" if apart <= allowed else "differs", by)
    rows = "" if recorded.n == found.n else f"over {found.n:,} rows, recorded {recorded.n:,}"
    return Checked(*told, found.shown, "differs", rows)

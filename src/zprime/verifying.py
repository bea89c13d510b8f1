"""Verify: measure a run again with the settings and the seed that its audit records, and compare every number.

Nothing is written in the run. What was altered is found by its hash, what was altered and hashed again by its number.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from zprime import artifact, chain, exporting, loading, own_model, serialise
from zprime import data as datasets
from zprime.artifact import Artifact
from zprime.audit_stage import AuditStage
from zprime.data import DataSettings
from zprime.data.stores import is_missing
from zprime.errors import ArtifactError, UsageError
from zprime.own_model import OwnModel
from zprime.progress import Progress, shown
from zprime.remeasuring import Remeasure
from zprime.reporting import card_check
from zprime.reporting.card import PROTOCOL
from zprime.results.audit import AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.differences import ROUNDING, Checked, Compared, Difference, compare, compare_tensors
from zprime.run_folder import RunFolder
from zprime.threads import Threads

FILE = "audit.json"
CARDS = ("card.md", "README.md")
SOURCES = ("data", "model", "posteriors", "latent")
"""Artefacts that an audit is made from, by the first part of their names."""


@dataclass(frozen=True)
class Verification:
    """What came of a verification.

    Attributes:
        folder: that was verified.
        altered: name of an artefact of the run -> how it is seen that it was altered, or does not belong to the run.
        equal: numbers of the audit, and tensors, that are equal to the bit.
        rounded: those that are equal within rounding (1e-5 of the larger of the two, or of 1).
        different: all others, and what a card says otherwise than the audit.
        card: the file of the card that was compared; empty where there is none.
        versions: library -> version that measured, and version now, where they differ.
        measured: whether the audit, or the numbers of a card, were measured again.
        numbers: of the card of an exported folder, number by number.
    """

    folder: str
    altered: dict[str, str] = field(default_factory=dict)
    equal: int = 0
    rounded: int = 0
    different: list[Difference] = field(default_factory=list)
    card: str = ""
    versions: dict[str, list[str]] = field(default_factory=dict)
    measured: bool = False
    numbers: list[Checked] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was altered and nothing differs."""
        return not self.altered and not self.different and not self._of("differs")

    def _of(self, status: str) -> list[Checked]:
        return [n for n in self.numbers if n.status == status]

    @property
    def _of_card(self) -> str:
        """The outcome for the numbers of a card."""
        reproduced, differs, left = (len(self._of(s)) for s in ("reproduced", "differs", "not checked"))
        counted = f"{reproduced} numbers of the card reproduced, {differs} that differ, {left} not checked"
        if not self.passed:
            return f"Not verified: altered {len(self.altered)}, different {len(self.different)}; {counted}."
        return f"Verified{', as far as the rows that were given allow' if left else ''}: {counted}."

    @property
    def sentence(self) -> str:
        """The outcome."""
        if self.numbers:
            return " ".join([self._of_card, *([self._others] if not self.passed and self.versions else [])])
        counted = f"{self.equal:,} numbers are equal to the bit, {self.rounded:,} within rounding ({ROUNDING:g})"
        if self.passed:
            beside = f", and {self.card} says what the audit says" if self.card else ""
            if self.measured:
                return f"Verified: measured again, {counted}, none differs{beside}."
            return f"The files of {self.folder} are as they were written{beside}. Nothing was measured again."
        told = [f"Not verified: altered {len(self.altered)}, different {len(self.different)}."]
        told += [f"Measured again, {counted}." if self.measured else "Nothing was measured again."]
        return " ".join([*told, *([self._others] if self.versions else [])])

    @property
    def _others(self) -> str:
        """Which versions are others than then."""
        libraries = ", ".join(f"{k} {then}, now {now}" for k, (then, now) in self.versions.items())
        return f"It was measured with other versions, which may be why: {libraries}."


def verify(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    heldout_data: str | Path | None = None,
    own: OwnModel = OwnModel(),
    files_only: bool = False,
    workers: int = 1,
    threads: Threads = Threads(),
    progress: Progress = shown,
) -> Verification:
    """Check the hashes of a run, measure it again as its audit records, and compare all numbers, and those of its card.

    Of a folder that was exported, the numbers of its card are measured again, as far as the rows that are given allow
    it: `numbers` says of each whether it was reproduced, differs or was not checked, and why. No run is needed.

    Args:
        folder: of a run, or one that was exported; with `files_only` also one that holds an audit and its card.
        data: where the data lie, if not where the run says.
        heldout_data: where the held-out rows lie that are in a file of their own, if not where the run says. For an
            exported folder it may be given without `data`: then what takes training rows is not checked.
        own: where the code of a model of the user's own is; it runs.
        files_only: check hashes and the card, and measure nothing.
        workers: threads that measure side by side, where the data are large.
        threads: how many threads torch uses, by the work; bits are the same for the same number.
        progress: called by the long parts.

    Raises:
        UsageError: no audit there, or an audit without its run and not `files_only`; the data are not there, or, of an
            exported folder, are not given.
        ArtifactError: the data are others than those of the run.
    """
    path = Path(folder)
    if artifact.has_manifest(path) and artifact.read(path).kind == exporting.KIND:
        where = None if files_only else (str(data or ""), str(heldout_data or ""))
        return _exported(path, own, where, partial(Remeasure, workers=workers, threads=threads, progress=progress))
    place = path / "audit" if artifact.has_manifest(path / "audit") else path
    if not (place / FILE).is_file():
        raise UsageError(f"verify: expected the folder of a run that was audited, found no {FILE} in {place}")
    is_run = place != path and artifact.has_manifest(path) and artifact.read(path).kind == chain.RUN
    if not is_run and not files_only:
        raise UsageError(
            f"verify: {path} holds an audit and no run. To measure again takes the run, with model, posteriors and "
            "fits; --files-only (in Python files_only=True) checks hashes and the card alone"
        )
    found = Verification(str(path), _altered(path, place, is_run=is_run))
    if files_only or any(name.split("/")[0] in SOURCES for name in found.altered):
        return _with_card(found, path, place)

    def stage(seed: int, weights: str) -> AuditStage:
        return AuditStage(run, seed, weights, workers, threads, progress)

    run, recorded = RunFolder(path, own), _json(place / FILE)
    _take(run, data, heldout_data)
    with tempfile.TemporaryDirectory() as room:
        again = _measure(recorded, place, stage, Path(room) / "audit")
        told = compare(recorded, _json(again.path / FILE)) + _tensors(place, again)
        then = recorded.get("versions")
        then = then if isinstance(then, Mapping) else {}
        versions = {k: [str(then.get(k)), now] for k, now in again.versions.items()}
        found = replace(
            found,
            equal=told.equal,
            rounded=told.rounded,
            different=told.different,
            versions={k: v for k, v in versions.items() if v[0] != v[1]},
            measured=True,
        )
        return _with_card(found, path, place, again)


def _exported(path: Path, own: OwnModel, where: tuple[str, str] | None, how: Callable[..., Remeasure]) -> Verification:
    """Check an exported folder.

    Args:
        path: the folder.
        own: where the code of a model of the user's own is.
        where: the data, and held-out rows in a file of their own; empty where not given. None measures nothing.
        how: `Remeasure` with what is left to say.
    """
    source = artifact.read(path, exporting.KIND)
    found = Verification(str(path), _altered_export(source))
    page = path / exporting.README
    record = None if exporting.FILE in found.altered else exporting.read_record(source)
    if record is not None:
        text = page.read_text("utf-8", "replace") if page.is_file() else ""
        different = list(card_check.against(text, record.metrics, record.lines, name=page.name))
        found = replace(found, different=different, card=page.name)
    if where is None or found.altered:
        return found
    if record is None:
        raise UsageError(
            f"verify: {path} was exported without an audit, and has no numbers to measure again; --files-only (in "
            "Python files_only=True) checks its files"
        )
    if record.protocol != PROTOCOL:
        raise ArtifactError(
            f"{path / exporting.FILE}: measured by {record.protocol}, and this version of zprime measures by {PROTOCOL}"
        )
    inner = path / exporting.GENERATOR
    if exporting.GENERATOR not in source.inputs:
        raise UsageError(_without_generator(path, record))
    model = loading.load(inner, own)
    if model.recipe is not None and not own.given:
        raise UsageError(own_model.missing(artifact.read(inner)))
    numbers = how(record, model, loading.prior_of(model, where=inner)).run(*where)
    now = artifact.library_versions()
    versions = {k: [v, now.get(k, "none")] for k, v in record.versions.items() if now.get(k) != v}
    return replace(found, numbers=numbers, versions=versions, measured=True)


def _without_generator(path: Path, record: exporting.Record) -> str:
    """Why an exported folder without zprime's own artefact cannot be measured again, and what to do."""
    files = "--files-only (in Python files_only=True) checks its files and its card"
    if record.data is not None:  # of a run: what is known of a model with conditions holds those of training rows
        return (
            f"verify: {path} holds no decoder, which its numbers take: its model is told conditions, and those of "
            f"training rows are not exported. {files}; zprime verify RUN, of its run, measures them again"
        )
    return (
        f"verify: {path} holds no decoder and no encoder, and does not say how the rows are read, which its numbers "
        f"take: it was exported in Python, of rows in memory, and --model does not give these. {files}. For a folder "
        "that is measured again make a run: zprime run --model mymodel.py:build --data FILE --out RUN, then zprime "
        "export RUN"
    )


def _altered_export(source: Artifact) -> dict[str, str]:
    """Files of an exported folder that do not fit their hashes; its page may be edited, and is read by its numbers."""
    altered: dict[str, str] = {}
    for name in source.files:
        try:
            if name != exporting.README or exporting.FILE not in source.files:
                source.content(name)
        except ArtifactError as error:
            altered[name] = str(error)
    for name in source.inputs:
        try:
            chain.read(source.path / name).verify()
        except ArtifactError as error:
            altered[name] = str(error)
    return altered


def _altered(path: Path, place: Path, *, is_run: bool) -> dict[str, str]:
    """What does not fit its hash, or does not belong to the run."""
    altered: dict[str, str] = {}
    for name in sorted(chain.listed(path)) if is_run else ["audit"]:
        try:
            (chain.check(path, name) if is_run else artifact.read(place)).verify()
        except ArtifactError as error:
            if str(error) not in altered.values():  # of what was made from it, the same is told
                altered[name] = str(error)
    return altered


def _json(file: Path) -> Any:
    """Its content, whatever its hash.

    Raises:
        ArtifactError: it is no JSON of names and values.
    """
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, Mapping):
            raise TypeError("no names and values")
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file}: not readable as JSON ({error}); audit the run again") from error
    return found


def _take(folder: RunFolder, data: str | Path | None, heldout_data: str | Path | None) -> None:
    """Read the data from where they lie now.

    Raises:
        UsageError: nothing there.
        ArtifactError: they are others.
    """
    source = folder.data
    recorded = DataSettings(**source.config["settings"])
    if heldout_data is not None and not recorded.heldout_data:
        raise UsageError(
            f"heldout-data: the run {folder.path} has no file of held-out rows beside its data; leave it out"
        )
    lies = str(data or source.source or recorded.data)
    aside = str(heldout_data or source.heldout_source or recorded.heldout_data) if recorded.heldout_data else ""
    for option, place in (("data", lies), ("heldout-data", aside)):
        if is_missing(place):
            raise UsageError(
                f"{option}: {place}, where the run {folder.path} says that its data lie, is not there; say where they "
                f"are now (--{option} PATH)"
            )
    if data is None and heldout_data is None:
        return
    settings = replace(recorded, data=lies, heldout_data=aside)
    dataset = datasets.load(settings, seed=int(source.seed or 0), brought=bool(source.config.get("brought")))
    if dataset.hash != source.config["content"]:
        raise ArtifactError(
            f"{f'{lies}, {aside}' if aside else lies}: these are not the rows of the run {folder.path} (SHA-256 "
            f"{dataset.hash[:12]}, recorded {source.config['content'][:12]}); say where those lie (--data PATH"
            f"{', --heldout-data PATH' if aside else ''})"
        )
    folder.keep(dataset)


def _measure(recorded: Mapping[str, Any], place: Path, stage: Callable[[int, str], AuditStage], into: Path) -> Artifact:
    """The audit again, by what the recorded one says of settings, seed, candidates and weights."""
    try:
        settings = serialise.from_jsonable(AuditSettings, recorded["settings"])
        names = [n.removeprefix("latent/") for n in recorded["inputs"] if n.startswith("latent/")]
        how = stage(int(recorded["seed"]), str(recorded["data"]["weights"]))
        settings.check()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{place / FILE}: does not say how it was measured ({error!r}); it was altered, or written by another "
            "version: audit the run again"
        ) from error
    return how.run(settings, names, into=into)


def _tensors(place: Path, again: Artifact) -> Compared:
    """Tensors of the two audits; nothing where the recorded ones cannot be read, which their hash says."""
    try:
        recorded = artifact.read_tensors(place / artifact.TENSORS, None)
    except ArtifactError:
        return Compared()
    return compare_tensors(recorded, again.tensors())


def _with_card(found: Verification, path: Path, place: Path, again: Artifact | None = None) -> Verification:
    """With the card beside the audit, compared with the recorded audit, or with the new one where that was altered."""
    texts = {n: (path / n).read_text("utf-8", "replace") for n in CARDS if (path / n).is_file()}
    card = next((n for n, text in texts.items() if card_check.is_card(text)), None)
    if card is None:
        return found
    try:
        audit = load_audit(place)
    except ArtifactError:
        if again is None:
            return found
        audit = load_audit(again.path)
    different = card_check.differences(texts[card], audit, name=card)
    return replace(found, card=card, different=[*found.different, *different])

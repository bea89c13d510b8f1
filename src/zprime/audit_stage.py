"""The stage of a run that measures all candidates: the artefact `audit`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from zprime import artifact, auditing, chain, serialise
from zprime.artifact import Artifact
from zprime.command import command
from zprime.data import SPLITS
from zprime.distribution import LatentDistribution, is_standard
from zprime.errors import ArtifactError, UsageError
from zprime.fit_stage import weights_of
from zprime.fitting import load_fit
from zprime.latent.kind import Settings
from zprime.latent.priors import StandardNormal
from zprime.measure.likelihood.proposal import least_draws
from zprime.progress import Progress, silent
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.facts import ModelInfo
from zprime.run_folder import RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads

log = logging.getLogger("zprime")
SIZES = ("rows", "draws", "samples")
"""Settings that say how large an audit is."""


def check_ahead(kinds: Sequence[Settings], auditing: AuditSettings, form: str = "", prior: object = None) -> None:
    """Refuse what would be refused after the training, as far as it is known without data.

    `form` is that of the posteriors, where it is known. With a prior that is not N(0, I), N(0, I) is a candidate too.

    Raises:
        UsageError: settings of a kind or of the audit cannot be used, or there are too few draws for so many kinds.
    """
    for settings in kinds:
        settings.check()
    # a flow is known by draws, several a row
    known = "points" if form == "flow" else form
    others = [s.kind for s in kinds if form and (known not in s.takes or (form == "flow" and not s.parts))]
    if others:
        kept = [s.kind for s in kinds if s.kind not in others] or ["gaussian"]
        raise UsageError(
            f"kinds: {', '.join(others)} cannot be fitted to what the encoder answers, --posterior {form}; give "
            f"--kinds {' '.join(kept)}"
        )
    auditing.check()
    usual = prior is None or (isinstance(prior, LatentDistribution) and is_standard(prior))
    scored = {"prior", *(() if usual else (StandardNormal.kind,))}
    scored |= {s.name for s in kinds if s.has_density and "labels" not in s.needs}  # labels may be missing
    if auditing.draws and not auditing.quick and auditing.draws < least_draws(len(scored)):
        raise UsageError(
            f"draws: expected 0, or at least {least_draws(len(scored))} for {', '.join(sorted(scored))}, got "
            f"{auditing.draws}"
        )


@final
@dataclass(frozen=True)
class AuditStage:
    """How to measure what is in the folder of a run.

    Attributes:
        folder: of the run.
        seed: of every draw.
        weights: column of the data that rows are weighed by in every average; empty for equal weights, None for the
            column that the fits were weighed by.
        workers: threads that measure side by side, where the data are large.
        threads: how many threads torch uses, by the work.
        progress: called by the long parts.
        replace: whether a quick audit may take the place of a whole one.
    """

    folder: RunFolder
    seed: int
    weights: str | None = None
    workers: int = 1
    threads: Threads = Threads()
    progress: Progress = silent
    replace: bool = False

    def run(self, settings: AuditSettings, names: Sequence[str] | None = None, *, into: Path | None = None) -> Artifact:
        """Measure, or use what was measured already.

        Args:
            settings: how much to measure.
            names: fitted latent distributions; default all.
            into: measure whatever the run holds, and write the audit to this folder; the run stays as it is.

        Raises:
            UsageError: settings that cannot be used, or fits that were weighed by different columns; a quick audit in
                the place of a whole one, unless `replace` says so.
            ArtifactError: something is missing, or does not belong together.
            NumericalError: a proven bound is broken.
        """
        settings = settings.resolve()
        if into is None:
            self._check_quick(settings)
        folder, seed = self.folder, self.seed
        self.threads.use(heavy=folder.large)
        posteriors = {s: folder.posteriors(s) for s in SPLITS}
        names = list(names) if names is not None else folder.fitted
        sources = {n: folder.fit(n) for n in names}
        inputs = {"data": folder.data.hash, "model": folder.model.hash}
        inputs |= {f"posteriors/{s}": p.artifact.hash for s, p in posteriors.items()}
        inputs |= {f"latent/{n}": source.hash for n, source in sources.items()}
        column = weights_of(sources) if self.weights is None else self.weights
        shares = {s: folder.dataset.weights(column, s) for s in SPLITS} if column else {}

        def make(path: Path, key: str) -> Artifact:
            if into is None:
                self._say_smaller(settings)
            audit = auditing.audit(
                {n: load_fit(source.path) for n, source in sources.items()},
                {s: p.gather().weighted(shares[s][p.row_of]) if shares else p for s, p in posteriors.items()},
                model=folder.encoding(),
                rows=folder.rows,
                prior=folder.prior,
                data=replace(folder.dataset.info(), weights=column),
                settings=settings,
                seed=seed,
                # whether code of the user's own may be called from several threads is not known
                workers=self.workers if folder.large and not folder.of_model.brought else 1,
                progress=self.progress,
            )
            audit = replace(
                audit,
                model=replace(folder.model_info(), **_of_codes(audit.model)),
                warnings=[*folder.of_model.says, *audit.warnings],
                images=audit.images and folder.of_model.unit,
                inputs=inputs,
                command=command(folder, names, settings, seed=seed, weights=column),
            )
            return audit.save(path, key=key, inputs=inputs)

        # an audit of a version that measured less, or wrote it down in another way, is made again
        weighed = [column, artifact.digest([w.tolist() for w in shares.values()])] if column else []
        key = key_of(asdict(settings), seed, inputs, serialise.outline(Audit), *weighed)
        if into is not None:
            return make(into, key)
        return reuse_or_make(folder.path, "audit", key, make, kind="audit")

    def _say_smaller(self, settings: AuditSettings) -> None:
        """Say that a larger audit is replaced, if it is."""
        folder = self.folder
        if not folder.has("audit"):
            return
        try:
            was = load(folder.path / "audit").settings
        except ArtifactError:  # of another version, which nobody can read any more
            return
        less = [
            f"{getattr(settings, name):,} {name} (it has {getattr(was, name):,})"
            for name in SIZES
            if getattr(settings, name) < getattr(was, name)
        ]
        if less:
            log.warning(
                "%s: the audit in this run is replaced by a smaller one: %s. The command of then measures it again",
                folder.path,
                ", ".join(less),
            )

    def _check_quick(self, settings: AuditSettings) -> None:
        """Refuse to lose the numbers of a whole audit for those of a quick one.

        Raises:
            UsageError: the run holds a whole audit, and replacing it was not asked for.
        """
        folder = self.folder
        if not settings.quick or self.replace or not folder.has("audit") or folder.audit.config.get("quick", False):
            return
        gone = ", ".join(["audit", *chain.below(folder.path, "audit"), *chain.outputs(folder.path, ["audit"])])
        raise UsageError(
            f"quick: {folder.path} holds a whole audit, which says more than a quick one; a quick one in its "
            f"place takes {gone} out of the run. Leave --quick out, or say --replace (in Python replace=True)"
        )


def _of_codes(found: ModelInfo) -> dict[str, Any]:
    """What was found of posteriors that are points, by the fields of `ModelInfo`."""
    if found.posterior == "density":
        return {}
    return {name: getattr(found, name) for name in ("posterior", "codes", "variance", "kl")}

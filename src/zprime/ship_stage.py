"""The stage of a run that ships: the artefact `generator`, and generative models in folders of their own."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import final

from zprime import artifact, chain
from zprime.artifact import Artifact
from zprime.data import SPLITS
from zprime.exporting import Audited, DataRecord, sums_of_codes
from zprime.latent import StandardNormal
from zprime.leaks import check_leaks
from zprime.results.audit import Audit
from zprime.results.audit import load as load_audit
from zprime.results.names import PRIOR, CandidateId
from zprime.run_folder import RunFolder
from zprime.sampling import GenerativeModel
from zprime.stages import key_of, reuse_or_make

log = logging.getLogger("zprime")
PLACE = "generator"


@final
@dataclass(frozen=True)
class ShipStage:
    """How to write generative models: decoder and r(z), nothing else.

    Attributes:
        folder: of the run.
    """

    folder: RunFolder

    def ship(self, audit: Audit, *, allow_rows: bool) -> None:
        """Write what an audit ships, with the audit among what it was made from; nothing if its samples copy.

        Nothing either where that is a prior that stores functions of single training rows, unless it is allowed.

        Of a model of the user's own it names the function that builds it, and holds no code. Nothing of one that is
        told conditions, since what is known of it holds those of the training rows: `zprime export` writes r(z).

        Raises:
            UsageError: it stores single rows, and that was not allowed.
        """
        if audit.copying(audit.shipped) == "copies":
            log.warning("generator: nothing is shipped, for samples of %s copy training rows", audit.shipped)
            chain.drop(self.folder.path, [PLACE])
            return
        if audit.shipped == PRIOR and self.folder.prior.holds_rows and not allow_rows:
            log.warning(
                "generator: nothing is shipped, for the prior, %s, stores functions of single training rows; say "
                "--allow-rows to ship it (in Python: allow_rows=True)",
                self.folder.prior.label,
            )
            chain.drop(self.folder.path, [PLACE])
            return
        # of a model of the user's own no answer is needed, so its code does not run
        folder = RunFolder.open(self.folder.path) if self.folder.of_model.brought else self.folder
        model = folder.generative(audit.shipped)
        if model.recipe is not None and model.recipe.conditional:
            return
        inputs = {**self._sources(audit.shipped), "audit": self.folder.audit.hash}

        def make(path: Path, key: str) -> Artifact:
            return model.save(path, key=key, seed=self.folder.model.seed, allow_rows=allow_rows, inputs=inputs)

        reuse_or_make(self.folder.path, PLACE, key_of(audit.shipped, inputs, model.copying), make, kind="generator")

    def audited(self, name: str) -> Audited | None:
        """What the run's audit says of what is called `name`, for a card; None where it did not measure that.

        Raises:
            ArtifactError: audit, data or posteriors were altered.
        """
        folder = self.folder
        audit = load_audit(folder.path) if folder.has("audit") else None
        if audit is None or name not in {e.name for e in audit.entries}:
            return None
        told = dict(folder.data.config["settings"])
        settings = {**told, "data": "", "heldout_data": "given" if told.get("heldout_data") else ""}
        posteriors = {s: folder.posteriors(s) for s in SPLITS}
        if any(p.datum is not None for p in posteriors.values()):  # draws, which `verify` of a folder does not make
            return Audited(audit, name)
        data = DataRecord(
            settings,
            seed=int(folder.data.seed or 0),
            brought=bool(folder.data.config.get("brought")),
            weights=audit.data.weights,
            sizes={s: p.n for s, p in posteriors.items()},
            codes={s: sums_of_codes(p) for s, p in posteriors.items()},
        )
        return Audited(audit, name, data)

    def export(self, name: str, path: Path, *, allow_copies: bool, allow_rows: bool) -> GenerativeModel:
        """Write the generative model with what is called `name` to a folder.

        Raises:
            UsageError: its samples copy training rows, or it stores such rows, and that was not allowed.
        """
        model = self.folder.generative(name)
        inputs = self._sources(name)
        key = key_of(name, inputs, model.copying)
        check_leaks(model.latent, model.copying, allow_copies=allow_copies, allow_rows=allow_rows)
        if not (artifact.is_artifact(path) and artifact.read(path).key == key):
            model.save(
                path,
                key=key,
                seed=self.folder.model.seed,
                allow_copies=allow_copies,
                allow_rows=allow_rows,
                inputs=inputs,
            )
        return model

    def _sources(self, name: str) -> dict[str, str]:
        """Hashes of what a generative model consists of."""
        base = CandidateId.parse(name).name
        there = base not in (PRIOR, StandardNormal.kind) or self.folder.has(f"latent/{base}")
        fitted = {f"latent/{base}": self.folder.fit(base).hash} if there else {}
        return {"data": self.folder.data.hash, "model": self.folder.model.hash, **fitted}

"""The stage of a run that ships: the artefact `generator`, and generative models in folders of their own."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import final

from zprime import artifact, chain, sampling
from zprime.artifact import Artifact
from zprime.latent import StandardNormal
from zprime.results.audit import Audit
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

        Nothing of a model of the user's own either, whose decoder zprime cannot save: `zprime export` writes r(z).

        Raises:
            UsageError: it stores single rows, and that was not allowed.
        """
        if audit.copying(audit.shipped) == "copies":
            log.warning("generator: nothing is shipped, for samples of %s copy training rows", audit.shipped)
            chain.drop(self.folder.path, [PLACE])
            return
        if self.folder.of_model.brought:
            return
        model = self.folder.generative(audit.shipped)
        inputs = {**self._sources(audit.shipped), "audit": self.folder.audit.hash}

        def make(path: Path, key: str) -> Artifact:
            return model.save(path, key=key, seed=self.folder.model.seed, allow_rows=allow_rows, inputs=inputs)

        reuse_or_make(self.folder.path, PLACE, key_of(audit.shipped, inputs, model.copying), make, kind="generator")

    def export(self, name: str, path: Path, *, allow_copies: bool, allow_rows: bool) -> GenerativeModel:
        """Write the generative model with what is called `name` to a folder.

        Raises:
            UsageError: its samples copy training rows, or it stores such rows, and that was not allowed.
        """
        model = self.folder.generative(name)
        inputs = self._sources(name)
        key = key_of(name, inputs, model.copying)
        sampling.check_leaks(model, allow_copies=allow_copies, allow_rows=allow_rows)
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

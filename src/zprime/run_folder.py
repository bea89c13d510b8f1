"""What lies in the folder of a run, read and checked: artefacts that do not belong together are refused (`chain`).

RUN holds `data`, `model`, `posteriors/{train,selection,heldout}`, `latent/<name>`, `audit`, `drift`, `generator`,
`report.html`.
Where it was repeated with other seeds it also holds `seeds/<seed>`, which are runs, and `seeds/summary`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import final

from torch import Tensor

from zprime import artifact, atomic, chain, latent, own_model, sampling, threads
from zprime.artifact import Artifact
from zprime.data import SPLITS, Dataset, Rows
from zprime.distribution import LatentDistribution, is_standard
from zprime.encoding import Reencoded
from zprime.errors import ArtifactError, UsageError
from zprime.latent.defensive import defended
from zprime.latent.kind import Context
from zprime.own_model import OwnModel, Untold
from zprime.posteriors import ShardedPosteriors
from zprime.results.facts import ModelInfo
from zprime.results.names import PRIOR, CandidateId
from zprime.run_data import RunData
from zprime.run_model import RunModel
from zprime.run_posteriors import check_same, steps_of
from zprime.sampling import GenerativeModel
from zprime.schema import guarded, need
from zprime.schema.kinds import check_settings
from zprime.semi_amortised import semi_amortised
from zprime.vae import Decoder, Model

PLACES = ("", "data", "posteriors", "latent", "seeds", "samples")
"""Folders of a run in which something is written beside its place."""
CHECKPOINT = "checkpoint"
FOLDERS = (
    "data",
    "model",
    CHECKPOINT,
    *(f"posteriors/{s}" for s in SPLITS),
    "latent",
    "audit",
    "generator",
    "drift",
    "seeds/summary",
)
"""Folders that a run has, or will have."""


@final
class RunFolder:
    """The folder of a run. Nothing here makes an artefact: `Run` does.

    Attributes:
        path: the folder.
        own: where the code of a model of the user's own is, if that is needed.
    """

    def __init__(self, path: str | Path, own: OwnModel = OwnModel()) -> None:
        """Take a folder as it is; `open` checks that it is a run's."""
        self.path, self.own = Path(path), own
        self._own: tuple[str, Model] | None = None
        self._dataset: Dataset | None = None
        self._rows: Mapping[str, Rows] = {}

    @classmethod
    def open(cls, path: str | Path, own: OwnModel = OwnModel()) -> "RunFolder":
        """Open a run's folder, and clear away what a killed process left half written.

        Raises:
            ArtifactError: it is no run's folder.
        """
        folder = cls(path, own)
        artifact.read(folder.path, chain.RUN)
        for place in (*PLACES, *(f"{chain.STAGED}/{place}" for place in PLACES)):
            if not _by_link(folder.path, place):
                artifact.sweep(folder.path / place)
        return folder

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # -- artefacts -------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether there is an artefact called `name`, e.g. `latent/mixture`."""
        return chain.has(self.path, name)

    def need(self, name: str, kind: str | None, verb: str) -> Artifact:
        """The artefact called `name`.

        Args:
            name: path in the folder.
            kind: what it has to be; None for any kind.
            verb: the command that makes it, for the error.

        Raises:
            ArtifactError: it is not there, or of another kind.
        """
        if not artifact.has_manifest(self.path / name):
            command, *options = verb.split(" ", 1)
            words = " ".join([command, str(self.path), *options])
            raise ArtifactError(f"{self.path / name}: not there yet; run `zprime {words}` first, or `zprime run`")
        found = chain.check(self.path, name, kind)
        check_settings(found.path, found.kind, found.config)
        return found

    @property
    def data(self) -> Artifact:
        """Settings, splits and scaling of the data.

        Raises:
            ArtifactError: no data have been read yet.
        """
        return self.need("data", "data", "train")

    @property
    def model(self) -> Artifact:
        """The trained VAE, or what is told of a model of the user's own.

        Raises:
            ArtifactError: it is not there, or was trained on other data than this folder has now.
        """
        found = self.need("model", None, "train")
        return found if found.kind == own_model.KIND else self.need("model", "model", "train")

    @property
    def of_model(self) -> RunModel:
        """What the artefact of the model says.

        Raises:
            ArtifactError: there is no model.
        """
        return RunModel(self.model, self.own)

    @property
    def vae(self) -> Model:
        """Encoder and decoder of this run.

        Raises:
            ArtifactError: there is no model, or it was altered.
            UsageError: it is made by code of the user's own that is not named, is another than then, or fails.
        """
        found = self.of_model
        if not found.brought:
            return found.load()
        if self._own is None or self._own[0] != found.source.sha256:
            self._own = found.source.sha256, found.load()
        return self._own[1]

    def encoding(self, steps: int | None = None) -> Model:
        """The same, its encoder with gradient steps on the q of each row; None: as the posteriors were made.

        Raises:
            UsageError: a number of steps that cannot be used, or posteriors that are no diagonal Gaussians.
        """
        steps = steps_of(self.path) if steps is None else steps
        return semi_amortised(self.vae, steps, self.prior) if steps else self.vae

    @property
    def prior(self) -> LatentDistribution:
        """What the VAE was trained with.

        Raises:
            ArtifactError: there is no model, or it was altered.
        """
        return self.of_model.prior

    def posteriors(self, split: str) -> ShardedPosteriors:
        """Posteriors of one split.

        Raises:
            ArtifactError: they are not there, or made with another model than this folder has now, or in another way
                than other splits.
        """
        check_same(self.path)
        return ShardedPosteriors(self.need(f"posteriors/{split}", "posteriors", "encode").path)

    def fit(self, name: str) -> Artifact:
        """The fitted latent distribution called `name`.

        Raises:
            ArtifactError: it is not there, or was fitted to other posteriors than this folder has now.
        """
        return self.need(f"latent/{name}", None, f"fit --kinds {name}")

    @property
    def audit(self) -> Artifact:
        """What was measured.

        Raises:
            ArtifactError: it is not there, or another model or other fits were measured than this folder has now.
        """
        return self.need("audit", "audit", "audit")

    @property
    def fitted(self) -> list[str]:
        """Names of the latent distributions in this run, in the order of the kinds."""
        names = [p.name for p in atomic.inside(self.path / "latent") if not p.name.startswith(".")]
        order = list(latent.SETTINGS)
        there = [n for n in names if self.has(f"latent/{n}")]
        return sorted(there, key=lambda n: (order.index(n) if n in order else len(order), n))

    @property
    def large(self) -> bool:
        """Whether several cores are faster than one here; on the digits they are slower, 126 s against 20 s."""
        train = self.posteriors("train")
        return threads.large(train.n * train.d)

    # -- data ------------------------------------------------------------------------------------------------------

    def keep(self, dataset: Dataset) -> None:
        """Keep a data set that was just read, so that it is not read again."""
        self._dataset, self._rows = dataset, {}

    def keep_vae(self, model: Model) -> None:
        """Keep the user's own model that was just built, so that its code does not run again."""
        self._own = self.model.sha256, model

    @property
    def dataset(self) -> Dataset:
        """The data set of this run, read again from its source and checked against the recorded hash.

        Raises:
            ArtifactError: the source holds other rows now.
        """
        if self._dataset is None:
            self.keep(RunData(self.path, self.data).load())
            assert self._dataset is not None
        return self._dataset

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The three splits."""
        if not self._rows:
            dataset = self.dataset
            self._rows = {s: dataset.rows(s) for s in SPLITS}
        return self._rows

    def scaling(self) -> Mapping[str, Tensor]:
        """Row ids of the splits, and `shift` and `scale` between the units of the data and those of the model.

        Raises:
            ArtifactError: they are missing, or fit no data.
        """
        return RunData(self.path, self.data).tensors()

    def context(self) -> Context:
        """Model and rows, for kinds whose fit needs them."""
        return Context(self.vae, self.rows["train"], self.rows["selection"])

    # -- results ---------------------------------------------------------------------------------------------------

    def model_info(self) -> ModelInfo:
        """The model, and how its training went."""
        return self.of_model.info()

    def choice(self) -> str:
        """Name of the candidate that the verdict chose, e.g. `aggregated+p10`.

        Raises:
            ArtifactError: the run was not audited.
        """
        return str(self.audit.config["choice"])

    def copying(self, name: str) -> str:
        """What the audit says of the samples of a latent distribution as it is now: `copies`, `passes`, `untested`."""
        base = CandidateId.parse(name).name
        if not self.has("audit"):
            return "untested"
        if base not in (PRIOR, *_unfitted(self.prior)) and f"latent/{base}" not in self.audit.inputs:
            return "untested"
        audit = self.audit
        statuses: dict[str, str] = audit.config.get("copying", {})
        others = {status for other, status in statuses.items() if CandidateId.parse(other).name == base}
        # what was not audited with this very share copies if it does with another one
        return statuses.get(name, "copies" if "copies" in others else "untested")

    def distribution(self, name: str, *, store: str = "latents") -> LatentDistribution:
        """The latent distribution called `name`, without a decoder.

        Args:
            name: `prior`; what was fitted, e.g. `aggregated`; or that with a share of the prior, in percent, e.g.
                `aggregated+p10`.
            store: `latents`, or `data` for the aggregated posterior with every datum encoded when it is drawn.

        Raises:
            UsageError: no such latent distribution in this run, or nothing of it to take from the data.
        """
        if store not in ("latents", "data"):
            raise UsageError(f"store: expected latents or data, got {store!r}")
        wanted, prior, latents = CandidateId.parse(name), self.prior, self.of_model.latents
        if name == PRIOR:
            r: LatentDistribution = prior
        elif wanted.name in _unfitted(prior):
            r = latent.StandardNormal(latents)
        elif wanted.name in self.fitted:
            r = latent.load(self.fit(wanted.name).path)
        else:
            known = ", ".join([PRIOR, *self.fitted])
            raise UsageError(
                f"from: expected one of {known}, or one of the fitted ones with a share of the prior, such as "
                f"aggregated+p10 (10 %), got {name!r}"
            )
        sampling.check_fits(r, latents, where=self.path / "latent" / wanted.name)
        if store == "data":
            _check_on_demand(name, r)
            r = latent.OnDemand(Reencoded(self.encoding(), self.rows["train"], stored=self.dataset.bytes))
        return defended(r, wanted.epsilon, prior) if wanted.percent else r

    def generative(self, name: str, *, store: str = "latents") -> GenerativeModel:
        """The generative model with a latent distribution: see `distribution`."""
        r, of_model, scaling = self.distribution(name, store=store), self.of_model, self.scaling()
        shape = tuple(self.data.config["shape"])
        with guarded(self.data.path):
            need("shape", shape == of_model.shape, f"{of_model.shape}, as the model has", shape)
        image = shape if of_model.layout is None and len(shape) == 3 and shape[0] in (1, 3) and of_model.unit else None
        parts = r, self._decoder(), scaling["shift"], scaling["scale"], image, self.copying(name)
        return GenerativeModel(*parts, recipe=of_model.recipe, notes=of_model.notes)

    def _decoder(self) -> Decoder:
        """The decoder; one that says what is missing when it is used, where no code of the user's model is named."""
        found = self.of_model
        return Untold(found.source) if found.brought and not self.own.given else self.vae


def _unfitted(prior: LatentDistribution) -> tuple[str, ...]:
    """What every audit measures beside the prior, though nobody fitted it: N(0, I), where the prior is another."""
    return () if is_standard(prior) else (latent.StandardNormal.kind,)


def _check_on_demand(name: str, r: LatentDistribution) -> None:
    """Raise `UsageError` unless drawing a datum and then its posterior is drawing from `r`."""
    kept = r.base if isinstance(r, latent.Active) else r
    if not isinstance(kept, latent.Aggregated):
        raise UsageError(f"store: only aggregated can be drawn from the data, got from {name!r}, which is {r.label}")
    if kept.weights is not None:
        raise UsageError(
            f"store: each datum is drawn as often as any other from the data, but {name!r} was fitted to weighted "
            "rows; leave --store out"
        )


def _by_link(run: Path, place: str) -> bool:
    """Whether a symbolic link in the run leads to `place`, so that what lies there is not the run's alone."""
    return any((run / part).is_symlink() for part in (Path(place), *Path(place).parents) if part != Path())

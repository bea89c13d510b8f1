"""The main job: train, encode, fit, audit, ship, report, in one folder; what is already done is used again, by hash.

    RUN/data  model  posteriors/{train,selection,heldout}  latent/<kind>  audit  generator  report.html

Every stage has a key: the hash of its settings, seed and inputs. An artefact with the same key is not made again.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zprime import artifact, auditing, latent, likelihoods, sampling, serialise, vae
from zprime import data as datasets
from zprime.data import SPLITS, Dataset, DataSettings, Rows
from zprime.distribution import Fit, LatentDistribution, Settings, fields
from zprime.encoding import Reencoded, encode
from zprime.engine import in_processes
from zprime.errors import ArtifactError, UsageError
from zprime.fitting import fit, load_fit, save_fit
from zprime.latent.context import Context
from zprime.posteriors import Posteriors, ShardedPosteriors
from zprime.progress import Progress, silent
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.sampling import GenerativeModel
from zprime.training import Trained, TrainSettings, train
from zprime.vae import VAE, VAESettings

log = logging.getLogger("zprime")
KINDS = ("gaussian", "mixture", "aggregated")
Wanted = Sequence[str | Settings]


@dataclass
class Run:
    """One folder, and the stages that fill it.

    Attributes:
        path: the folder.
        progress: called by every long stage.
    """

    path: Path
    progress: Progress = silent
    _made: list[Path] | None = None  # by a first run: folders that were not there before, innermost first

    @classmethod
    def create(cls, path: Path, *, progress: Progress = silent) -> "Run":
        """Open a run's folder, or make one; if its first training fails, what was made is removed again.

        Raises:
            UsageError: the folder cannot be written, or holds files that are not a run.
        """
        path = Path(path)
        artifact.check_replaceable(path)
        if artifact.is_artifact(path):
            return cls.open(path, progress=progress)
        run = cls(path, progress)
        with run._begun():
            return run

    @classmethod
    def open(cls, path: Path, *, progress: Progress = silent) -> "Run":
        """Open a run's folder, and clear away what a killed process left half written.

        Raises:
            ArtifactError: it is none.
        """
        path = Path(path)
        artifact.read(path, "run")
        for folder in (path, path / "posteriors", path / "latent"):
            artifact.sweep(folder)
        return cls(path, progress)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        """Make the folder if it is no run's yet; undo that if the block fails with nothing yet to go on from."""
        if not artifact.is_artifact(self.path):
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            if not artifact.is_artifact(self.path):
                artifact.make_folder(self.path)
                artifact.seal(self.path, artifact.Manifest("run"), files={})
            yield
        except BaseException:
            if self._made is not None and not any((self.path / n).exists() for n in ("checkpoint", "model")):
                shutil.rmtree(self.path / "data", ignore_errors=True)
                with contextlib.suppress(OSError):  # what is not empty is not ours alone, and stays
                    (self.path / artifact.MANIFEST).unlink(missing_ok=True)
                    for folder in self._made:
                        folder.rmdir()
            raise

    # -- stages, in order ------------------------------------------------------------------------------------------

    def train(
        self,
        data: DataSettings,
        network: VAESettings = VAESettings(),
        training: TrainSettings = TrainSettings(),
        *,
        seed: int,
        before: Callable[[bool], None] = lambda heavy: None,
    ) -> VAE:
        """Read and split the data, train a VAE, write `data` and `model`.

        Args:
            data: what to read and how to split it.
            network: the architecture.
            training: how to train.
            seed: decides splits, weights, row order and noise.
            before: called once the architecture is known, with whether it is a convolutional one: the place to set
                the number of threads.
        """
        with self._begun():
            return self._train(data, network, training, seed, before)

    def _train(
        self,
        data: DataSettings,
        network: VAESettings,
        training: TrainSettings,
        seed: int,
        before: Callable[[bool], None],
    ) -> VAE:
        training.check()  # what can be refused now is not refused after the data were read
        likelihoods.build(network.likelihood, scale=network.scale or None)
        dataset = datasets.load(data, seed=seed)
        self.__dict__["dataset"] = dataset
        described = dataset.describe()
        config = {**described, "settings": {**described["settings"], "data": _absolute(data.data)}}
        made = self._stage(
            "data",
            "data",
            _key(described, seed),
            lambda path, key: artifact.write(
                path, artifact.Manifest("data", config, key, seed), tensors=dataset.tensors()
            ),
        )
        network = network.resolve(dataset.shape)
        before(network.network == "conv")
        plain = {**asdict(training), "checkpoint": 0}  # how often it is saved does not change the result

        def make(path: Path, key: str) -> artifact.Artifact:
            out = self._trained(dataset, network, training, seed)
            config = {
                "vae": vae.describe(out.vae),
                "training": asdict(training),
                "epoch": out.epoch,
                "history": out.history,
                "stopped": out.stopped,
            }
            written = artifact.write(
                path, artifact.Manifest("model", config, key, seed, {"data": made.hash}), tensors=out.vae.state_dict()
            )
            shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
            return written

        self._stage("model", "model", _key(asdict(network), plain, seed, made.hash), make)
        return vae.load(self.path / "model")

    def _trained(self, dataset: Dataset, network: VAESettings, training: TrainSettings, seed: int) -> Trained:
        model = VAE.build(dataset.shape, network, seed=seed)
        return train(
            model,
            dataset.rows("train"),
            dataset.rows("selection"),
            training,
            seed=seed,
            checkpoint=self.path / "checkpoint",
            progress=self.progress,
        )

    def encode(self) -> dict[str, Posteriors]:
        """Encode all three splits; write `posteriors/<split>`."""
        source = self._need("model", "model", "train")
        model: VAE | None = None
        out: dict[str, Posteriors] = {}
        for split in SPLITS:
            key = _key(split, source.hash)

            def make(path: Path, key: str, split: str = split) -> artifact.Artifact:
                nonlocal model
                model = model or vae.load(self.path / "model")
                inputs = {"model": source.hash, "data": source.inputs.get("data", "")}
                encode(model, self.rows[split], path, key=key, seed=source.seed, inputs=inputs, progress=self.progress)
                return artifact.read(path)

            self._stage(f"posteriors/{split}", "posteriors", key, make)
            out[split] = ShardedPosteriors(self.path / "posteriors" / split)
        return out

    def fit(
        self,
        kinds: Wanted = KINDS,
        *,
        seed: int,
        names: Sequence[str] | None = None,
        weights: str = "",
        before: Callable[[bool], None] = lambda heavy: None,
        workers: int = 1,
    ) -> dict[str, Fit[LatentDistribution]]:
        """Fit each kind on the training posteriors; write `latent/<name>`.

        Args:
            kinds: kinds by name, or their settings.
            seed: decides every random choice.
            names: what to call them, instead of their kinds.
            weights: column of the data that rows are weighed by.
            before: called before each kind, with whether it works on large matrices: the place to set the number of
                threads.
            workers: processes with one thread each, for kinds that take long, where there are several to fit. A script
                that asks for more than 1 needs `if __name__ == "__main__":` round it.
        """
        stored = {s: self._posteriors(s) for s in ("train", "selection")}
        held = {s: p.artifact.hash for s, p in stored.items()}
        shares = {s: self.dataset.weights(weights, s) for s in stored} if weights else {}
        train_, selection = (p.gather().weighted(shares[s]) if shares else p for s, p in stored.items())
        column = [weights, artifact.digest([w.tolist() for w in shares.values()])] if shares else []
        out: dict[str, Fit[LatentDistribution]] = {}
        wanted = [latent.settings_for(k) if isinstance(k, str) else k for k in kinds]
        called = list(names) if names else [latent.name_of(s) for s in wanted]
        apart = self._apart(dict(zip(called, wanted, strict=True)), train_, seed, weights, workers)
        for i, (name, settings) in enumerate(zip(called, wanted, strict=True)):
            if name == "prior":
                continue  # every audit has it
            if "labels" in settings.needs and train_.labels is None and len(wanted) > 1:
                log.warning("%s: left out, the data have no labels", name)
                continue
            self.progress("fit", i, len(wanted))

            def make(path: Path, key: str, settings: Settings = settings) -> artifact.Artifact:
                before(latent.heavy(settings, train_.n * train_.d))
                context = self._context() if settings.needs else None
                found = fit(settings, train_, selection=selection, context=context, seed=seed, progress=self.progress)
                if not found.outcome.ok:
                    log.warning("%s: %s", settings.kind, found.outcome.message)
                found = replace(found, chosen={**found.chosen, "weights": weights}) if weights else found
                return save_fit(found, settings, path, key=key, seed=seed, inputs=held)

            self._stage(f"latent/{name}", None, _key(settings.kind, fields(settings), seed, held, *column), make)
            out[name] = load_fit(self.path / "latent" / name)
            if name in apart and not out[name].outcome.ok:
                log.warning("%s: %s", settings.kind, out[name].outcome.message)
        self.progress("fit", len(wanted), len(wanted))
        return out

    def _apart(
        self, wanted: Mapping[str, Settings], train: Posteriors, seed: int, weights: str, workers: int
    ) -> list[str]:
        """Fit kinds that take long in processes of their own, if there are several; they are then found done."""
        if workers < 2 or not self.large:
            return []
        possible = {n: s for n, s in wanted.items() if train.labels is not None or "labels" not in s.needs}
        slow = [n for n, s in possible.items() if latent.takes_long(s)]
        slow = [n for n in slow if not artifact.is_artifact(self.path / "latent" / n)]
        if len(slow) < 2:
            return []
        log.info("%s: side by side", ", ".join(f"latent/{n}" for n in slow))
        self.progress("fit", 0, len(slow))
        tasks = [(self.path, wanted[n], n, seed, weights) for n in slow]
        in_processes(_fit_apart, tasks, workers=workers, done=lambda i: self.progress("fit", i, len(slow)))
        return slow

    def audit(
        self,
        settings: AuditSettings = AuditSettings(),
        *,
        seed: int,
        names: Sequence[str] | None = None,
        workers: int = 1,
    ) -> Audit:
        """Measure the fitted kinds (all, or those named); write `audit`, and `generator` of the winner."""
        source = self._need("model", "model", "train")
        posteriors = {s: self._posteriors(s) for s in SPLITS}
        names = list(names) if names is not None else self.fitted
        fits = {n: load_fit(self._fitted(n, posteriors).path) for n in names}
        inputs = {"model": source.hash, **{f"posteriors/{s}": p.artifact.hash for s, p in posteriors.items()}}
        inputs |= {f"latent/{n}": artifact.read(self.path / "latent" / n).hash for n in names}

        def make(path: Path, key: str) -> artifact.Artifact:
            model = vae.load(self.path / "model")
            out = auditing.audit(
                fits,
                posteriors,
                model=model,
                rows=self.rows,
                data={**self.dataset.describe(), "log_scale": self.dataset.log_scale},
                settings=settings,
                seed=seed,
                workers=workers,
                progress=self.progress,
            )
            out.model.update(self.summary())
            out.inputs.update(inputs)
            return out.save(path, key=key, **{k.replace("/", "_"): v for k, v in inputs.items()})

        # an audit of a version that measured less, or wrote it down in another way, is made again
        self._stage("audit", "audit", _key(asdict(settings), seed, inputs, serialise.outline(Audit)), make)
        result = load_audit(self.path / "audit")
        if result.copying(result.shipped) == "copies":
            log.warning("generator: nothing is shipped, for samples of %s copy training rows", result.shipped)
            shutil.rmtree(self.path / "generator", ignore_errors=True)
        else:
            self.export(result.shipped, self.path / "generator")
        return result

    def export(self, name: str, path: Path, *, allow_copies: bool = False) -> GenerativeModel:
        """Write the generative model with the latent distribution called `name`: decoder and r(z), nothing else.

        Raises:
            UsageError: its samples copy training rows, and that was not allowed.
        """
        model = self.generative(name)
        sampling.check_copies(model, allow_copies=allow_copies)
        source = artifact.read(self.path / "model", "model")
        inputs = {"model": source.hash}
        if name != "prior":
            inputs["latent"] = artifact.read(self.path / "latent" / name).hash
        key = _key(name, inputs, model.copying)
        if not (artifact.is_artifact(path) and artifact.read(path).key == key):
            model.save(path, key=key, seed=source.seed, allow_copies=allow_copies, **inputs)
        return model

    def generative(self, name: str, *, store: str = "latents") -> GenerativeModel:
        """The generative model with the latent distribution called `name`.

        Args:
            name: `prior`, or what was fitted.
            store: `latents`, or `data` for the aggregated posterior with every datum encoded when it is drawn.

        Raises:
            UsageError: no such latent distribution in this run, or nothing of it to take from the data.
        """
        if store not in ("latents", "data"):
            raise UsageError(f"store: expected latents or data, got {store!r}")
        if store == "data" and name != "aggregated":
            raise UsageError(f"store: only aggregated can be drawn from the data, got from {name!r}")
        self._need("model", "model", "train")
        model = vae.load(self.path / "model")
        if name == "prior":
            r: LatentDistribution = latent.Prior(model.latents)
        elif store == "data":
            r = latent.OnDemand(Reencoded(model, self.rows["train"], stored=self.dataset.bytes))
        elif name in self.fitted:
            r = latent.load(self.path / "latent" / name)
        else:
            raise UsageError(f"from: expected one of {', '.join(['prior', *self.fitted])}, got {name!r}")
        found = self._need("data", "data", "train")
        tensors = found.tensors()
        shape = tuple(found.config["shape"])
        image = shape if len(shape) == 3 and shape[0] in (1, 3) else None
        return GenerativeModel(r, model, tensors["shift"], tensors["scale"], image, self._copying(name))

    def _copying(self, name: str) -> str:
        """What the audit found of the samples of a latent distribution as it is now: `copies`, `passes`, `untested`."""
        if not artifact.is_artifact(self.path / "audit"):
            return "untested"
        found = artifact.read(self.path / "audit", "audit")
        measured = [found.inputs.get("model"), found.inputs.get(f"latent_{name}")]
        now = [artifact.read(self.path / "model").hash, None]
        if name != "prior":
            now[1] = artifact.read(self.path / "latent" / name).hash
        return str(found.config.get("copying", {}).get(name, "untested")) if measured == now else "untested"

    # -- what the stages read --------------------------------------------------------------------------------------

    @cached_property
    def dataset(self) -> Dataset:
        """The data set of this run, read again from its source and checked against the recorded hash."""
        found = self._need("data", "data", "train")
        settings = DataSettings(**found.config["settings"])
        out = datasets.load(settings, seed=int(found.seed or 0))
        if out.hash != found.config["content"]:
            raise ArtifactError(
                f"{settings.data}: these are not the rows that the run {self.path} was trained on (SHA-256 "
                f"{out.hash[:12]}, recorded {found.config['content'][:12]}); put the old file back, or start a new run"
            )
        return out

    @cached_property
    def rows(self) -> Mapping[str, Rows]:
        """The three splits."""
        return {s: self.dataset.rows(s) for s in SPLITS}

    def summary(self) -> dict[str, Any]:
        """How training went, JSON-able."""
        trained = self._need("model", "model", "train").config
        return {
            "settings": trained["vae"]["settings"],
            "epoch": trained["epoch"],
            "epochs": len(trained["history"]),
            "stopped": trained["stopped"],
            "beta": trained["training"]["beta"],
            "training": trained["training"],
            "elbo": trained["history"][trained["epoch"] - 1]["selection"],
        }

    def choice(self) -> str:
        """Name of the latent distribution that the verdict chose."""
        return str(self._need("audit", "audit", "audit").config["choice"])

    @property
    def large(self) -> bool:
        """Whether several cores pay: on little data they are slower than one (20 s against 126 on the digits)."""
        train_ = self._posteriors("train")
        return train_.n * train_.d >= latent.HEAVY

    @property
    def fitted(self) -> list[str]:
        """Names of the latent distributions in this run, in the order of the kinds."""
        folder = self.path / "latent"
        found = (
            [p.name for p in folder.iterdir() if not p.name.startswith(".") and artifact.is_artifact(p)]
            if folder.is_dir()
            else []
        )
        order = list(latent.SETTINGS)
        return sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))

    def _context(self) -> Context:
        return Context(vae.load(self.path / "model"), self.rows["train"], self.rows["selection"])

    def _posteriors(self, split: str) -> ShardedPosteriors:
        source = self._need("model", "model", "train")
        found = self._need(f"posteriors/{split}", "posteriors", "encode")
        if found.inputs.get("model") != source.hash:
            raise ArtifactError(
                f"{found.path}: made with another model than {source.path}; run `zprime encode {self.path}`"
            )
        return ShardedPosteriors(found.path)

    def _fitted(self, name: str, posteriors: Mapping[str, ShardedPosteriors]) -> artifact.Artifact:
        found = self._need(f"latent/{name}", None, f"fit --kinds {name}")
        if found.inputs.get("train") != posteriors["train"].artifact.hash:
            raise ArtifactError(
                f"{found.path}: fitted to other posteriors than this run has; run `zprime fit {self.path}` again"
            )
        return found

    def _need(self, name: str, kind: str | None, verb: str) -> artifact.Artifact:
        if not artifact.is_artifact(self.path / name):
            raise ArtifactError(
                f"{self.path / name}: not there yet; run `zprime {verb} {self.path}` first, or `zprime run`"
            )
        return artifact.read(self.path / name, kind)

    def _stage(
        self, name: str, kind: str | None, key: str, make: Callable[[Path, str], artifact.Artifact]
    ) -> artifact.Artifact:
        """Use the artefact at `name` if it has this key and is whole; else make it."""
        path = self.path / name
        if artifact.is_artifact(path):
            found = artifact.read(path)
            if found.key == key and (kind is None or found.kind == kind):
                for file in found.files:
                    artifact.verify(path / file, artifact.read_bytes(path / file), found.files[file])
                log.info("%s: already done", name)
                return found
        log.info("%s", name)
        return make(path, key)


def _fit_apart(path: Path, settings: Settings, name: str, seed: int, weights: str) -> None:
    """One kind, in a process that has nothing else to do."""
    Run.open(path).fit([settings], seed=seed, names=[name], weights=weights)


def _key(*parts: object) -> str:
    """Hash of everything that a stage follows from, the version of the library among it."""
    return artifact.digest([artifact.SCHEMA, artifact.library_versions().get("zprime"), *parts])


def _absolute(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() and data != "digits" else data

"""The stage of a run that fits latent distributions: one artefact `latent/<name>` each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from zprime import artifact, chain, distributed, latent
from zprime.artifact import Artifact
from zprime.data.conditions import LABELS
from zprime.distribution import LatentDistribution
from zprime.engine import in_processes
from zprime.errors import UsageError
from zprime.fitting import fit, load_fit, save_fit
from zprime.latent.kind import Fit, Settings, fields
from zprime.own_model import OwnModel
from zprime.progress import Progress, silent
from zprime.results.names import check_name
from zprime.run_folder import RunFolder
from zprime.stages import key_of, reuse_or_make
from zprime.threads import Threads

log = logging.getLogger("zprime")
Wanted = Sequence[str | Settings]
KINDS = ("gaussian", "mixture", "aggregated")
"""What a run fits where nothing else is said."""


def settings_of(kinds: Wanted, by: str = "") -> list[Settings]:
    """Settings of each kind.

    Args:
        kinds: names, which stand for the default settings, or settings.
        by: `label` puts each kind into a `conditional` one, which fits it once for each label.

    Raises:
        UsageError: an unknown kind, or something else than `label`.
    """
    if by and by not in LABELS:
        raise UsageError(f"by: expected label, got {by!r}")
    settings = [latent.settings_for(k) if isinstance(k, str) else k for k in kinds]
    if not by:
        return settings
    return [s if isinstance(s, latent.ConditionalSettings) else latent.ConditionalSettings(s) for s in settings]


def weights_of(fits: Mapping[str, Artifact]) -> str:
    """The column that fits were weighed by; empty for equal weights.

    Raises:
        UsageError: they were weighed by different columns, so that it must be said which population is meant.
    """
    columns = {n: str(f.config["fit"]["chosen"].get("weights", "")) for n, f in fits.items()}
    if len(set(columns.values())) > 1:
        each = ", ".join(f"{n} by {column or 'none'}" for n, column in columns.items())
        raise UsageError(
            f"weights: expected fits that were weighed by one column, got {each}; say which the audit is to weigh rows "
            "by: --weights COLUMN, or --weights '' for equal weights"
        )
    return next(iter(columns.values()), "")


@final
@dataclass(frozen=True)
class FitStage:
    """How to fit to the training posteriors of a run.

    Attributes:
        folder: of the run.
        seed: decides every random choice.
        weights: column of the data that rows are weighed by; empty for equal weights.
        workers: processes with one thread each, for kinds that take long, where the data are large.
        threads: how many threads torch uses, by the work.
        progress: called by every fit.
        replace: put fits in the place of those of the same name that were made with other settings.
    """

    folder: RunFolder
    seed: int
    weights: str = ""
    workers: int = 1
    threads: Threads = Threads()
    progress: Progress = silent
    replace: bool = False

    def run(self, settings: Mapping[str, Settings]) -> dict[str, Fit[LatentDistribution]]:
        """Fit what is not fitted yet, and read all fits.

        Args:
            settings: name -> how to fit.

        Returns:
            Name -> fit, in the same order; what needs labels is left out where the data have none.

        Raises:
            UsageError: settings, a name or weights that cannot be used; fits with other settings would be replaced.
            ArtifactError: there are no posteriors of this run's model.
        """
        self.threads.use(heavy=False)
        folder, weights = self.folder, self.weights
        stored, prior = {s: folder.posteriors(s) for s in ("train", "selection")}, folder.prior
        inputs = {f"posteriors/{s}": p.artifact.hash for s, p in stored.items()}
        shares = {s: folder.dataset.weights(weights, s) for s in stored} if weights else {}
        train, selection = (p.gather().weighted(shares[s][p.row_of]) if shares else p for s, p in stored.items())
        column = [weights, artifact.digest([w.tolist() for w in shares.values()])] if shares else []
        wanted = self._wanted(settings, labels=train.labels is not None)
        keys = {n: key_of(s.kind, fields(s), self.seed, inputs, *column) for n, s in wanted.items()}
        self._check_replaced(keys)
        chain.check_folders(folder.path, [f"latent/{n}" for n in wanted])
        aside = self._side_by_side(wanted)
        fits: dict[str, Fit[LatentDistribution]] = {}
        for i, (name, s) in enumerate(wanted.items()):
            self.progress("fit", i, len(wanted))

            def make(path: Path, key: str, s: Settings = s) -> Artifact:
                self.threads.use(heavy=s.heavy(train.n * train.d))
                context = folder.context() if s.needs else None
                fitted = fit(
                    s,
                    train,
                    selection=selection,
                    context=context,
                    prior=prior,
                    keep_duplicates=True,  # looked for where the data were split
                    seed=self.seed,
                    progress=self.progress,
                )
                if not fitted.outcome.ok:
                    log.warning("%s: %s", s.kind, fitted.outcome.message)
                if weights:
                    fitted = replace(fitted, chosen=replace(fitted.chosen, weights=weights))
                return save_fit(fitted, s, path, key=key, seed=self.seed, inputs=inputs)

            reuse_or_make(folder.path, f"latent/{name}", keys[name], make)
            fits[name] = load_fit(folder.path / "latent" / name)
            if name in aside and not fits[name].outcome.ok:
                log.warning("%s: %s", s.kind, fits[name].outcome.message)
        self.progress("fit", len(wanted), len(wanted))
        return fits

    def _check_replaced(self, keys: Mapping[str, str]) -> None:
        """Raise `UsageError` where fits of these names were made with other settings, unless they may be replaced."""
        run = self.folder.path
        there = [n for n in keys if self.folder.has(f"latent/{n}")]
        other = [n for n in there if artifact.read(run / "latent" / n).key != keys[n]]
        if other and not self.replace:
            names = [f"latent/{n}" for n in other]
            names = list(dict.fromkeys([*names, *(b for n in names for b in chain.below(run, n))]))
            raise UsageError(
                f"{run}: {', '.join(other)} was fitted with other settings, another seed, or by another version of "
                f"zprime. Going on would replace {', '.join([*names, *chain.outputs(run, names)])}. Say --replace "
                "to do that (in Python: replace=True), or give the new fit a name of its own (--name)"
            )

    def _wanted(self, settings: Mapping[str, Settings], *, labels: bool) -> dict[str, Settings]:
        """What is to be fitted: not the prior, which every audit has, and nothing that needs labels without them."""
        wanted: dict[str, Settings] = {}
        for name, s in settings.items():
            check_name(name)  # it is the name of a folder, too
            if name in latent.SETTINGS and name not in ("prior", s.kind):
                raise UsageError(
                    f"name: {name} is another kind than the {s.kind} that is to be called so; choose another name"
                )
            if name == "prior":
                if s != latent.PriorSettings():
                    raise UsageError(
                        f"name: prior is the VAE's own, which every audit has; choose another for this {s.kind}"
                    )
            elif "labels" in s.needs and not labels and len(settings) > 1:
                log.warning("%s: left out, the data have no labels", name)
            else:
                wanted[name] = s
        return wanted

    def _side_by_side(self, wanted: Mapping[str, Settings]) -> list[str]:
        """Fit kinds that take long in processes of their own, if there are several; they are then found done."""
        if self.workers < 2 or distributed.world() > 1 or not self.folder.large:
            return []
        slow = [n for n, s in wanted.items() if not s.quick and not self.folder.has(f"latent/{n}")]
        if len(slow) < 2:
            return []
        log.info("%s: side by side", ", ".join(f"latent/{n}" for n in slow))
        self.progress("fit", 0, len(slow))
        tasks = [(self.folder.path, self.folder.own, wanted[n], n, self.seed, self.weights) for n in slow]
        in_processes(_fit_one, tasks, workers=self.workers, done=lambda i: self.progress("fit", i, len(slow)))
        return slow


def _fit_one(path: Path, own: OwnModel, settings: Settings, name: str, seed: int, weights: str) -> None:
    """Fit one kind, in a process that has nothing else to do."""
    FitStage(RunFolder.open(path, own), seed, weights, replace=True).run({name: settings})  # asked for by the parent

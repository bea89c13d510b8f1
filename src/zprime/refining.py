"""Go on training a run's model with what was fitted to it in place of the prior: a run of its own in `RUN/refined`."""

from pathlib import Path

from zprime import chain
from zprime.errors import UsageError
from zprime.progress import Progress, shown
from zprime.refine_stage import WITH, Origin, RefineStage
from zprime.results.names import CandidateId, check_name
from zprime.results.refined import REFINED
from zprime.run_folder import RunFolder
from zprime.run_posteriors import Way, steps_by_split, way_of
from zprime.running import Run
from zprime.threads import Threads


def refine(
    run: str | Path,
    kind: str = WITH,
    *,
    name: str = "",
    learn: bool = False,
    epochs: int = 0,
    lr: float = 0.0,
    patience: int | None = None,
    seed: int | None = None,
    threads: Threads = Threads(),
    progress: Progress = shown,
    replace: bool = False,
) -> Run:
    """Go on training decoder and encoder of a run with r, which was fitted there, in place of p; encode again.

    The result is a run of its own, in `RUN/refined/NAME`: the same data and splits, the model with prior r, posteriors,
    encoded with as many gradient steps, or draws, as those of the run. `fit` and `audit` work on it as on any. The run
    itself stays as it is. The state before counts as epoch 0: it is kept if no epoch has a better ELBO on the selection
    split, so that this never ends worse there.

    Args:
        run: folder of a run with a model that zprime trained.
        kind: what takes the prior's place: the name of something that was fitted in the run.
        name: of the new run; empty for that of r.
        learn: whether r is trained too: a mixture, a flow, or the aggregated posterior; else it stays as it is.
        epochs: passes over the data; 0 takes as many as a training would.
        lr: learning rate at the start; 0 takes a third of that of the training before.
        patience: epochs without a better ELBO after which it stops; None for that of the training before.
        seed: decides row order and noise; None for that of the training before.
        threads: how many threads torch uses, by the work.
        progress: called by every long stage.
        replace: put the new run in the place of one with other settings.

    Returns:
        The new run, with model and posteriors.

    Raises:
        UsageError: settings, or something else than a fitted latent distribution with a log-density; a model of the
            user's own, or one that was trained without a prior (`rae`).
        ArtifactError: something of the run is missing, or was altered.
        NumericalError: the loss is not finite.
    """
    called = name or kind
    if not name and CandidateId.parse(kind).percent:
        raise UsageError(
            f"name: expected one that does not end in +p and a number, got {kind!r}, which is what takes the prior's "
            "place; give --name (in Python: name=)"
        )
    check_name(called)
    origin = Origin(RunFolder.open(run), kind, learn)
    settings = origin.settings(epochs=epochs, lr=lr, patience=patience)
    _ = origin.distribution, origin.learned  # what can be refused is refused before anything is made
    place = f"{REFINED}/{called}"
    chain.check_folders(origin.parent.path, [place])
    job = Run.create(origin.parent.path / place, progress=progress, threads=threads, replace=replace)
    with job.alone():
        RefineStage(job.folder, origin, settings, seed, threads, progress, replace).run()
        way = Way() if steps_by_split(job.path) else way_of(origin.parent.path)
        job.encode(**way._asdict())
    return job

"""zprime refine."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from zprime import refining
from zprime.cli.console import OPTIONS, bars, give, say
from zprime.cli.folder import Folder
from zprime.threads import Threads


def refine(
    run: Folder,
    *,
    with_: Annotated[str, Parameter(name="--with")] = "mixture",
    learn_prior: Annotated[bool, Parameter(negative="")] = False,
    name: str = "",
    epochs: int = 0,
    lr: float = 0.0,
    patience: int | None = None,
    seed: int | None = None,
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Go on training decoder and encoder of a run with what was fitted in place of the prior, in RUN/refined/NAME.

    Parameters
    ----------
    run
        Folder of a run that `zprime fit` has been through; it stays as it is.
    with_
        What takes the prior's place: something that was fitted in the run, by its name.
    learn_prior
        Train that too: a mixture, a flow or the aggregated posterior. Else it stays as it is.
    name
        Of the new run, in RUN/refined; default: the name of what takes the prior's place.
    epochs
        Passes over the data; 0 takes as many as a training would.
    lr
        Learning rate at the start; 0 takes a third of that of the training before.
    patience
        Stop after this many epochs without a better ELBO on the selection split, 0 never; default: as before.
    seed
        Decides row order and noise; default: as before.
    replace
        Put the new run in the place of one of that name that was made with other settings.
    """
    with bars() as progress:
        job = refining.refine(
            run,
            with_,
            name=name,
            learn=learn_prior,
            epochs=epochs,
            lr=lr,
            patience=patience,
            seed=seed,
            threads=Threads.by_work(OPTIONS.threads),
            progress=progress,
            replace=replace,
        )
    info, model, before = job.folder.model_info(), job.folder.of_model, job.folder.model.config["refined"]["selection"]
    say(
        f"{job.path}: best epoch {info.epoch} of {info.epochs} ({info.stopped}); {model.kept_by} on the selection "
        f"split {model.on_selection:.2f} nats per row, {before:.2f} before"
    )
    say(f"It is a run: `zprime fit {job.path}`, then `zprime audit {job.path}`")
    give({"run": job.path, "before": before, **asdict(info)})

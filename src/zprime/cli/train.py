"""zprime train."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from zprime.cli.console import OPTIONS, bars, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import DATA, NETWORK, OWN, TRAINED_PRIOR, TRAINED_PRIOR_SET, TRAINING
from zprime.cli.settings import learned_with
from zprime.data import DataSettings
from zprime.own_model import OwnModel
from zprime.own_stage import check_own
from zprime.running import Run
from zprime.threads import Threads
from zprime.train_settings import TrainSettings
from zprime.vae_settings import VAESettings


def train(
    *,
    data: Annotated[DataSettings, DATA],
    out: Folder,
    network: Annotated[VAESettings, NETWORK] = VAESettings(),
    training: Annotated[TrainSettings, TRAINING] = TrainSettings(),
    prior: Annotated[str, TRAINED_PRIOR] = "",
    prior_set: Annotated[tuple[str, ...], TRAINED_PRIOR_SET] = (),
    own: Annotated[OwnModel, OWN] = OwnModel(),
    seed: int = 0,
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Read and split a data set, and train a VAE on it; or take a model of your own (--model), which is not trained.

    Parameters
    ----------
    out
        Folder of the run; new, empty, or of an earlier run.
    prior
        Learn p(z) with encoder and decoder: `vamp`, `mixture`, `flow`, `exemplars`, `aggregated` or `coreset`; else it
        is N(0, I).
    prior_set
        Settings of a prior that is learned, as FIELD=VALUE, e.g. components=100.
    seed
        Decides splits, weights, row order and noise.
    replace
        Put the new model in the place of a run in this folder that was made with other settings. The older
        run leaves when the new training begins, with its pages and samples.
    """
    threads, learned = Threads.by_work(OPTIONS.threads), learned_with(prior, prior_set)
    if own.given:
        check_own(network, training, learned)
        with bars() as progress:
            job = Run.create(out, progress=progress, threads=threads, replace=replace, own=own)
            job.bring(data, seed=seed)
        found = job.folder.of_model
        say(f"{out / 'model'}: {found.info().settings['built by']}, taken as it is; nothing was trained")
        for sentence in found.says:
            say(sentence)
        give({"model": out / "model", **asdict(found.info()), "says": found.says})
        return
    with bars() as progress:
        job = Run.create(out, progress=progress, threads=threads, replace=replace)
        job.train(data, network, training, seed=seed, prior=learned)
    info = job.folder.model_info()
    elbo = "" if info.elbo is None else f"; ELBO on the selection split {info.elbo:.2f} nats per row"
    say(f"{out / 'model'}: best epoch {info.epoch} of {info.epochs} ({info.stopped}){elbo}")
    for sentence in job.folder.of_model.says:
        say(sentence)
    give({"model": out / "model", **asdict(info)})

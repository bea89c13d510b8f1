"""zprime run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import running
from zprime.cli.console import OPTIONS, bars, give, say, say_table, verdicts
from zprime.cli.folder import Folder
from zprime.cli.groups import AUDIT, DATA, NETWORK, OWN, TRAINED_PRIOR, TRAINED_PRIOR_SET, TRAINING
from zprime.cli.settings import kinds_with, learned_with
from zprime.data import DataSettings
from zprime.fit_stage import KINDS
from zprime.own_model import OwnModel
from zprime.results.audit import AuditSettings
from zprime.run_folder import RunFolder
from zprime.serialise import to_jsonable
from zprime.threads import Threads, cores
from zprime.train_settings import TrainSettings
from zprime.vae_settings import VAESettings


def run(
    *,
    data: Annotated[DataSettings, DATA],
    out: Folder,
    network: Annotated[VAESettings, NETWORK] = VAESettings(),
    training: Annotated[TrainSettings, TRAINING] = TrainSettings(),
    prior: Annotated[str, TRAINED_PRIOR] = "",
    prior_set: Annotated[tuple[str, ...], TRAINED_PRIOR_SET] = (),
    own: Annotated[OwnModel, OWN] = OwnModel(),
    kinds: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = KINDS,
    set: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    by: str = "",
    weights: str = "",
    auditing: Annotated[AuditSettings, AUDIT] = AuditSettings(),
    seed: int = 0,
    seeds: int = 1,
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Do everything: train, encode, fit, audit, report. What is already done is used again.

    Parameters
    ----------
    out
        Folder of the run; new, empty, or of an earlier run.
    prior
        Learn p(z) with encoder and decoder: `vamp`, `mixture`, `flow`, `exemplars`, `aggregated` or `coreset`; else it
        is N(0, I).
    prior_set
        Settings of a prior that is learned, as FIELD=VALUE, e.g. components=100.
    kinds
        Latent distributions to fit, beside the prior; `all` fits every kind that has a density.
    set
        Settings of kinds, as KIND.FIELD=VALUE, e.g. mixture.components=64.
    by
        `label` fits every kind once for each label: r(z|y).
    weights
        Column of the data to weigh rows by, in fits and in every average of the audit: another population.
    seed
        Decides every random choice: splits, weights, noise, draws.
    seeds
        Trainings: more than one repeats everything with the next seeds, in the run's seeds/SEED, on the same splits,
        and says what gains and verdicts are over seeds.
    replace
        Put the new run in the place of one in this folder that was made with other settings. The older
        run leaves when the new training begins, with its pages and samples.
    """
    wanted, learned = kinds_with(kinds, set, by), learned_with(prior, prior_set)
    with bars() as progress:
        audit = running.run(
            data,
            out,
            network=network,
            training=training,
            prior=learned,
            own=own,
            kinds=wanted,
            weights=weights,
            auditing=auditing,
            seed=seed,
            seeds=seeds,
            workers=cores(OPTIONS.threads),
            threads=Threads.by_work(OPTIONS.threads),
            progress=progress,
            replace=replace,
        )
    say_table(audit)
    page = out / "report.html"
    where: Path | str = out / "generator"
    say(f"Report: {page}")
    if own.given:
        where = "nothing"
        say(f"The decoder is yours: `zprime sample {out}` with --model draws x', `zprime export {out}` writes r(z)")
    else:
        folder = RunFolder.open(out)
        shipped = folder.generative(audit.shipped)
        where = where if folder.has("generator") else "nothing"
        say(f"Shipped: {where}  ({shipped.says()})")
    summary = {} if audit.seeds is None else {"seeds": to_jsonable(audit.seeds)}
    give({"run": out, **verdicts(audit), **summary, "report": page, "generator": where})

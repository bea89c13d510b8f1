"""zprime fit."""

from typing import Annotated

from cyclopts import Parameter

from zprime.cli.console import OPTIONS, bars, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.cli.settings import kinds_with
from zprime.fit_stage import KINDS
from zprime.memory import size
from zprime.own_model import OwnModel
from zprime.results.names import CandidateId
from zprime.running import Run
from zprime.serialise import to_jsonable
from zprime.threads import Threads, cores


def fit(
    run: Folder,
    *,
    kinds: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = KINDS,
    set: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    by: str = "",
    weights: str = "",
    name: str = "",
    seed: int = 0,
    own: Annotated[OwnModel, OWN] = OwnModel(),
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fit latent distributions to a run's posteriors.

    Parameters
    ----------
    run
        Folder of a run that `zprime encode` has been through.
    kinds
        Latent distributions to fit; `all` fits every kind that has a density.
    set
        Settings of kinds, as KIND.FIELD=VALUE, e.g. mixture.components=64.
    by
        `label` fits every kind once for each label: r(z|y).
    weights
        Column of the data to weigh rows by: another population. The audit weighs rows as the fits do.
    name
        What to call it, instead of its kind; for one kind only.
    seed
        Decides every random choice.
    replace
        Put the new fits in the place of those of the same name that were made with other settings.
    """
    wanted = kinds_with(kinds, set, by)
    with bars() as progress:
        job = Run.open(run, progress=progress, threads=Threads.by_work(OPTIONS.threads), replace=replace, own=own)
        called = [name] if name else None
        fits = job.fit(wanted, seed=seed, names=called, weights=weights, workers=cores(OPTIONS.threads))
    for key, f in fits.items():
        say(f"{run / 'latent' / key}: {f.distribution.label}, {size(f.distribution.bytes)}; {f.outcome.message}")
        if f.chosen.epsilon:
            candidate = CandidateId.of(key, f.chosen.epsilon)
            say(f"  its candidate: {candidate}, with {candidate.percent:g} % of the prior")
    give(
        {
            k: {
                "label": f.distribution.label,
                "candidate": str(CandidateId.of(k, f.chosen.epsilon)) if f.chosen.epsilon else "",
                "bytes": f.distribution.bytes,
                "ok": f.outcome.ok,
                "outcome": f.outcome.message,
                "chosen": to_jsonable(f.chosen),
            }
            for k, f in fits.items()
        }
    )

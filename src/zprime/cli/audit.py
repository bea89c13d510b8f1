"""zprime audit."""

import shlex
from typing import Annotated

from cyclopts import Parameter

from zprime.cli.console import OPTIONS, OUT, bars, give, product, say, say_refined, say_table, verdicts
from zprime.cli.folder import Folder
from zprime.cli.groups import AUDIT, OWN
from zprime.own_model import OwnModel
from zprime.reporting import report
from zprime.reporting.drift import table as drift_table
from zprime.results.audit import AuditSettings
from zprime.running import Run
from zprime.serialise import to_jsonable
from zprime.tables import to_rich
from zprime.threads import Threads, cores


def audit(
    run: Folder,
    *,
    settings: Annotated[AuditSettings, AUDIT] = AuditSettings(),
    own: Annotated[OwnModel, OWN] = OwnModel(),
    new_data: str = "",
    weights: str | None = None,
    seed: int = 0,
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure every fitted latent distribution on held-out data, with verdicts.

    Parameters
    ----------
    run
        Folder of a run that `zprime fit` has been through.
    new_data
        New rows, in a file or folder as `zprime run --data` takes them. Measure only whether their codes still fit the
        latent distribution that was shipped.
    weights
        Column of the data to weigh rows by in every average; empty for equal weights. By default the column that the
        fits were weighed by.
    seed
        Decides every draw.
    replace
        Put a quick audit in the place of a whole one, which leaves the run with what was made from it.
    """
    threads = Threads.by_work(OPTIONS.threads)
    if new_data:
        with bars() as progress:
            moved = Run.open(run, progress=progress, threads=threads, own=own).drift(new_data, seed=seed)
        page = report(run)
        say(to_rich(drift_table(moved), OUT.width))
        product(moved.sentence)
        say(f"Report: {page}")
        give({"drift": to_jsonable(moved), "report": page})
        return
    with bars() as progress:
        job = Run.open(run, progress=progress, threads=threads, replace=replace, own=own)
        measured = job.audit(settings, seed=seed, weights=weights, workers=cores(OPTIONS.threads))
        page = report(run)
    say_table(measured)
    told = say_refined(run, measured)
    if measured.settings.quick:
        say(f"The whole audit: zprime audit {shlex.quote(str(run))}")
    say(f"Report: {page}")
    give({**verdicts(measured), **told, "report": page})

"""zprime audit."""

from pathlib import Path
from typing import Annotated

from zprime.cli.console import bars, give, say, say_table, set_threads, verdicts, workers
from zprime.cli.run import FLAT
from zprime.drifting import drift_of
from zprime.reporting import report
from zprime.reporting.samples import drift_table
from zprime.results.audit import AuditSettings
from zprime.running import Run
from zprime.serialise import to_jsonable


def audit(
    run: Path,
    *,
    settings: Annotated[AuditSettings, FLAT] = AuditSettings(),
    new_data: str = "",
    seed: int = 0,
) -> None:
    """Measure every fitted latent distribution on data that no part has seen, with verdicts.

    Parameters
    ----------
    run
        Folder of a run that `zprime fit` has been through.
    new_data
        Measure nothing of that, but whether codes of these rows still fit the latent distribution that was shipped: a
        file or folder as `zprime run --data` takes them.
    seed
        Decides every draw.
    """
    if new_data:
        set_threads(heavy=True)
        with bars() as progress:
            moved = drift_of(Run.open(run, progress=progress), new_data, seed=seed)
        page = report(run)
        say(drift_table(moved))
        say(moved.sentence)
        say(f"Report: {page}")
        give({"drift": to_jsonable(moved), "report": page})
        return
    with bars() as progress:
        job = Run.open(run, progress=progress)
        found = job.audit(settings, seed=seed, workers=workers(large=job.large))
        page = report(run)
    say_table(found)
    say(f"Report: {page}")
    give({**verdicts(found), "report": page})

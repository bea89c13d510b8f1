"""zprime audit."""

from pathlib import Path
from typing import Annotated

from zprime.cli.console import bars, give, say, say_table, set_threads
from zprime.cli.run import FLAT
from zprime.pipeline import Run
from zprime.record import AuditSettings
from zprime.reporting import report


def audit(run: Path, *, settings: Annotated[AuditSettings, FLAT] = AuditSettings(), seed: int = 0) -> None:
    """Measure every fitted latent distribution on data that no part has seen, with a verdict.

    Parameters
    ----------
    run
        Folder of a run that `zprime fit` has been through.
    seed
        Decides every draw.
    """
    set_threads(heavy=True)
    with bars() as progress:
        found = Run.open(run, progress=progress).audit(settings, seed=seed)
        page = report(run)
    say_table(found)
    say(f"Report: {page}")
    give({"verdict": found.to_json()["verdict"], "report": page})

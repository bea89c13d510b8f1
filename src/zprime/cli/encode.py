"""zprime encode."""

from typing import Annotated

from zprime.cli.console import OPTIONS, bars, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.memory import size
from zprime.own_model import OwnModel
from zprime.running import Run
from zprime.threads import Threads


def encode(run: Folder, *, own: Annotated[OwnModel, OWN] = OwnModel()) -> None:
    """Encode the three splits of a run into posteriors.

    Parameters
    ----------
    run
        Folder of a run that `zprime train` has been through.
    """
    with bars() as progress:
        job = Run.open(run, progress=progress, threads=Threads.by_work(OPTIONS.threads), own=own)
        posteriors = job.encode()
    for split, p in posteriors.items():
        say(f"{run / 'posteriors' / split}: {p.n} posteriors in {p.d} dimensions, {size(p.bytes)}")
    give({split: {"n": p.n, "d": p.d, "bytes": p.bytes} for split, p in posteriors.items()})

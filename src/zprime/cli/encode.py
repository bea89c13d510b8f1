"""zprime encode."""

from typing import Annotated

from cyclopts import Parameter

from zprime.cli.console import OPTIONS, bars, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.memory import size
from zprime.own_model import OwnModel
from zprime.running import Run
from zprime.threads import Threads


def encode(
    run: Folder,
    *,
    steps: int | None = None,
    draws: int | None = None,
    own: Annotated[OwnModel, OWN] = OwnModel(),
    replace: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Encode the three splits of a run into posteriors.

    Parameters
    ----------
    run
        Folder of a run that `zprime train` has been through.
    steps
        Gradient steps on the posterior of each row, from the encoder's answer on, that raise its ELBO; 0 takes the
        encoder's. Left out, as many as the posteriors there have, or 0. The audit encodes rows in the same way.
    draws
        Draws of the posterior of each row, with log q there, where these are flows (--posterior flow), at least 4; a
        training row has an eighth of these, at least 2. Left out, as many as the posteriors there have, or 64.
    replace
        Put the posteriors in the place of those with another number of steps or draws; what was made from these is
        removed.
    """
    with bars() as progress:
        job = Run.open(run, progress=progress, threads=Threads.by_work(OPTIONS.threads), replace=replace, own=own)
        posteriors = job.encode(steps=steps, draws=draws)
    for split, p in posteriors.items():
        what = "posteriors" if p.datum is None else f"draws of {p.data} posteriors"
        say(f"{run / 'posteriors' / split}: {p.n} {what} in {p.d} dimensions, {size(p.bytes)}")
    give({split: {"n": p.data, "d": p.d, "bytes": p.bytes} for split, p in posteriors.items()})

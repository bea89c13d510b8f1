"""zprime encode."""

from pathlib import Path

from zprime.cli.console import bars, give, say, set_threads
from zprime.reporting.table import size
from zprime.running import Run


def encode(run: Path) -> None:
    """Encode the three splits of a run into posteriors.

    Parameters
    ----------
    run
        Folder of a run that `zprime train` has been through.
    """
    set_threads(heavy=True)
    with bars() as progress:
        made = Run.open(run, progress=progress).encode()
    for split, p in made.items():
        say(f"{run / 'posteriors' / split}: {p.n} posteriors in {p.d} dimensions, {size(p.bytes)}")
    give({split: {"n": p.n, "d": p.d, "bytes": p.bytes} for split, p in made.items()})

"""zprime codes."""

from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import Parameter

from zprime import outputs
from zprime.cli.console import OPTIONS, give, say
from zprime.cli.folder import Folder
from zprime.code_table import codes_table, library
from zprime.data import SPLITS
from zprime.errors import UsageError
from zprime.run_folder import RunFolder
from zprime.threads import Threads


def codes(
    run: Folder,
    *,
    source: Annotated[str, Parameter(name="--from")] = "",
    distances: bool = True,
    out: Path | None = None,
) -> None:
    """Write the codes of a run's rows to a Parquet file, for tools that show points; embedding-atlas opens it.

    A line for each row: row_id, split, label, x and y (its code on the first two principal axes), log_ratio (log r(z) -
    log p(z), nats) and distance (from the row to the nearest training row; of training rows there is none). The file is
    as confidential as the data.

    Parameters
    ----------
    run
        Folder of a run.
    source
        What r is: a fit by its name, or one with a share of the prior in percent, as in aggregated+p10; default: the
        verdict's.
    distances
        Whether to measure distances, for which the data are read again.
    out
        File to write, which ends in .parquet; default: codes.parquet in the run.
    """
    library("pyarrow.parquet")  # asked for before anything is computed
    Threads.by_work(OPTIONS.threads).use(heavy=True)
    folder = RunFolder.open(run)
    file = run / "codes.parquet" if out is None else out
    if file.suffix != ".parquet":
        raise UsageError(f"out: expected a path that ends in .parquet, got {str(file)!r}")
    outputs.check_output(file, run)
    r = folder.distribution(source or folder.choice())
    posteriors = {s: folder.posteriors(s) for s in SPLITS}
    table = codes_table(posteriors, r, prior=folder.prior, rows=folder.rows if distances else None)
    table.save(file)
    command = f"embedding-atlas {quote(str(file))} --x x --y y"
    say(f"{len(table)} codes, log r - log p of {r.label}: {file}. It is as confidential as the data")
    say(f"To look at it (pip install embedding-atlas): {command}")
    give({"file": file, "latent": r.label, "n": len(table), "columns": list(table.columns), "command": command})

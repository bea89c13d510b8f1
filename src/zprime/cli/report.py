"""zprime report."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import reporting
from zprime.cli.console import OUT, give, say, say_refined, say_table
from zprime.cli.folder import Folder
from zprime.errors import UsageError
from zprime.reporting.terminal import comparison, details
from zprime.results.audit import load


def report(*run: Folder, out: Path | None = None, public: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Write the page of a run again and print all that was measured, or one page that compares several runs.

    Runs of the same data and splits are also compared row by row: log p(x) of the same held-out rows under each.

    Parameters
    ----------
    run
        Folder of a run that `zprime audit` has been through, or of an audit; several to compare them.
    out
        File to write; default: report.html (public.html with --public) in that folder, and compare.html here for
        several.
    public
        Leave out every row of the data, names of data and columns, paths and hashes, and the samples of distributions
        that store rows or are not cleared of copying them.
    """
    if not run:
        raise UsageError("run: expected the folder of a run, or several, got none")
    file = Path("compare.html") if out is None and len(run) > 1 else out
    page = reporting.report(run, file, public=public)
    audits = [load(r) for r in run]
    for folder, audit in zip(run, audits, strict=True):
        if len(run) > 1:
            say(f"{folder}:")
        else:
            say(details(audit, width=OUT.width))
        say_table(audit)
    told = say_refined(run[0], audits[0]) if len(run) == 1 else {}
    if len(run) > 1:
        say(comparison(audits, [str(r) for r in run], width=OUT.width))
    say(f"Report: {page}")
    verdicts = [a.to_json()["verdict"] for a in audits]
    give({"report": page, "verdict": verdicts[0], **told} if len(run) == 1 else {"report": page, "verdicts": verdicts})

"""zprime report."""

from pathlib import Path

from zprime import artifact, record, reporting
from zprime.cli.console import give, say, say_table


def report(run: Path, *, out: Path | None = None) -> None:
    """Write the page of a run again, and print its table.

    Parameters
    ----------
    run
        Folder of a run that `zprime audit` has been through, or of an audit.
    out
        File to write; default: report.html in that folder.
    """
    inner = run / "audit"
    found = record.load(inner if artifact.is_artifact(inner) else run)
    page = reporting.report(found, out or run / "report.html")
    say_table(found)
    say(f"Report: {page}")
    give({"report": page, "verdict": found.to_json()["verdict"]})

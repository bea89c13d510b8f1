"""One HTML page that opens offline, from audit data alone: verdicts, and every section of the registry."""

from collections.abc import Sequence
from pathlib import Path

from zprime import artifact, outputs
from zprime.errors import ArtifactError, UsageError
from zprime.reporting import before as refining
from zprime.reporting.compare import compare
from zprime.reporting.render import render
from zprime.reporting.sections import shown
from zprime.reporting.tiles import tiles
from zprime.reporting.verdicts import changes, shipped, verdicts
from zprime.reporting.words import data_name, no_posterior
from zprime.results.audit import Audit, load
from zprime.results.public import publish
from zprime.results.refined import Before, before


def report(
    audit: Audit | str | Path | Sequence[str | Path], path: str | Path | None = None, *, public: bool = False
) -> Path:
    """Write the page of an audit, or one page that compares several.

    Args:
        audit: an audit, or the folder of a run or of an audit, or several such folders.
        path: the file to write; default `report.html` in the run's folder (with `public`: `public.html`).
        public: make it of what may be public (`results.public`): no row of the data, no samples but of distributions
            that store no rows and are cleared of copying, no name of data or columns, no path, no hash.

    Returns:
        The file.

    Raises:
        ArtifactError: no audit there, or no path for an audit in memory or for several runs.
        UsageError: no folder, or the file cannot be written, or something else than a page would be lost by it.
    """
    folders = _folders(audit)
    if not isinstance(audit, Audit) and not folders:
        raise UsageError("report: expected the folder of a run, or several, got none")
    if path is None and len(folders) != 1:
        raise ArtifactError("report: expected a path for the page of several runs or of an audit in memory, got none")
    file = folders[0] / ("public.html" if public else "report.html") if path is None else Path(path)
    outputs.check_output(file, *folders)
    if isinstance(audit, Audit):
        content = html(audit, public=public)
    elif len(folders) == 1:
        content = _of_run(folders[0], public=public)
    else:
        content = compare([load(f) for f in folders], [str(f) for f in folders], public=public)
    artifact.make_folder(file.parent)
    artifact.write_file(file, content.encode())
    return file


def _folders(audit: Audit | str | Path | Sequence[str | Path]) -> list[Path]:
    """Where audits lie; none for one in memory."""
    if isinstance(audit, Audit):
        return []
    return [Path(audit)] if isinstance(audit, str | Path) else [Path(a) for a in audit]


def _of_run(folder: Path, *, public: bool) -> str:
    audit = load(folder)
    return html(audit, None if public else before(folder, audit), public=public)


def html(audit: Audit, before: Before | None = None, *, public: bool = False) -> str:
    """The page as text: a pure function of the audits; a public one, of what of the first may be public.

    Args:
        audit: what was measured.
        before: of a refined run, what it was before; a public page has no rows to pair.
        public: whether rows, names, paths and hashes are left out.
    """
    audit = publish(audit) if public else audit
    return render(
        "page.html.j2",
        a=audit,
        public=public,
        name=data_name(audit),
        verdicts=verdicts(audit),
        shipped=shipped(audit),
        changes=changes(audit),
        tiles=tiles(audit),
        missing="" if audit.surgery else no_posterior(audit),
        sections=shown(audit),
        refined="" if before is None else refining.sentence(before, audit),
        before_and_after=None if before is None else refining.table(before, audit),
    )

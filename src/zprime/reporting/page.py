"""One HTML page that opens offline, from audit data alone: verdicts, and every section of the registry."""

from collections.abc import Sequence
from pathlib import Path

from zprime import artifact, outputs
from zprime.errors import ArtifactError, UsageError
from zprime.memory import size
from zprime.reporting import aggregated
from zprime.reporting.compare import compare
from zprime.reporting.render import render
from zprime.reporting.sections import shown
from zprime.reporting.verdicts import shipped, verdicts
from zprime.reporting.words import data_name, no_posterior, prior_name
from zprime.results.audit import Audit, load
from zprime.results.public import publish
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import prose


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
        content = html(load(folders[0]), public=public)
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


def html(audit: Audit, *, public: bool = False) -> str:
    """The page as text: a pure function of the audit; a public one, of what of it may be public."""
    audit = publish(audit) if public else audit
    return render(
        "page.html.j2",
        a=audit,
        public=public,
        name=data_name(audit),
        verdicts=verdicts(audit),
        shipped=shipped(audit),
        answer=answer(audit),
        sections=shown(audit),
    )


def answer(audit: Audit) -> list[str]:
    """The first answer to the question, with this model's numbers."""
    if not audit.surgery:
        return [no_posterior(audit)]
    s = audit.surgery["train"]
    told = [
        f"On average a posterior is {prose(s.mean_kl)} nats from {prior_name(audit)}{_exact(s.mean_kl)}. Of these, "
        f"{prose(s.information)} are what tells the data apart (at most log N = {s.log_n:.2f}), and "
        f"{prose(s.hole)} are the distance of this sample's aggregated posterior from the prior; only "
        f"{prose(s.gaussian_part)} of that{_exact(s.gaussian_part, '')} can be seen in its mean and covariance.",
    ]
    exact = aggregated.entry(audit)
    if exact is not None and exact.heldout.likelihood is not None:
        gain = exact.heldout.likelihood.gain
        told.append(
            f"Keeping all {s.mean_kl.n:,} posteriors takes {size(exact.bytes)} and changes the log-likelihood of "
            f"held-out data by {gain} nats per row against the prior."
        )
    return told


def _exact(e: Estimate, of: str = " for these rows") -> str:
    """That a number without an error has none."""
    return f" (exact{of})" if e.stderr is None else ""

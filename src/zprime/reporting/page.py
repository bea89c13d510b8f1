"""One HTML page that opens offline, from audit data alone: verdict, table, samples, latent map, surgery, provenance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zprime import artifact
from zprime.errors import ArtifactError
from zprime.reporting import figures, gains, latent_map, outputs, pictures, provenance, samples
from zprime.reporting.sections import sections, verdicts
from zprime.reporting.sheets import sheets
from zprime.reporting.table import size
from zprime.reporting.words import data_name, shown
from zprime.results.audit import Audit, load
from zprime.results.names import CandidateId


def report(
    audit: Audit | str | Path | Sequence[str | Path], path: str | Path | None = None, *, public: bool = False
) -> Path:
    """Write the page of an audit, or one page that compares several.

    Args:
        audit: an audit, or the folder of a run or of an audit, or several such folders.
        path: the file to write; default `report.html` in the run's folder (with `public`: `public.html`).
        public: leave every row of the data out, and all samples of distributions that store rows.

    Returns:
        The file.

    Raises:
        ArtifactError: no audit there, or no path for an audit in memory or for several runs.
        UsageError: the file cannot be written.
    """
    if isinstance(audit, Audit):
        content = html(audit, public=public)
    else:
        folders = [Path(audit)] if isinstance(audit, str | Path) else [Path(a) for a in audit]
        if len(folders) == 1:
            path = path or folders[0] / ("public.html" if public else "report.html")
            content = html(find(folders[0]), public=public)
        else:
            from zprime.reporting.compare import compare

            content = compare([find(f) for f in folders], [str(f) for f in folders], public=public)
    if path is None:
        raise ArtifactError("report: expected a path for the page of several runs or of an audit in memory, got none")
    path = Path(path)
    artifact.make_folder(path.parent)
    artifact.write_file(path, content.encode())
    return path


def find(folder: Path) -> Audit:
    """The audit of a run, or the audit itself.

    Raises:
        ArtifactError: none there.
    """
    inner = folder / "audit"
    return load(inner if artifact.is_artifact(inner) else folder)


def render(template: str, **content: Any) -> str:
    """Fill a template; style and script are inlined as they are."""
    environment = Environment(
        loader=PackageLoader("zprime.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(size=size, **content)


def html(audit: Audit, *, public: bool = False) -> str:
    """The page as text: a pure function of the audit."""
    curve = figures.components(audit)
    dots = None if public else outputs.counts(audit)
    heads, cuts = gains.surgery(audit)
    return render(
        "page.html.j2",
        a=audit,
        public=public,
        name=data_name(audit),
        rung=gains.rung(audit),
        held=audit.entries[0].heldout.elbo.gain,
        headings=gains.headings(audit),
        rows=gains.rows(audit),
        sheets=sheets(audit, public=public),
        columns="" if public or dots or (table := outputs.columns(audit)) is None else pictures.svg(table, "columns"),
        counts="" if dots is None else pictures.svg(dots, "counts"),
        drawn="mean" if audit.samples is None else audit.samples.noise,
        shown=len(audit.tensors.get("grid.held-out data", ())),
        latent=latent_map.map_data(audit, public=public),
        curve="" if curve is None else pictures.svg(curve, "curve"),
        waterfall=pictures.svg(figures.surgery(audit), "waterfall"),
        dimensions=pictures.svg(figures.dimensions(audit), "dimensions"),
        cuts=cuts,
        cut_heads=heads,
        sections=sections(audit),
        verdicts=verdicts(audit),
        shipped=samples.shipped(audit),
        answer=answer(audit),
        facts=provenance.facts(audit),
        command=audit.command,
    )


def answer(audit: Audit) -> list[str]:
    """The first answer to the question, with this model's numbers."""
    s = audit.surgery["train"]
    out = [
        f"The KL term keeps each posterior within {shown(s.mean_kl)} nats of N(0, I) on average (exact for these "
        f"rows). Of these, {shown(s.information)} are what tells the data apart (at most log N = {s.log_n:.2f}), and "
        f"{shown(s.hole)} are the distance of this sample's aggregated posterior from the prior; only "
        f"{shown(s.gaussian_part)} of that (exact) can be seen in its mean and covariance.",
    ]
    by_id = {e.id: e for e in audit.entries}
    exact = by_id.get(CandidateId("aggregated", alone=True), by_id.get(CandidateId("aggregated")))
    if exact is not None and exact.heldout.likelihood is not None:
        gain = exact.heldout.likelihood.gain
        out.append(
            f"Keeping all {s.mean_kl.n:,} posteriors takes {size(exact.bytes)} and changes the log-likelihood of "
            f"held-out data by {gain} nats per row against the prior."
        )
    return out

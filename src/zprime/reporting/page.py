"""One HTML page that opens offline: verdict, table, samples, latent map, surgery, provenance."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zprime import artifact
from zprime.errors import ArtifactError
from zprime.measure.panel import PURE
from zprime.record import Audit, load
from zprime.reporting import pictures
from zprime.reporting.latent_side import lines
from zprime.reporting.model_side import sentences
from zprime.reporting.table import RUNGS, cell, size, title


def report(audit: Audit | Path, path: Path | None = None) -> Path:
    """Write the page of an audit.

    Args:
        audit: an audit, or the folder of a run or of an audit.
        path: the file to write; default `report.html` in the run's folder.

    Returns:
        The file.

    Raises:
        ArtifactError: no audit there.
        UsageError: the file cannot be written.
    """
    if not isinstance(audit, Audit):
        folder = Path(audit)
        inner = folder / "audit"
        path = path or folder / "report.html"
        audit = load(inner if artifact.is_artifact(inner) else folder)
    if path is None:
        raise ArtifactError("report: expected a path for the page of an audit that is in memory, got none")
    path = Path(path)
    artifact.make_folder(path.parent)
    artifact.write_file(path, html(audit).encode())
    return path


def html(audit: Audit) -> str:
    """The page as text: a pure function of the audit."""
    environment = Environment(
        loader=PackageLoader("zprime.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(**_content(audit))


def _content(audit: Audit) -> dict[str, Any]:
    curve = pictures.components_curve(audit)
    return {
        "version": artifact.library_versions().get("zprime", "?"),
        "a": audit,
        "name": audit.data.get("name", "data"),
        "verdict": audit.verdict,
        "rungs": RUNGS,
        "rows": [_row(audit, e) for e in audit.entries],
        "held": next(iter(audit.entries[0].scores["heldout"].values())).gain,
        "grids": _grids(audit),
        "map": pictures.svg(pictures.latent_map(audit)),
        "curve": None if curve is None else pictures.svg(curve),
        "size": size,
        "sentence": _answer(audit),
        "latent_side": lines(audit),
        "model_side": sentences(audit),
    }


def _row(audit: Audit, entry: Any) -> dict[str, Any]:
    scores = entry.scores["heldout"]
    last = scores.get("likelihood") or scores["code"]
    return {
        "e": entry,
        "title": title(entry).strip(),
        "chosen": entry.name == audit.verdict.choice,
        "cells": [(cell(scores.get(r)), scores.get(r)) for r in RUNGS],
        "selection": [(cell(entry.scores["selection"].get(r)), entry.scores["selection"].get(r)) for r in RUNGS],
        "last": last,
    }


def _grids(audit: Audit) -> list[dict[str, str]]:
    """Held-out data and reconstructions first, then the prior and every candidate."""
    if not audit.images:
        return []
    names = ["held-out data", "reconstructions", *(e.name for e in audit.entries if e.eligible)]
    out = []
    for name in names:
        x = audit.tensors.get(f"grid.{name}")
        if x is None:
            continue
        zoom = max(1, round(56 / max(x.shape[-2:]) / 1.6))
        content = pictures.png(pictures.grid(x, zoom=zoom))
        label = name if name in names[:2] else f"z' from {audit.entry(name).label}"
        out.append(
            {"name": label, "url": pictures.data_url(content), "chosen": "yes" if name == audit.verdict.choice else ""}
        )
    return out


def _answer(audit: Audit) -> list[str]:
    """The first answer to the question, with this model's numbers."""
    s = audit.surgery["train"]
    out = [
        f"The KL term keeps each posterior within {s.mean_kl.value:.1f} nats of N(0, I) on average. Of these, "
        f"{s.information.value:.1f} are what tells the data apart (at most log N = {s.log_n:.1f}), and "
        f"{s.hole.value:.1f} are the distance of this sample's aggregated posterior from the prior; only "
        f"{s.gaussian_part.value:.2f} of that can be seen in its mean and covariance.",
    ]
    found = {e.name: e for e in audit.entries}
    exact = found.get("aggregated" + PURE, found.get("aggregated"))
    if exact is not None and exact.scores["heldout"].get("likelihood"):
        gain = exact.scores["heldout"]["likelihood"].gain
        out.append(
            f"Keeping all {s.mean_kl.n} posteriors takes {size(exact.bytes)} and changes the log-likelihood of "
            f"held-out data by {gain} nats per row against the prior."
        )
    return out

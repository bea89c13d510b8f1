"""Where an audit comes from: hashes, seeds, versions, and the command that makes the run again."""

from typing import Any

from zprime.reporting.section import Section
from zprime.reporting.words import data_name
from zprime.results.audit import Audit
from zprime.statistics.format import setting, size


def facts(audit: Audit) -> list[tuple[str, str]]:
    """Name and value of everything that one needs to know to make it again."""
    data, model, storage = audit.data, audit.model, audit.storage
    sizes = ", ".join(f"{n:,} {split}" for split, n in data.sizes.items())
    rows = [("data", f"{data_name(audit)}{': ' + sizes + ' rows' if sizes else ''}")]
    if data.content:
        rows.append(("SHA-256 of the data", data.content))
    if model.settings:
        rows.append(("model", ", ".join(f"{k} {setting(v)}" for k, v in model.settings.items())))
    if model.epoch is not None:
        beta = 1.0 if model.beta is None else model.beta
        rows.append(("training", f"best epoch {model.epoch} of {model.epochs} ({model.stopped}), beta {beta:g}"))
    measured = audit.settings
    rows.append(("audit", f"at most {measured.rows:,} rows a split, {measured.draws} draws a row, seed {audit.seed}"))
    keep = f"{size(storage.posteriors)} as means and standard deviations"
    keep += f" ({storage.posteriors_draws:,} draws z′ per CPU second)"
    if storage.data is not None:
        keep += f", {size(storage.data)} as the data themselves"
    if storage.data_draws is not None:
        keep += f" ({storage.data_draws:,} draws z′ per CPU second, encoding each)"
    rows.append(("all |D| posteriors take", keep))
    if audit.versions:
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in audit.versions.items())))
    rows += [(f"hash of {k}", v) for k, v in audit.inputs.items()]
    return rows


def _extra(audit: Audit, *, public: bool) -> Any:
    return facts(audit)


SECTION = Section("provenance", "Where this comes from", template="provenance.html.j2", extra=_extra)

"""Where an audit comes from: hashes, seeds and versions."""

from typing import Any

from zprime.reporting.table import size
from zprime.reporting.words import data_name
from zprime.results.audit import Audit


def facts(audit: Audit) -> list[tuple[str, str]]:
    """Name and value of everything that one needs to know to make it again."""
    data, model = audit.data, audit.model
    sizes = ", ".join(f"{n:,} {split}" for split, n in data.get("sizes", {}).items())
    out = [("data", f"{data_name(audit)}{': ' + sizes + ' rows' if sizes else ''}")]
    if "content" in data:
        out.append(("SHA-256 of the data", str(data["content"])))
    settings = model.get("settings", {})
    if settings:
        out.append(("model", ", ".join(f"{k} {_plain(v)}" for k, v in settings.items())))
    if "epoch" in model:
        out.append(
            (
                "training",
                f"best epoch {model['epoch']} of {model['epochs']} ({model.get('stopped', '')}), "
                f"beta {model.get('beta', 1)}",
            )
        )
    measured = audit.settings
    out.append(("audit", f"at most {measured.rows:,} rows a split, {measured.draws} draws a row, seed {audit.seed}"))
    keep = (
        f"{size(audit.storage['posteriors'])} as means and standard deviations" if "posteriors" in audit.storage else ""
    )
    if "posteriors_rate" in audit.storage:
        keep += f" ({audit.storage['posteriors_rate']:,} draws z′ per CPU second)"
    if "data" in audit.storage:
        keep += f", {size(audit.storage['data'])} as the data themselves"
    if "data_rate" in audit.storage:
        keep += f" ({audit.storage['data_rate']:,} draws z′ per CPU second, encoding each)"
    if keep:
        out.append(("all |D| posteriors take", keep))
    if audit.versions:
        out.append(("versions", ", ".join(f"{k} {v}" for k, v in audit.versions.items())))
    out += [(f"hash of {k}", v) for k, v in audit.inputs.items()]
    return out


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

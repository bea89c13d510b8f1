"""Where an audit comes from: hashes, seeds, versions, and the command that makes the run again."""

from zprime.memory import size
from zprime.reporting.section import Section
from zprime.reporting.words import data_name
from zprime.results.audit import Audit
from zprime.results.facts import DataInfo
from zprime.statistics.format import setting


def facts(audit: Audit) -> list[tuple[str, str]]:
    """Name and value of everything that is known to make it again."""
    data, model, storage = audit.data, audit.model, audit.storage
    sizes = ", ".join(f"{n:,} {split}" for split, n in data.sizes.items())
    rows = [("data", f"{data_name(audit)}{': ' + sizes + ' rows' if sizes else ''}")]
    rows += _rows(data)
    if data.content:
        rows.append(("SHA-256 of the data", data.content))
    if model.settings:
        rows.append(("model", ", ".join(f"{k} {setting(v)}" for k, v in model.settings.items())))
    if model.epoch is not None:
        beta = 1.0 if model.beta is None else model.beta
        objective = model.training.get("objective")
        by = f", objective {objective}" if objective else ""
        rows.append(("training", f"best epoch {model.epoch} of {model.epochs} ({model.stopped}), beta {beta:g}{by}"))
    measured = audit.settings
    rows.append(("audit", f"at most {measured.rows:,} rows a split, {audit.draws} draws a row, seed {audit.seed}"))
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


def _rows(data: DataInfo) -> list[tuple[str, str]]:
    """What is known of rows that are not independent, do not count the same, or were seen by training."""
    rows = []
    if data.groups:
        rows.append(
            ("groups", ", ".join(f"{n:,} {split}" for split, n in data.groups.items()) + "; errors are by group")
        )
    if data.weights:
        rows.append(("weights of the rows", f"{data.weights}; numbers of rows are effective ones (Kish 1965)"))
    for split, d in (data.duplicates or {}).items():
        what = f"{d.count:,} of {d.rows:,} rows equal a training row, {'kept' if d.kept else 'left out'}"
        rows.append((f"duplicates, {split}", f"{what}: {d.named()}" if d.ids else what))
    if data.shared is not None:
        what = f"{data.shared.count:,} of {data.shared.rows:,} selection rows equal a held-out row"
        rows.append(("duplicates, two splits", f"{what}: {data.shared.named()}" if data.shared.ids else what))
    if data.near is not None:
        share = data.near.share
        rows.append(
            (
                "near-duplicates",
                f"{100 * share.value:.1f} % of held-out rows (95 % interval {100 * share.low:.1f} to "
                f"{100 * share.high:.1f} %, {share.n:,} rows{_seed(share.seed)}) are nearer than "
                f"{data.near.distance:.3g} to a training row, as 1 % of training rows are to one another",
            )
        )
    return rows


def _seed(seed: int | None) -> str:
    return "" if seed is None else f", seed {seed}"


SECTION = Section("provenance", "Where this comes from", template="provenance.html.j2", extra=facts)

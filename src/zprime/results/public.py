"""What of an audit may be public: everything else is taken out, so that no page can show it.

A public page is made of `publish(audit)` as any other page is of an audit. What is kept are numbers over rows and what
cleared distributions generate: no row, no code of a row, no name that says where the data lie, and no hash of them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from zprime.results.audit import Audit
from zprime.results.entries import Entry
from zprime.results.facts import DataInfo, Duplicates, Setting
from zprime.results.samples import Fidelity, Labels, Sampled, SamplesSide

COLUMN = "a column of the data"
"""What is said in place of the name of a column."""
PATH = re.compile(r"[/\\]|[0-9a-f]{16}")
"""What a text has that is a path or a hash."""
FILES = ("built by", "weights")
"""Settings of a model of the user's own that name its files."""


def cleared(audit: Audit) -> list[Entry]:
    """What may show samples and draws: it holds no rows, and its samples are cleared of copying them."""
    return [e for e in audit.entries if not e.holds_rows and audit.copying(e.name) == "passes"]


def publish(audit: Audit) -> Audit:
    """The audit without rows, and without what tells where they lie.

    Taken out are: all tensors but decoded samples and latent draws of distributions that are cleared of copying and
    store no rows, the farthest draws too (`Thresholds.edge`); names of data and columns; hashes of data, model, codes
    and fits; the command; row ids of duplicates and of copied rows; proportions by label where a label has few rows
    (`Thresholds.few`), and what a fit chose label by label; settings that are paths.
    """
    return replace(
        audit,
        data=_data(audit.data),
        model=replace(audit.model, settings=_settings(audit.model.settings), training=_settings(audit.model.training)),
        entries=[_entry(e) for e in audit.entries],
        tensors=_tensors(audit),
        samples=None if audit.samples is None else _samples(audit.samples, audit.thresholds.few),
        inputs={},
        command="",
    )


def _data(data: DataInfo) -> DataInfo:
    found = data.duplicates
    without: dict[str, Duplicates] | None = None
    if found is not None:
        without = {split: replace(d, ids=[]) for split, d in found.items()}
    shared = None if data.shared is None else replace(data.shared, ids=[])
    weights = COLUMN if data.weights else ""
    return replace(data, name="", content="", used="", duplicates=without, shared=shared, weights=weights, columns=[])


def _entry(e: Entry) -> Entry:
    lists = {k for k, v in e.chosen.settings.items() if isinstance(v, list)}  # what is told label by label
    settings = _settings({k: v for k, v in e.chosen.settings.items() if k not in lists})
    chosen = replace(e.chosen, weights=COLUMN if e.chosen.weights else "", settings=settings)
    return replace(e, settings=_settings(e.settings), chosen=chosen)


def _settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """All but paths, hashes and names of files."""
    shown = {k: v for k, v in settings.items() if k not in FILES}
    return {k: v for k, v in shown.items() if not (isinstance(v, str | list) and PATH.search(str(v)))}


def _tensors(audit: Audit) -> dict[str, Tensor]:
    """`grid.<id>` and `map.<id>` of what is cleared."""
    kept: dict[str, Tensor] = {}
    for e in cleared(audit):
        grid, draws = (audit.tensors.get(f"{what}.{e.id}") for what in ("grid", "map"))
        if grid is not None:
            kept[f"grid.{e.id}"] = grid
        if draws is not None:
            kept[f"map.{e.id}"] = _without_edge(draws, audit.thresholds.edge)
    return kept


def _without_edge(draws: Tensor, edge: float) -> Tensor:
    """Draws but for the proportion `edge` that is farthest from their median: no axis has to reach them."""
    far = torch.linalg.vector_norm(draws.double() - draws.double().median(0).values, dim=1)
    return draws[far <= far.quantile(1 - edge)]


def _samples(side: SamplesSide, few: int) -> SamplesSide:
    def sampled(s: Sampled) -> Sampled:
        return replace(s, copied=[], fidelity=_fidelity(s.fidelity, few))

    return replace(
        side,
        entries=[sampled(s) for s in side.entries],
        controls={name: sampled(s) for name, s in side.controls.items()},
    )


def _fidelity(f: Fidelity, few: int) -> Fidelity:
    return f if f.labels is None or _many(f.labels, f.coverage.n, few) else replace(f, labels=None)


def _many(labels: Labels, rows: int, few: int) -> bool:
    """Whether the classifier gives every label to `few` of so many real rows; else the others tell of those."""
    return all(round(p * rows) >= few for p in labels.expected.values())

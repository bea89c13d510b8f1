"""What an audit has from the machine that it is on: measured there, or where the data lie. It is in no hash."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from zprime import artifact
from zprime.results.entries import Entry
from zprime.results.facts import ModelInfo, Storage

TRAINING = "seconds of training"


def apart(
    entries: Sequence[Entry], storage: Storage, model: ModelInfo
) -> tuple[list[Entry], Storage, ModelInfo, dict[str, float]]:
    """Entries, storage and model without these numbers, and the numbers."""
    measured = {f"draws/{e.id}": e.draws_per_second for e in entries}
    measured |= {f"seconds/{e.id}": e.seconds for e in entries if e.seconds is not None}
    measured["draws of posteriors"] = storage.posteriors_draws
    if storage.data_draws is not None:
        measured["draws of data"] = storage.data_draws
    if model.seconds is not None:
        measured[TRAINING] = model.seconds
    without = [replace(e, draws_per_second=0.0, seconds=None) for e in entries]
    storage = replace(storage, posteriors_draws=0, data_draws=None)
    return without, storage, replace(model, seconds=None), measured


def together(
    entries: Sequence[Entry], storage: Storage, model: ModelInfo, measured: Mapping[str, float]
) -> tuple[list[Entry], Storage, ModelInfo]:
    """Entries, storage and model with these numbers."""
    whole = [
        replace(e, draws_per_second=measured.get(f"draws/{e.id}", 0.0), seconds=measured.get(f"seconds/{e.id}"))
        for e in entries
    ]
    data = measured.get("draws of data")
    draws = int(measured.get("draws of posteriors", 0))
    storage = replace(storage, posteriors_draws=draws, data_draws=None if data is None else int(data))
    return whole, storage, replace(model, seconds=measured.get(TRAINING))


def with_path(command: str, data: Path) -> str:
    """The command with the path that leads to the data on this machine; as an artefact it has their name alone."""
    if not artifact.is_artifact(data):
        return command
    found = artifact.read(data, "data")
    name = str(found.config.get("settings", {}).get("data", ""))
    return command.replace(f"--data {quote(name)} ", f"--data {quote(found.source)} ", 1) if found.source else command

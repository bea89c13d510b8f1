"""The audit of the run that a refined one went on from, so that before and after stand side by side."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from zprime import artifact
from zprime.errors import ArtifactError
from zprime.results.audit import Audit, load
from zprime.results.names import CandidateId
from zprime.results.paired import incomparable

REFINED = "refined"
"""Folder of a run for the runs that were refined from it."""


@dataclass(frozen=True)
class Before:
    """What a refined run was before.

    Attributes:
        r: the row of the audit before that is of what took the prior's place, e.g. `mixture`.
        audit: of the run before; None where `why` says why nothing is compared.
        why: empty where rows can be compared.
    """

    r: str
    audit: Audit | None
    why: str = ""


def before(path: str | Path, audit: Audit) -> Before | None:
    """The audit of the run in whose folder a refined run lies; None of any other run.

    Args:
        path: folder of the refined run, or of its audit.
        audit: of the refined run.
    """
    run = _run(path)
    model = artifact.read(run / "model").config if artifact.is_artifact(run / "model") else {}
    refined = model.get("refined")
    if refined is None:
        return None
    r = str(CandidateId.parse(str(refined["name"])))
    if model["epoch"] == 0:
        return Before(r, None, f"epoch 0 was kept, so the model is the one before, with {r} in place of its prior")
    if run.parent.name != REFINED:
        return Before(r, None, "it does not lie in the folder of the run that it was refined from")
    parent = run.parent.parent
    parent = parent if Path(path).is_absolute() else Path(os.path.relpath(parent))  # as people read it
    try:
        then = load(parent)
    except ArtifactError as err:
        return Before(r, None, f"the run before cannot be compared: {err}")
    why = _other(then, refined, r, parent) or incomparable(then, audit)
    return Before(r, None if why else then, why)


def _run(path: str | Path) -> Path:
    """The folder of the run, by whatever path it was given."""
    whole = Path(path).resolve()
    return whole if artifact.is_artifact(whole / "audit") else whole.parent


def _other(then: Audit, refined: dict[str, object], r: str, parent: Path) -> str:
    """Why the audit of the run before is not of what was refined; empty where it is."""
    fit = CandidateId.parse(r).name
    if then.inputs.get("model") != refined["model"]:
        return f"{parent} has another model by now than the one that was refined"
    if then.inputs.get(f"latent/{fit}") not in (None, refined["fit"]):
        return f"{parent} has another {fit} by now than the one that the model was refined with"
    if r not in (str(e.id) for e in then.entries):
        again = "" if CandidateId.parse(r).percent else f"; run `zprime audit {shlex.quote(str(parent))}` again"
        return f"the audit of {parent} has no {r}{again}"
    return ""

"""The audit of the run that a refined one went on from, so that before and after stand side by side."""

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
    path = Path(path).absolute()
    run = path if artifact.is_artifact(path / "audit") else path.parent
    if run.parent.name != REFINED or not artifact.is_artifact(run / "model"):
        return None
    refined = artifact.read(run / "model").config.get("refined")
    if refined is None:
        return None
    name, parent = str(refined["name"]), run.parent.parent
    try:
        then = load(parent)
    except ArtifactError as err:
        return Before(name, None, f"the run before cannot be compared: {err}")
    if then.inputs.get("model") != refined["model"]:
        return Before(name, None, f"{parent} has another model by now than the one that was refined")
    r = _row(then, name)
    if not r:
        again = shlex.quote(str(parent))
        return Before(name, None, f"the audit of {parent} has no {name}; run `zprime audit {again}` again")
    why = incomparable(then, audit)
    return Before(
        r, None if why else then, f"the rows of the run before cannot be compared with these: {why}" if why else ""
    )


def _row(audit: Audit, name: str) -> str:
    """The row of its table that is of what is called `name`, or else of the same fit; empty where there is none."""
    there = [str(e.id) for e in audit.entries]
    of_fit = [str(e.id) for e in audit.leading if e.id.name == CandidateId.parse(name).name]
    return name if name in there else (of_fit or [""])[0]

"""zprime card."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import artifact, outputs
from zprime.cli.console import give, say
from zprime.cli.folder import Folder
from zprime.reporting.card import card as text_of
from zprime.reporting.card import digest, metrics
from zprime.results.audit import load


def card(
    run: Folder,
    *,
    out: Path | None = None,
    name: str = "",
    license: Annotated[str, Parameter(name="--license")] = "other",
) -> None:
    """Write a model card of what a run ships: Markdown with the metrics of its audit, in Hugging Face's form.

    Parameters
    ----------
    run
        Folder of a run that `zprime audit` has been through, or of an audit.
    out
        File to write; default: card.md in that folder.
    name
        Of the model; by default what z' is drawn from.
    license
        An identifier of the hub, e.g. mit.
    """
    audit = load(run)
    file = run / "card.md" if out is None else out
    outputs.check_output(file, run)
    artifact.make_folder(file.parent)
    artifact.write_file(file, text_of(audit, name=name, license=license).encode())
    found = metrics(audit, audit.entry(audit.shipped))
    say(f"Card: {file}  (numbers {digest(found)})")
    give({"card": file, "numbers": digest(found), "metrics": {m.kind: m.value for m in found}})

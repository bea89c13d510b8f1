"""zprime export."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import artifact, chain
from zprime.cli.chosen import chosen
from zprime.cli.console import OPTIONS, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.errors import UsageError
from zprime.exporting import ONNX
from zprime.own_model import OwnModel
from zprime.results.names import PRIOR, CandidateId
from zprime.run_folder import RunFolder
from zprime.ship_stage import ShipStage
from zprime.threads import Threads


def export(
    run: Folder,
    *,
    source: Annotated[str, Parameter(name="--from")] = "",
    given: str = "",
    onnx: Annotated[bool, Parameter(negative="")] = False,
    allow_copies: Annotated[bool, Parameter(negative="")] = False,
    allow_rows: Annotated[bool, Parameter(negative="")] = False,
    own: Annotated[OwnModel, OWN] = OwnModel(),
    out: Path | None = None,
    name: str = "",
    license: Annotated[str, Parameter(name="--license")] = "other",
) -> None:
    """Write a folder by which anyone can draw z', with NumPy alone, and x' with zprime or any runtime of ONNX.

    Its README.md is the model card of what was audited. `zprime verify FOLDER` measures the numbers of the card again,
    without the run.

    Parameters
    ----------
    run
        Folder of a run, or of a generator.
    source
        What z' is drawn from: `prior`, a fit by its name, or a fit with a share of the prior in percent, as in
        mixture+p10; default: the verdict's. One Gaussian, or a mixture of Gaussians.
    given
        `label=3` takes r(z|y = 3): of --from, or of the run's first conditional latent distribution. With --onnx: the
        conditions that the decoder is told, by their names, where it is told any.
    onnx
        Write generator.onnx too: random numbers in, the mean of p(x|z') in the units of the data out (extra `onnx`).
    allow_copies
        Write even where the audit found that the samples copy training rows.
    allow_rows
        Write even a latent distribution that stores functions of single training rows, such as aggregated.
    out
        Folder to make; default: the run's name with -export behind it, here.
    name
        Of the model, on the card; by default what z' is drawn from.
    license
        On the card: an identifier of the hub, e.g. mit.
    """
    Threads.by_work(OPTIONS.threads).use(heavy=False)
    found = chosen(run, source, given, own=own)
    model = found.model
    if found.given is not None and not (onnx or found.labelled):
        raise UsageError(
            f"given: z' from {model.latent.label} does not depend on {given}; x' does, which --onnx writes. Leave "
            "--given out, or add --onnx"
        )
    if found.given is not None:
        model = replace(model, notes=(*model.notes, f"{ONNX} is of {given}: each x is a row of x' with it behind."))
    if not given and artifact.read(run).kind == chain.RUN:
        of_run = RunFolder.open(run, own)
        _check_name(of_run, name, source)
        model = replace(model, audited=ShipStage(of_run).audited(source or of_run.choice()))
    folder = Path(f"{run.absolute().name}-export") if out is None else out
    allowed = {"allow_copies": allow_copies, "allow_rows": allow_rows}
    made = model.export(folder, onnx=onnx, given=found.given, **allowed, name=name, license=license)
    page = "how to draw from it" if model.audited is None else "how to draw from it, and is its model card"
    say(f"z' from {model.latent.label}: {made.path}; its README.md says {page}")
    say(model.says())
    give({"folder": made.path, "files": sorted(made.files), **made.config})


def _check_name(run: RunFolder, name: str, source: str) -> None:
    """Refuse a name on the card that is that of another latent distribution than the one that z' is drawn from."""
    if source or not name:
        return
    shipped = run.choice()
    if name == shipped or CandidateId.parse(name).name not in {*run.fitted, PRIOR}:
        return
    raise UsageError(
        f"name: expected a name of your own for the card, got {name}, a latent distribution of this run, while z' is "
        f"drawn from {shipped}; for z' from {name} say --from {name}"
    )

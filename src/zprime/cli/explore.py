"""zprime explore."""

import signal
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import Parameter

from zprime import exploring, interrupts
from zprime.artifact import is_artifact, read
from zprime.cli.chosen import chosen
from zprime.cli.console import OPTIONS, give, product, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.data import Rows
from zprime.errors import ArtifactError, UsageError
from zprime.exploring import Explorer, Server, Trials
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.own_model import OwnModel
from zprime.run_folder import RunFolder
from zprime.threads import Threads

CONDITIONAL = (
    "run: this model is told conditions beside z, which the page does not ask for; draw by zprime sample RUN --given, "
    "or write x' for one condition by zprime export RUN --onnx --given"
)


def explore(
    run: Folder,
    *,
    source: Annotated[str, Parameter(name="--from")] = "",
    port: int = 0,
    static: Path | None = None,
    runtime: Path | None = None,
    allow_copies: Annotated[bool, Parameter(negative="")] = False,
    allow_rows: Annotated[bool, Parameter(negative="")] = False,
    own: Annotated[OwnModel, OWN] = OwnModel(),
    seed: int = 0,
) -> None:
    """Look at a latent space in a browser on this machine: move z' and see x', switch what it is drawn from.

    The page also shows the posterior of a datum, what data share, the way between two of them, and what other
    mixtures and bandwidths gain and copy. It shows the data, so nothing but this machine can reach it: keep the address
    to yourself. Ctrl-C ends it.

    Parameters
    ----------
    run
        Folder of a run; with --static also of a shipped generator.
    source
        What z' is drawn from at first: `prior`, a fit by its name, or a fit with a share of the prior in percent, as in
        mixture+p10; default: the verdict's.
    port
        Of the page; 0 takes a free one.
    static
        Write a folder instead, which needs no zprime: the page, the decoder as an ONNX file (extra `onnx`), and no row
        of the data.
    runtime
        With --static: the folder of onnxruntime-web whose files are copied into it.
    allow_copies
        With --static: write even where the audit found that the samples copy training rows.
    allow_rows
        With --static: write even a latent distribution that stores functions of single training rows.
    seed
        Decides which rows and draws are shown.
    """
    if static is not None:
        _write(static, runtime, run, source, own, (allow_copies, allow_rows))
        return
    if runtime is not None or allow_copies or allow_rows:
        raise UsageError("runtime, allow-copies and allow-rows: expected --static DIR too, the folder to write")
    if is_artifact(run) and read(run).kind == "generator":
        raise UsageError(
            f"run: {run} is a shipped generator, which has no posteriors to show; write a page with --static"
        )
    folder = RunFolder.open(run, own)
    if folder.of_model.layout is not None:
        raise UsageError(CONDITIONAL)
    Threads.by_work(OPTIONS.threads).use(heavy=folder.of_model.heavy)
    with Server(_explorer(folder, source, seed), port) as server:
        product(f"{server.url} shows {run}, on this machine only. It is as confidential as the data. Ctrl-C ends it")
        give({"url": server.url, "run": run})
        sys.stdout.flush()
        try:
            server.serve_forever()
        except interrupts.Stopped as stopped:
            if stopped.number != signal.SIGINT:
                raise
            say("ended")


def _write(static: Path, runtime: Path | None, run: Path, source: str, own: OwnModel, allow: tuple[bool, bool]) -> None:
    if runtime is None:
        raise UsageError(
            "runtime: expected the folder of onnxruntime-web, whose files are copied (npm pack onnxruntime-web, and "
            "its folder dist)"
        )
    found = chosen(run, source, "", own=own)
    if found.layout is not None:
        raise UsageError(CONDITIONAL)
    model = found.model
    prior = None if read(run).kind == "generator" else RunFolder.open(run).prior
    made = exploring.write(static, model, runtime, prior=prior, allow_copies=allow[0], allow_rows=allow[1])
    command = f"python -m http.server --bind 127.0.0.1 --directory {quote(str(static))} 8000"
    say(f"z' from {model.latent.label}: {made.path}. To look at it: {command}, and http://127.0.0.1:8000")
    say(model.says())
    give({"folder": made.path, "files": sorted(made.files), "command": command, **made.config})


def _explorer(folder: RunFolder, source: str, seed: int) -> Explorer:
    """What a run's page shows; where the data are gone, without their rows."""
    choice = source or (folder.choice() if folder.has("audit") else ([*folder.fitted, "prior"])[0])
    names = dict.fromkeys([*folder.fitted, *([] if choice == "prior" else [choice])])
    sources = {name: folder.distribution(name) for name in names}
    vae = folder.vae  # first, so that a run of the user's own says at once what it lacks
    encoded = folder.posteriors("train").gather()
    train = ByDatum.centred(encoded)
    shown = exploring.pick(train, len(sources), seed=seed)
    rows = _rows(folder)
    trials = None
    if encoded.datum is None:
        selection = folder.posteriors("selection").gather()
        trials = Trials(train, selection, folder.prior, vae, rows, seed)
    return Explorer(
        train.take(shown).alone(),
        folder.generative("prior"),
        sources,
        choice,
        None if rows is None else rows["train"].x[shown],
        list(folder.data.config.get("columns") or []),
        folder.path.absolute().name,
        trials,
        seed,
    )


def _rows(folder: RunFolder) -> dict[str, Rows] | None:
    try:
        return dict(folder.rows)
    except ArtifactError as error:
        say(f"Without rows, and so without copying: {error}")
        return None

"""zprime sample."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import artifact, latent, sampling
from zprime.cli.console import OPTIONS, give, say
from zprime.cli.sample_files import Files
from zprime.cli.settings import label_of
from zprime.errors import UsageError
from zprime.run_folder import RunFolder
from zprime.threads import Threads


def sample(
    run: Path,
    *,
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 64,
    source: Annotated[str, Parameter(name="--from")] = "",
    given: str = "",
    noise: str = "mean",
    store: str = "latents",
    allow_copies: Annotated[bool, Parameter(negative="")] = False,
    allow_rows: Annotated[bool, Parameter(negative="")] = False,
    out: str | None = None,
    seed: int = 0,
) -> None:
    """Draw z' and x' from a run or a shipped generator: an .npz file, and a PNG grid of pictures or a .csv of a table.

    Parameters
    ----------
    run
        Folder of a run, or of a generator.
    n
        How many.
    source
        What to draw z' from: `prior`, a fit by its name, or a fit with a share of the prior in percent, as in
        aggregated+p10; default: the verdict's.
    given
        `label=3` draws from r(z|y = 3): of --from, or of the run's first conditional latent distribution.
    noise
        `mean`: x' is the mean of p(x|z'); `draw`: a draw from it.
    store
        With --from aggregated: `latents` draws from the stored means and scales; `data` keeps the data instead, and
        encodes each datum when it is drawn.
    allow_copies
        Draw even where the audit found that the samples copy training rows.
    allow_rows
        Draw even from a latent distribution that stores functions of single training rows, such as aggregated.
    out
        Where to. NAME.npz (arrays z and x), NAME.csv (a table, with the names of its columns), NAME.png (pictures in a
        grid) and NAME/ (a new folder with a .png for each picture) write that alone; NAME without such an ending writes
        NAME.npz, and NAME.png or NAME.csv. Numbers are in the units of the data. Default: samples/<from> in the run, or
        samples/<name> beside the generator.
    seed
        Decides the draws.
    """
    Threads.by_work(OPTIONS.threads).use(heavy=True)
    model, default, names = _model(run, source, store, given)
    files = Files.of(out, default, run, model)
    z, x = sampling.sample(model, n, seed=seed, noise=noise, allow_copies=allow_copies, allow_rows=allow_rows)
    files.write(model, z, x, names)
    where, behind = model.latent.label, model.latent.least_rows
    if given:
        where += f" of {given}" + ("" if behind is None else f" ({behind:.3g} effective rows behind its smallest part)")
    say(f"{n} samples, z' from {where}, seed {seed}: {files}")
    say(model.says())
    give(
        {
            "files": list(files.paths),
            "latent": model.latent.label,
            "n": n,
            "seed": seed,
            "holds_training_rows": model.latent.holds_rows,
            "copying": model.copying,
        }
    )


def _model(run: Path, source: str, store: str, given: str) -> tuple[sampling.GenerativeModel, Path, list[str]]:
    """The model, where its samples go if nothing else is said, and names of columns: a generator carries none."""
    label = label_of(given) if given else None
    mark, names = "" if label is None else f"-{label}", list[str]()
    if artifact.is_artifact(run) and artifact.read(run).kind == "generator":
        if source:
            raise UsageError(f"from: a shipped generator has one latent distribution; leave --from {source} out")
        model, default = sampling.load(run), run.parent / "samples" / (run.name + mark)
    else:
        folder = RunFolder.open(run)
        name = source or (folder.choice() if label is None else _conditional(folder))
        model, default = folder.generative(name, store=store), run / "samples" / (name + mark)
        names = list(folder.data.config.get("columns") or [])
    if label is None:
        return model, default, names
    return dataclasses.replace(model, latent=latent.given(model.latent, label)), default, names


def _conditional(folder: RunFolder) -> str:
    """The first latent distribution of a run that is conditional on a label."""
    for name in folder.fitted:
        if latent.labels_of(latent.load(folder.path / "latent" / name)):
            return name
    raise UsageError(
        f"given: expected a conditional latent distribution in {folder.path}, found none; run "
        f"`zprime fit {folder.path} --kinds conditional` first (or any kind with --by label)"
    )

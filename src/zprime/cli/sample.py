"""zprime sample."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zprime import sampling
from zprime.cli.chosen import chosen, columns
from zprime.cli.console import OPTIONS, give, say
from zprime.cli.run import FLAT
from zprime.cli.sample_files import Files
from zprime.own_model import OwnModel
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
    own: Annotated[OwnModel, FLAT] = OwnModel(),
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
    model, default = chosen(run, source, given, store=store, own=own)
    files = Files.of(out, default, run, model)
    z, x = sampling.sample(model, n, seed=seed, noise=noise, allow_copies=allow_copies, allow_rows=allow_rows)
    files.write(model, z, x, columns(run))
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

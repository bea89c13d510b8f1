"""zprime sample."""

from typing import Annotated

from cyclopts import Parameter

from zprime import sampling
from zprime.cli.chosen import chosen
from zprime.cli.console import OPTIONS, give, say
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.cli.sample_files import Drawn, Files
from zprime.own_model import OwnModel
from zprime.threads import Threads


def sample(
    run: Folder,
    *,
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 64,
    source: Annotated[str, Parameter(name="--from")] = "",
    given: str = "",
    noise: str = "mean",
    store: str = "latents",
    allow_copies: Annotated[bool, Parameter(negative="")] = False,
    allow_rows: Annotated[bool, Parameter(negative="")] = False,
    own: Annotated[OwnModel, OWN] = OwnModel(),
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
        `label=3` draws from r(z|y = 3): of --from, or of the run's first conditional latent distribution. A model that
        is told conditions (`zprime run --conditions`) takes them by their names, e.g. `label=3` or `batch=1,size=0.5`;
        without, draws take those of training rows.
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
    found = chosen(run, source, given, store=store, own=own)
    model, told = found.model, found.conditions(n, seed=seed)
    files = Files.of(out, found.default, run, found.of_x)
    z, rows = sampling.sample(
        model, n, seed=seed, noise=noise, given=told, allow_copies=allow_copies, allow_rows=allow_rows
    )
    x, c = found.parts(rows)
    files.write(found.of_x, Drawn(z, x, c), found.columns)
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

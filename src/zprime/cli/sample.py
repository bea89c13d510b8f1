"""zprime sample."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from zprime import artifact, outputs, sampling
from zprime.cli.chosen import chosen
from zprime.cli.console import OPTIONS, give, say
from zprime.errors import UsageError
from zprime.reporting import pictures
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
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Draw z' and x' from a run or a shipped generator: an .npz file, and a PNG grid where the data are pictures.

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
        Path of the files, without ending; default: samples/<from> in the run, or
        samples/<name> beside the generator.
    seed
        Decides the draws.
    """
    Threads.by_work(OPTIONS.threads).use(heavy=True)
    model, default = chosen(run, source, given, store=store)
    files = _files(default if out is None else out, run, pictures_too=model.image is not None)
    z, x = sampling.sample(model, n, seed=seed, noise=noise, allow_copies=allow_copies, allow_rows=allow_rows)
    artifact.make_folder(files[0].parent)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, z=z.numpy(), x=x.numpy())
    artifact.write_file(files[0], buffer.getvalue())
    if model.image is not None:
        unit = (x - model.shift) / model.scale
        artifact.write_file(files[1], pictures.png(pictures.grid(unit[:4096], zoom=max(1, 56 // max(model.image[1:])))))
    where, behind = model.latent.label, model.latent.least_rows
    if given:
        where += f" of {given}" + ("" if behind is None else f" ({behind:.3g} effective rows behind its smallest part)")
    say(f"{n} samples, z' from {where}, seed {seed}: {', '.join(map(str, files))}")
    say(model.says())
    give(
        {
            "files": files,
            "latent": model.latent.label,
            "n": n,
            "seed": seed,
            "holds_training_rows": model.latent.holds_rows,
            "copying": model.copying,
        }
    )


def _files(target: Path, run: Path, *, pictures_too: bool) -> list[Path]:
    """What is written.

    Raises:
        UsageError: `target` is no name of a file, or something would be lost.
    """
    if target.name in ("", ".."):
        raise UsageError(f"out: expected the path of the files, without ending, got {str(target)!r}")
    files = [target.with_name(target.name + ending) for ending in [".npz", *[".png"] * pictures_too]]
    for file in files:
        outputs.check_output(file, run)
    return files

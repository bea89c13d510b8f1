"""Which generative model a command works on: of a run by name, its verdict's, or one that was shipped."""

import dataclasses
from pathlib import Path

from zprime import artifact, latent, sampling
from zprime.cli.settings import label_of
from zprime.errors import UsageError
from zprime.loading import inside, load
from zprime.own_model import OwnModel
from zprime.run_folder import RunFolder


def chosen(
    run: Path, source: str, given: str, *, store: str = "latents", own: OwnModel = OwnModel()
) -> tuple[sampling.GenerativeModel, Path]:
    """The model, and where its samples go if nothing else is said.

    Args:
        run: folder of a run, of a shipped generator, or one that was exported with it.
        source: what to draw z' from, by its name in the run; empty takes the verdict's.
        given: `label=3` for r(z|y = 3), or empty.
        store: `data` encodes each datum when it is drawn.
        own: where the code of a model of the user's own is.

    Raises:
        UsageError: no such latent distribution there, or code for a generator that needs none, or needs another.
    """
    label = label_of(given) if given else None
    mark = "" if label is None else f"-{label}"
    if artifact.is_artifact(inside(run)) and artifact.read(inside(run)).kind == "generator":
        if source:
            raise UsageError(f"from: a shipped generator has one latent distribution; leave --from {source} out")
        model, default = load(run, own), run.parent / "samples" / (run.name + mark)
    else:
        folder = RunFolder.open(run, own)
        name = source or (folder.choice() if label is None else _conditional(folder))
        model, default = folder.generative(name, store=store), run / "samples" / (name + mark)
    if label is None:
        return model, default
    return dataclasses.replace(model, latent=latent.given(model.latent, label)), default


def columns(run: Path) -> list[str]:
    """Names of the columns of a run's data; none of a shipped generator, which carries none."""
    if artifact.is_artifact(inside(run)) and artifact.read(inside(run)).kind == "generator":
        return []
    return list(RunFolder.open(run).data.config.get("columns") or [])


def _conditional(folder: RunFolder) -> str:
    """The first latent distribution of a run that is conditional on a label."""
    for name in folder.fitted:
        if latent.labels_of(latent.load(folder.path / "latent" / name)):
            return name
    raise UsageError(
        f"given: expected a conditional latent distribution in {folder.path}, found none; run "
        f"`zprime fit {folder.path} --kinds conditional` first (or any kind with --by label)"
    )

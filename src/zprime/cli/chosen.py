"""Which generative model a command works on: of a run by name, its verdict's, or one that was shipped."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from zprime import artifact, latent, sampling
from zprime.cli.given import Given
from zprime.data.conditions import Layout
from zprime.errors import UsageError
from zprime.loading import inside, load
from zprime.own_model import OwnModel
from zprime.rng import stream
from zprime.run_folder import RunFolder


@final
@dataclass(frozen=True)
class Chosen:
    """A generative model, and what to know of its samples.

    Attributes:
        model: the model.
        default: where its samples go if nothing else is said.
        columns: names of the columns of x', and of the conditions; empty where they have none.
        given: what the decoder is told; None where it is told nothing, or what the data have.
        layout: of x' and conditions in a row; None without conditions.
        labelled: whether z' is drawn for a label that is given.
        pool: conditions that others are drawn from, [m, k]; None without.
        unit: whether rows lie in [0, 1] where they are images.
    """

    model: sampling.GenerativeModel
    default: Path
    columns: tuple[str, ...] = ()
    given: Tensor | None = None
    layout: Layout | None = None
    labelled: bool = False
    pool: Tensor | None = None
    unit: bool = True

    @property
    def of_x(self) -> sampling.GenerativeModel:
        """The same with the scaling of x' alone, where rows hold conditions too: what files are written by."""
        if self.layout is None:
            return self.model
        shift, scale = (self.layout.parts(t[None])[0][0] for t in (self.model.shift, self.model.scale))
        shape = self.layout.shape
        image = shape if len(shape) == 3 and shape[0] in (1, 3) and self.unit else None
        return replace(self.model, shift=shift, scale=scale, image=image)

    def conditions(self, n: int, *, seed: int) -> Tensor | None:
        """What the decoder is told for n samples: what is given, else those of training rows at random."""
        if self.given is not None or self.layout is None or self.pool is None:
            return self.given
        at = torch.randint(len(self.pool), (n,), generator=stream(seed, "conditions"))
        return self.layout.told(self.pool[at])

    def parts(self, row: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples and their conditions, in the form in which the model is told them; None without."""
        if self.layout is None:
            return row, None
        x, c = self.layout.parts(row)
        return x, self.layout.told(c)


def chosen(run: Path, source: str, given: str, *, store: str = "latents", own: OwnModel = OwnModel()) -> Chosen:
    """Find it.

    Args:
        run: folder of a run, of a shipped generator, or one that was exported with it.
        source: what to draw z' from, by its name in the run; empty takes the verdict's.
        given: `label=3` for r(z|y = 3), or the conditions of a model that is told any; or empty.
        store: `data` encodes each datum when it is drawn.
        own: where the code of a model of the user's own is.

    Raises:
        UsageError: no such latent distribution there, or code for a generator that needs none, or needs another.
    """
    asked = Given.of(given)
    if artifact.is_artifact(inside(run)) and artifact.read(inside(run)).kind == "generator":
        if source:
            raise UsageError(f"from: a shipped generator has one latent distribution; leave --from {source} out")
        asked.check(())
        found = Chosen(load(run, own), run.parent / "samples" / (run.name + str(asked)))
        return found if asked.label is None else _by_label(found, asked.label)
    folder = RunFolder.open(run, own)
    c, of_model = asked.conditions(folder), folder.of_model
    by_label = asked.label is not None and c is None
    name = source or (_conditional(folder) if by_label else folder.choice())
    model = folder.generative(name, store=store)
    found = Chosen(
        model,
        run / "samples" / (name + str(asked)),
        _columns(folder),
        c,
        of_model.layout,
        unit=of_model.unit,
        pool=of_model.pool,
    )
    # a model that is told the label takes it, and r(z|y) too, where that is what z' is drawn from
    return (
        found
        if asked.label is None or not (by_label or latent.labels_of(model.latent))
        else _by_label(found, asked.label)
    )


def _by_label(found: Chosen, label: int) -> Chosen:
    r = latent.given(found.model.latent, label)
    return replace(found, model=replace(found.model, latent=r), labelled=True)


def _columns(folder: RunFolder) -> tuple[str, ...]:
    """Names of the columns of a run's data, those of conditions behind them."""
    config = folder.data.config
    names, told = tuple(config.get("columns") or ()), config.get("conditions")
    if told is None:
        return names
    return (*(names or (f"x{j}" for j in range(Layout.of(told).entries - told["width"]))), *told["names"])


def _conditional(folder: RunFolder) -> str:
    """The first latent distribution of a run that is conditional on a label."""
    for name in folder.fitted:
        if latent.labels_of(latent.load(folder.path / "latent" / name)):
            return name
    raise UsageError(
        f"given: expected a conditional latent distribution in {folder.path}, found none; run "
        f"`zprime fit {folder.path} --kinds conditional` first (or any kind with --by label)"
    )

"""Adapter: SCVI of scvi-tools (Lopez et al. 2018; written against scvi-tools 1.4).

A row is a cell: its counts, and behind them its conditions (batch, label, covariates), which the decoder is told. The
library size is the sum of the counts, as in scvi's own loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, constraints

from zprime.bring.brought import Brought
from zprime.bring.conditions import Conditioned
from zprime.bring.encoded import bring
from zprime.bring.splits import split
from zprime.calls import called
from zprime.data.conditions import Layout
from zprime.errors import UsageError

FIELDS = {"batch": 1, "labels": 1, "extra_continuous_covs": 0, "extra_categorical_covs": 0}
"""Registered fields that the decoder may be told, and how many columns each always has (0: as many as there are)."""


@dataclass(frozen=True)
class CellLayout(Layout):
    """A cell: its counts, and conditions behind them. Told are the library size, the sum of the counts, and these."""

    def join(self, x: Tensor, c: Tensor) -> Tensor:
        """Counts and conditions of cells; the library size is in the counts."""
        return torch.cat([x, c[:, 1:]], 1)

    def parts(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Counts, and library sizes and conditions."""
        counts, conditions = row.tensor_split([self.shape[0]], 1)
        return counts, torch.cat([counts.sum(1, keepdim=True), conditions], 1)

    @property
    def entries(self) -> int:
        """Counts and conditions."""
        return self.shape[0] + self.width - 1


@dataclass(frozen=True)
class Cells:
    """SCVI's module as a model of cells with their conditions.

    Attributes:
        module: of scvi.
        widths: name -> columns, of the conditions.
        layout: of a row.
        pool: library sizes and conditions of the training cells: draws take those of one at random, the mean those of
            the cell of median library size.
    """

    module: Any
    widths: Mapping[str, int]
    layout: CellLayout
    pool: Float[Tensor, "m c"]

    def encode(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z|x)."""
        counts, c = self.layout.parts(x)
        told = self._told(c)
        told.pop("y")
        with torch.random.fork_rng(devices=[]):  # it draws a z as well, by the global generator
            qz = self.module.inference(x=counts, **told)["qz"]
        return qz.loc, qz.scale

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z) of cells."""
        middle = self.pool[:, 0].argsort()[len(self.pool) // 2]
        return Conditioned(self._px, z.float(), self.layout, self.pool, shown=self.pool[middle, None])

    def _px(self, z: Tensor, c: Tensor) -> Distribution:
        px: Distribution = self.module.generative(z=z, library=c[:, :1].log(), **self._told(c))["px"]
        return px

    def _told(self, c: Tensor) -> dict[str, Tensor | None]:
        """Conditions by the names of scvi's own arguments; the library size is before them."""
        columns = dict(zip(self.widths, torch.split(c[:, 1:], list(self.widths.values()), 1), strict=True))
        numbers = columns.pop("extra_continuous_covs", None)
        codes = {name: column.long() for name, column in columns.items()}
        return {
            "batch_index": codes["batch"],
            "y": codes.get("labels"),
            "cont_covs": numbers,
            "cat_covs": codes.get("extra_categorical_covs"),
        }


@called("bring.scvi", types={"cells": Mapping | None})
def scvi(
    model: Any, cells: Mapping[str, Any] | None = None, *, labels: Any = None, groups: Any = None, seed: int = 0
) -> Brought:
    """Bring a trained `scvi.model.SCVI`, with any likelihood, dispersion and covariates.

    Args:
        model: trained; put into evaluation mode.
        cells: split -> positions of cells in the model's adata. By default scvi's own: training, validation as
            selection and test as held-out; without a test set, half of the validation cells are held out.
        labels: one integer for each cell of the adata, for conditional kinds.
        groups: one name for each cell of the adata, e.g. the donor, numbers or text (see `modules`); scvi's own splits
            are not by donor, so `cells` must be.
        seed: decides the selection split.

    Raises:
        UsageError: not trained; a SCANVI, which has two latents; the library size is a latent of its own, or a size
            factor is given; q(z|x) is no Gaussian; no held-out cells.
        ArrayError: numbers that are not finite, cells without a single count.
    """
    module = getattr(model, "module", None)
    if module is None or not hasattr(module, "gene_likelihood") or not getattr(model, "is_trained", False):
        raise UsageError(f"model: expected a trained scvi.model.SCVI, got {type(model).__name__}")
    if hasattr(module, "encoder_z2_z1"):
        raise UsageError(
            "model: expected one latent, got SCANVI's two: the prior of z1 is p(z1|z2, y), a network of its own, with "
            "z2 and the label of each cell. Gains over N(0, I) would be over another model: bring the SCVI model that "
            "it was made from"
        )
    if module.latent_distribution != "normal":
        raise UsageError(f"model: expected latent_distribution='normal', got {module.latent_distribution!r}")
    if module.use_size_factor_key or not module.use_observed_lib_size:
        raise UsageError(
            "model: expected use_observed_lib_size=True and no size factor; a library size that is a latent variable "
            "of its own is not covered"
        )
    module.eval().cpu()
    where = _splits(model) if cells is None else dict(cells)
    columns = {name: _field(model, name, width) for name, width in FIELDS.items()}
    conditions = {name: c for name, c in columns.items() if c is not None}
    counts = _dense(model.adata_manager.get_from_registry("X"))
    if (counts.sum(1) <= 0).any():
        row = int((counts.sum(1) <= 0).argmax())
        raise UsageError(f"cells: cell {row} has no counts at all, and so no library size; filter such cells first")
    whole = np.concatenate([counts, *conditions.values()], 1)

    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and np.shape(values) != (len(whole),):
            raise UsageError(
                f"{name}: expected one for each of {len(whole)} cells of the adata, got shape {list(np.shape(values))}"
            )
    for s, cells_of in where.items():
        if np.asarray(cells_of).ndim != 1 or np.asarray(cells_of).dtype.kind not in "iub":
            raise UsageError(f"cells: expected positions of cells in {s}, got {type(cells_of).__name__}")

    def each(values: Any) -> dict[str, Any]:
        return {} if values is None else {s: np.asarray(values)[np.asarray(i)] for s, i in where.items()}

    rows = split(
        each(whole),
        each(labels),
        each(groups),
        seed=seed,
        dtype=torch.float32,
    )
    widths = {name: c.shape[1] for name, c in conditions.items()}
    layout = CellLayout((counts.shape[1],), 1 + sum(widths.values()), support=constraints.nonnegative)
    cells_ = Cells(module, widths, layout, layout.parts(rows["train"].x)[1])
    return bring(cells_, rows, says=_says(model, module, conditions))


def _splits(model: Any) -> dict[str, Any]:
    """The cells that scvi trained on, and those that it did not."""
    train, validation, test = (getattr(model, f"{s}_indices", None) for s in ("train", "validation", "test"))
    if test is not None and len(test):
        return {"train": train, "selection": validation, "heldout": test}
    if validation is None or not len(validation):
        raise UsageError(
            "cells: the model was trained on all of its cells; train it with train_size below 1, or give `cells`"
        )
    return {"train": train, "heldout": validation}


def _field(model: Any, name: str, width: int) -> NDArray[np.floating[Any]] | None:
    registry = model.adata_manager.data_registry
    if name not in registry:
        return None
    values = np.asarray(model.adata_manager.get_from_registry(name), dtype=np.float64)
    return values.reshape(len(values), width or -1)


def _dense(counts: Any) -> NDArray[np.floating[Any]]:
    return np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, dtype=np.float32)


def _says(model: Any, module: Any, told: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on which p(x|z) is used, and what q(z|x) stands for."""
    varied = [name for name, c in told.items() if (c != c[0]).any()]
    sentences = [
        f"p(x|z) is {module.gene_likelihood}, conditional on {', '.join(['the library size of the cell', *varied])}; "
        "generated cells take that from a training cell at random"
    ]
    history = getattr(model, "history", None) or {}
    if "kl_weight" in history:
        weight = float(np.asarray(history["kl_weight"]).ravel()[-1])
        if weight < 1:
            sentences.append(
                f"training ended in its warm-up, at KL weight {weight:.2g}: q(z|x) is narrower than the posterior "
                "under this p(x|z), so the exact-posterior gain is neither bound nor estimate"
            )
    return tuple(sentences)

"""Adapter: SCVI of scvi-tools (Lopez et al. 2018; written against scvi-tools 1.4).

A row is a cell: its counts, and behind them its conditions (batch, label, covariates), which the decoder is told. The
library size is the sum of the counts, as in scvi's own loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, constraints

from zprime.bring.brought import Brought, bring
from zprime.bring.splits import split
from zprime.errors import UsageError

FIELDS = {"batch": 1, "labels": 1, "extra_continuous_covs": 0, "extra_categorical_covs": 0}
"""Registered fields that the decoder may be told, and how many columns each always has (0: as many as there are)."""

PX = Callable[[Tensor, Tensor, Tensor], Distribution]


class Counts(Distribution):
    """p(counts|z, conditions): the conditions of a row stand behind its counts.

    `log_prob` takes conditions and library size from the row itself. Draws take both from a training cell at random;
    the mean takes those of the training cell of median library size.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)
    support = constraints.nonnegative

    def __init__(self, px: PX, z: Float[Tensor, "n d"], genes: int, pool: Float[Tensor, "m c"]) -> None:
        self.px, self.z, self.genes, self.pool = px, z, genes, pool
        super().__init__(z.shape[:1], torch.Size([genes + pool.shape[1] - 1]), validate_args=False)

    def log_prob(self, value: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Nats a cell."""
        counts, conditions = value[:, : self.genes], value[:, self.genes :]
        log_density: Tensor = self.px(self.z, counts.sum(1, keepdim=True), conditions).log_prob(counts)
        return log_density.sum(1)

    @property
    def mean(self) -> Float[Tensor, "n c"]:
        """Expected counts of a cell of median library size, under its conditions."""
        middle = self.pool[:, 0].argsort()[len(self.pool) // 2]
        return self._cells(middle.expand(len(self.z)), lambda p: p.mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "n c"]:
        """One cell for each z."""
        with torch.no_grad():
            which = torch.randint(len(self.pool), (len(self.z),))
            return self._cells(which, lambda p: p.sample())

    def _cells(self, which: Tensor, answer: Callable[[Any], Tensor]) -> Tensor:
        library, conditions = self.pool[which, :1], self.pool[which, 1:]
        return torch.cat([answer(self.px(self.z, library, conditions)), conditions], 1)


@dataclass(frozen=True)
class Cells:
    """SCVI's module as a model of cells with their conditions."""

    module: Any
    widths: Mapping[str, int]
    genes: int
    pool: Tensor  # library size and conditions of the training cells

    def encode(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z|x)."""
        told = self._told(x[:, self.genes :])
        told.pop("y")
        with torch.random.fork_rng(devices=[]):  # it draws a z as well, by the global generator
            qz = self.module.inference(x=x[:, : self.genes], **told)["qz"]
        return qz.loc, qz.scale

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z) of cells."""
        return Counts(self._px, z.float(), self.genes, self.pool)

    def _px(self, z: Tensor, library: Tensor, conditions: Tensor) -> Distribution:
        px: Distribution = self.module.generative(z=z, library=library.log(), **self._told(conditions))["px"]
        return px

    def _told(self, conditions: Tensor) -> dict[str, Tensor | None]:
        """Conditions by the names of scvi's own arguments."""
        columns = dict(zip(self.widths, torch.split(conditions, list(self.widths.values()), 1), strict=True))
        numbers = columns.pop("extra_continuous_covs", None)
        codes = {name: column.long() for name, column in columns.items()}
        return {
            "batch_index": codes["batch"],
            "y": codes.get("labels"),
            "cont_covs": numbers,
            "cat_covs": codes.get("extra_categorical_covs"),
        }


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
        UsageError: not trained; the library size is a latent of its own, or a size factor is given; q(z|x) is no
            Gaussian; no held-out cells.
        ArrayError: numbers that are not finite, cells without a single count.
    """
    module = getattr(model, "module", None)
    if module is None or not hasattr(module, "gene_likelihood") or not getattr(model, "is_trained", False):
        raise UsageError(f"model: expected a trained scvi.model.SCVI, got {type(model).__name__}")
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

    def each(values: Any) -> dict[str, Any]:
        return {} if values is None else {s: np.asarray(values)[np.asarray(i)] for s, i in where.items()}

    rows = split(
        each(whole),
        each(labels),
        each(groups),
        seed=seed,
        dtype=torch.float32,
    )
    genes = counts.shape[1]
    x = rows["train"].x
    pool = torch.cat([x[:, :genes].sum(1, keepdim=True), x[:, genes:]], 1)
    widths = {name: c.shape[1] for name, c in conditions.items()}
    return bring(Cells(module, widths, genes, pool), rows, says=_says(model, module, conditions))


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

"""What an audit works on: posteriors and rows of the three splits, model, prior, settings and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.data import SPLITS, Rows
from zprime.data.blocks import as_matrix, taken
from zprime.data.duplicates import FEWEST, check_duplicates, duplicates_of, found, near_duplicates, shared
from zprime.data.groups import codes_of_splits
from zprime.decoding import both_decoded, x_decoded
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError, UsageError
from zprime.kernels import ExactIndex
from zprime.latent.factors import DENSE, Matrix, Scatter
from zprime.latent.gaussian import moments, scatter_of
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import Progress, silent
from zprime.results.facts import DataInfo, Duplicates, NearDuplicates
from zprime.results.settings import AuditSettings
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.vae import Model

Space = Callable[[Tensor], Tensor]
"""A feature space: rows [n, *datum] in the model's scaled units -> features [n, f]."""


@dataclass(frozen=True, eq=False)
class Split:
    """Posteriors of one split, and the rows that they belong to.

    Attributes:
        name: `train`, `selection` or `heldout`; or what else the rows are, e.g. `simulated`.
        posteriors: q(z|x) of every row.
        rows: the rows in the same order, scaled as the model sees them; None where they are not known.
        groups: shape [n], integers: rows of one group are dependent; None where all are independent.
        modes: z of every row that may lie in modes of its posterior which the encoder misses; None where none were
            searched for.
        told: what distributions that differ by row are told of each, e.g. its p(z|c); None where none differ.
    """

    name: str
    posteriors: MemoryPosteriors
    rows: Rows | None = None
    groups: Int[Tensor, " n"] | None = None
    modes: Float[Tensor, "n m d"] | None = None
    told: Float[Tensor, "n k"] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.posteriors.n

    @property
    def weights(self) -> Float[Tensor, " n"] | None:
        """What each row counts; the weights of the posteriors, None where all are equal."""
        return self.posteriors.weights

    @property
    def design(self) -> Design:
        """Weights and groups, as means over rows take them."""
        return Design(self.weights, self.posteriors.datum if self.groups is None else self.groups)

    @cached_property
    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance of the aggregated posterior, float64; computed once."""
        return moments(self.posteriors)

    @cached_property
    def match(self) -> tuple[Float[Tensor, " d"], Scatter]:
        """The same in a form that fits the dimensions: above 1,024, of the rows where these are fewer."""
        if self.posteriors.d > DENSE:
            return scatter_of(self.posteriors)
        mean, covariance = self.moments
        return mean, Matrix(covariance)

    def each(self, draws: int) -> Float[Tensor, "m k"] | None:
        """What is told of the rows of so many draws: draw 0 of all rows, then draw 1, as posteriors draw."""
        return None if self.told is None else self.told.repeat(draws, 1)

    def take(self, at: Int[Tensor, " m"]) -> "Split":
        """Some of the rows."""
        return Split(
            self.name,
            self.posteriors.take(at),
            None if self.rows is None else self.rows.take(at),
            None if self.groups is None else self.groups[at],
            None if self.modes is None else self.modes[at],
            None if self.told is None else self.told[at],
        )

    def independent(self, rng: torch.Generator) -> "Split":
        """Independent rows of the weighted population, for tests that know neither weights nor groups."""
        if self.design.plain:
            return self
        picked = self.take(self.design.independent(self.n, rng))
        return Split(self.name, picked.posteriors.alone(), picked.rows, None, picked.modes, picked.told)


@dataclass(frozen=True, eq=False)
class Study:
    """All that the measures share.

    Attributes:
        train, selection, heldout: the three splits.
        prior: p(z), what the VAE was trained with.
        model: encoder and decoder; None leaves out what needs them.
        settings: how much to measure.
        features: the feature space that samples are compared in: a name, or a function.
        data: a description of the data set.
        seed: of every draw.
        workers: threads that measure side by side.
        search: whether modes of the posteriors that the encoder misses are searched for.
        modes: those that were found: seed of the search's random numbers -> ids of the rows, and their modes.
        index: of training rows, for the measures that search in them as they are; None where none was made.
        progress: called by the long parts.
    """

    train: Split
    selection: Split
    heldout: Split
    prior: LatentDistribution
    model: Model | None = None
    settings: AuditSettings = AuditSettings()
    features: str | Space = "auto"
    data: DataInfo = field(default_factory=DataInfo)
    seed: int = 0
    workers: int = 1
    progress: Progress = silent
    search: bool = False
    modes: dict[int, tuple[Int[Tensor, " n"], Float[Tensor, "n m d"]]] = field(default_factory=dict)
    index: ExactIndex | None = None

    @property
    def splits(self) -> list[Split]:
        """All three."""
        return [self.train, self.selection, self.heldout]

    def stream(self, *names: str | int) -> torch.Generator:
        """The random numbers called `names` under the seed."""
        return stream(self.seed, *names)

    def decode(self, z: Float[Tensor, "n d"], *, noise: str, rng: torch.Generator) -> Float[Tensor, "n *datum"]:
        """Means (`mean`) or draws (`draw`) of p(x|z).

        Raises:
            UsageError: there is no decoder, or an unknown `noise`.
        """
        return x_decoded(self._decoder(), z, noise=noise, rng=rng)

    def decode_both(
        self, z: Float[Tensor, "n d"], *, rng: torch.Generator
    ) -> tuple[Float[Tensor, "n *datum"], Float[Tensor, "n *datum"]]:
        """Means and draws of p(x|z): what `decode` gives for each, decoded once.

        Raises:
            UsageError: there is no decoder.
        """
        return both_decoded(self._decoder(), z, rng=rng)

    def _decoder(self) -> Model:
        if self.model is None:
            raise UsageError("model: expected a decoder, got none")
        return self.model


def gather(
    posteriors: Mapping[str, Posteriors],
    rows: Mapping[str, Rows] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> tuple[Split, Split, Split]:
    """Read the three splits into memory, each shard once; selection and held-out rows of weight 0 are left out.

    Args:
        posteriors: `train`, `selection` and `heldout`.
        rows: rows of the selection and of the held-out split, and of the training split where they are known. Where
            posteriors have several parts a row they may be there once, or once for each.
        groups: split -> the group of each of its rows, numbers or text; None for what the rows say.

    Raises:
        UsageError: a split is missing.
        ArrayError: rows and posteriors do not belong together, a group lies in two splits, or log q is known at the
            draws of some splits only.
    """
    for name in SPLITS:
        if name not in posteriors:
            raise UsageError(
                f"posteriors: expected train, selection and heldout, got {', '.join(posteriors) or 'none'}"
            )
    given = {} if rows is None else {s: _beside(r, posteriors.get(s)) for s, r in rows.items()}
    if rows is not None and not {"selection", "heldout"} <= given.keys():
        raise UsageError(f"rows: expected the selection and heldout rows, got {', '.join(given) or 'none'}")
    for name in ("selection", "heldout", "train"):
        if name in given and not torch.equal(given[name].ids, posteriors[name].row_ids):
            raise ArrayError(f"rows: expected the {name} rows in the order of their posteriors, got other row ids")
    if groups is None:
        groups = {name: r.groups for name, r in given.items() if r.groups is not None}
    elif not {"selection", "heldout"} <= groups.keys():
        raise UsageError(f"groups: expected those of the selection and heldout rows, got {', '.join(groups) or 'none'}")
    codes = codes_of_splits(groups, {name: posteriors[name].n for name in SPLITS})
    train, selection, heldout = (_split(name, posteriors[name], given.get(name), codes.get(name)) for name in SPLITS)
    known = [s.name for s in (train, selection, heldout) if s.posteriors.log_q is not None]
    if len(known) not in (0, len(SPLITS)):
        raise ArrayError(f"log_q: expected it at the draws of all splits or of none, got it for {', '.join(known)}")
    return train, counted(selection), counted(heldout)


def _beside(rows: Rows, posteriors: Posteriors | None) -> Rows:
    """Rows once for each part of their posteriors, where these are several and the rows are there once."""
    if posteriors is None or len(rows) == posteriors.n:
        return rows
    once = torch.unique_consecutive(posteriors.row_ids)
    return rows.take(posteriors.row_of) if torch.equal(rows.ids, once) else rows


def _split(name: str, posteriors: Posteriors, rows: Rows | None, groups: Tensor | None) -> Split:
    """One split in memory; where posteriors have several parts, with these as groups, and their means as modes."""
    data = posteriors.gather()
    if groups is None:
        groups = data.datum
    elif data.datum is not None:
        one = torch.full((data.n,), -1).scatter_(0, data.datum, groups)  # the group of some row of each datum
        if not torch.equal(one[data.datum], groups):
            raise ArrayError(f"groups: expected all parts of a datum in one group, got two of some datum in {name}")
    family = data.family
    modes = None if family is None or data.datum is None else family.means(data.datum)
    return Split(name, data, rows, groups, modes)


def without_duplicates(train: Split, *others: Split, keep: bool) -> tuple[list[Split], dict[str, Duplicates] | None]:
    """Leave out rows that equal a training row, which training has seen, unless they are to be kept.

    Args:
        train: the training split; where its rows are not known, nothing is left out.
        others: the selection and the held-out split.
        keep: whether to keep them.

    Returns:
        The other splits, and what was found, by split; None where training rows are not known.

    Raises:
        ArrayError: more than 1 % of a split, and they are not to be kept.
    """
    if train.rows is None:
        return list(others), None
    equal = duplicates_of([train.rows.compared], {s.name: s.rows.compared for s in others if s.rows is not None})
    told = found(equal, {s.name: s.posteriors.row_ids for s in others}, kept=keep)
    check_duplicates(told)
    if keep:
        return list(others), told
    return [s.take((~equal[s.name]).nonzero().flatten()) if s.name in equal else s for s in others], told


def shared_rows(selection: Split, heldout: Split) -> Duplicates | None:
    """Selection rows that equal a held-out row; None where there are none, or rows are not known."""
    if selection.rows is None or heldout.rows is None:
        return None
    ids, which = torch.unique(selection.posteriors.row_ids, return_inverse=True)
    # a row is there once for each part of its posterior
    once = torch.zeros_like(ids).scatter_(0, which, torch.arange(selection.n))
    x = selection.rows.compared
    x = x if torch.equal(once, torch.arange(len(x))) else taken(x, once)
    return shared(x, heldout.rows.compared, ids)


def index_of(train: Split) -> ExactIndex | None:
    """Training rows to search in; None where they are not known, are few, or there is more than one a datum."""
    if train.rows is None or train.posteriors.datum is not None or train.n < FEWEST:
        return None
    return ExactIndex(as_matrix(train.rows.compared))


def near(
    train: Split, heldout: Split, *, seed: int, most: int, index: ExactIndex | None = None
) -> NearDuplicates | None:
    """Held-out rows next to a training row, of `most` of either; None where rows are not known, or few.

    `index` is that of `index_of`, where it was made.
    """
    rows = heldout.independent(stream(seed, "near duplicates")).rows
    if train.posteriors.datum is not None:
        train = train.take(train.posteriors.one_each(rng=stream(seed, "near duplicates", "parts")))
    if train.rows is None or rows is None:
        return None
    return near_duplicates(train.rows.compared, rows.compared, seed=seed, most=most, index=index)


def described(data: DataInfo, splits: Sequence[Split]) -> DataInfo:
    """What is told of the data; shape and number of rows by the splits, where nobody told them."""
    rows = splits[0].rows
    shape = list(rows.x.shape[1:]) if rows is not None and not data.shape else data.shape
    sizes = {s.name: len(torch.unique(s.posteriors.row_ids)) for s in splits}
    return replace(data, shape=shape, sizes=data.sizes or sizes)


def counted(split: Split) -> Split:
    """The split without rows of weight 0: they are not of the population."""
    if split.weights is None or bool((split.weights > 0).all()):
        return split
    return split.take((split.weights > 0).nonzero().flatten())

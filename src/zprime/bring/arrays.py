"""Bare arrays: posteriors of any form, and no model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from zprime import memory
from zprime.bring import readings
from zprime.bring.answers import spelled
from zprime.bring.brought import Brought, beside, groups_of, told
from zprime.bring.conditional_priors import of_prior, one_or_each
from zprime.bring.conditions import in_units
from zprime.bring.coordinates import Coordinates, known
from zprime.bring.refusals import check_codes
from zprime.bring.splits import need_mapping, split
from zprime.calls import called
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.latent.priors import Given
from zprime.measure.prior import prior_width
from zprime.posteriors import MemoryPosteriors


@called("bring.arrays")
def arrays(
    mean: Mapping[str, Any],
    scale: Mapping[str, Any] | None = None,
    *,
    gives: str = "std",
    scale_tril: Mapping[str, Any] | None = None,
    factor: Mapping[str, Any] | None = None,
    row_ids: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    prior: Given | Callable[[Tensor], Distribution] = None,
    conditions: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring bare arrays: posterior means and scales, and no model; all that needs no decoder works. A public facade.

    A posterior is N(mean, diag scale^2), N(mean, scale_tril scale_tril^T), or of low rank, N(mean, factor factor^T +
    diag scale^2). Where several rows have the same row id they are the components of one datum's posterior, each
    with its weight.

    Args:
        mean: split -> [n, d]; `train` and `heldout`, and `selection` if there is one (see `modules`).
        scale: split -> [n, d], of the same splits.
        gives: what `scale` holds: `std`, `variance`, `log-variance` (`logvar`) or `log-std`.
        scale_tril: split -> [n, d, d], lower triangular, in place of `scale`.
        factor: split -> [n, d, r], beside `scale`. They are kept as [n, d, d].
        row_ids: split -> [n], which datum each row is a part of: integers or text; None where every row is a datum.
        weights: split -> [n], numbers above 0: what each row counts within its split, normalised here. None for equal
            data, each with equal parts.
        labels: split -> integers.
        groups: split -> one name a row (see `modules`); give `audit` the `groups` of what is returned.
        prior: what the VAE was trained with: ours, or a torch Distribution with one latent as its event; None is
            N(0, I). For one Gaussian all latents of what is returned are in units of the prior
            (`Brought.coordinates`); if its covariance is full those of the posteriors are full then, and this is done
            where rows x d x d is 200,000 at most. Any other is `Brought.prior`, which `audit` has to be given.
            With `conditions` a function of them, as in `modules`.
        conditions: split -> c of each row, numbers or a matrix [n, k], that a prior p(z|c) is told; with `scale` alone.
        check: whether to check `gives` by the variance of the codes.
        seed: decides the selection split.

    Raises:
        UsageError: a split is missing, both or neither of `scale` and `scale_tril`, an unknown reading, or one that
            the codes contradict; a prior that cannot be used; more full covariances than the memory holds.
        ArrayError: shapes that do not fit, numbers that are not finite, a datum in two splits.
    """
    if (scale is None) == (scale_tril is None) or (factor is not None and scale is None):
        given = [n for n, v in (("scale", scale), ("scale_tril", scale_tril), ("factor", factor)) if v is not None]
        raise UsageError(
            f"scale: expected scale, scale_tril, or scale and factor, got {' and '.join(given) or 'none of them'}"
        )
    gives = _checked(
        gives, mean=mean, scale=scale, scale_tril=scale_tril, factor=factor, row_ids=row_ids, weights=weights
    )
    one, per_row = one_or_each(prior, conditions)
    parts = Parts.of(mean, row_ids, weights)
    together = groups if groups is not None else row_ids
    priors: dict[str, Coordinates] = {}
    if conditions is not None:
        if scale is None or factor is not None or row_ids is not None:
            raise UsageError(
                "conditions: a prior p(z|c) is taken beside standard deviations of one Gaussian a row; give scale, and "
                "no factor or row_ids"
            )
        mean, scale, of_rows = in_units(mean, scale, gives, per_row, conditions)
        priors = {s: Coordinates(*r.x.chunk(2, 1)) for s, r in split(of_rows, {}, together, seed=seed).items()}
    means = split(mean, labels, together, seed=seed)
    dtype = means["train"].x.dtype
    # what belongs to a row is set aside with it: the rows of all arrays are the same ones

    def tensors(given: Mapping[str, Any]) -> dict[str, Tensor]:
        return {k: v.x for k, v in split(given, {}, together, seed=seed, dtype=dtype).items()}

    name = "scale" if scale is not None else "scale_tril"
    given_scale = tensors(scale or scale_tril or {})
    factors = None if factor is None else tensors(factor)
    d = means["train"].x.shape[1]
    for s, r in means.items():
        want = (len(r.x), d) if scale is not None else (len(r.x), d, d)
        if given_scale[s].shape != want:
            raise ArrayError(
                f"{name}: expected shape {list(want)} in {s} as mean has, got {list(given_scale[s].shape)}"
            )
    check_codes(means["train"].x, "mean")
    scales = {s: x if scale is None else readings.read(x, gives) for s, x in given_scale.items()}
    diagonal = scale is not None and factors is None
    at, learned = known(one, d, factors=sum(len(r) for r in means.values()) if diagonal else 0)
    unit = prior_width(learned, d) if at is None else at.width
    says = []
    if diagonal and row_ids is None:
        if check:
            readings.check_moments(means["train"].x, given_scale["train"], gives, unit)
        total = readings.code_variance(means["train"].x, scales["train"]) / unit.square()
        says.append(
            f"read as {gives}, codes have variance {float(total.min()):.2f} to {float(total.max()):.2f} in the "
            f"{len(total)} dimensions (training rows{'' if prior is None else ', in units of the prior'}); a trained "
            "VAE has about 1"
        )
    if factors is not None:
        scales = {s: _joined(scales[s], factors[s]) for s in scales}
    codes = {s: (r.x, scales[s]) if at is None else at.of(r.x, scales[s]) for s, r in means.items()}
    posteriors = {s: parts.posteriors(r, *codes[s]) for s, r in means.items()}
    parts.check(posteriors)
    says += [*parts.says(posteriors["train"]), *told(at, learned)]
    says += [of_prior(priors["train"])] if priors else []
    grouped = groups_of(means) if groups is not None else None
    mine = Brought(posteriors, prior=learned, says=tuple(says), groups=grouped, coordinates=at)
    return beside(mine, priors, None) if priors else mine


def _checked(gives: str, **given: Mapping[str, Any] | None) -> str:
    """The reading that is meant, after a look at whether arrays are given by split.

    Raises:
        UsageError: one is not, or `gives` is no reading of standard deviations.
    """
    for name, value in given.items():
        need_mapping(name, {} if value is None else value, "arrays")
    reading = spelled(gives)
    if reading in readings.FULL:
        raise UsageError(
            f"gives: expected one of {', '.join(readings.READINGS)}, got {gives!r}; give Cholesky factors as "
            "scale_tril= in place of scale"
        )
    return reading


@dataclass(frozen=True)
class Parts:
    """Which datum each row is a part of, and what it counts; over the rows of all splits, as they were given.

    Attributes:
        datum: numbers from 0 on; None where every row is a datum.
        weight: not normalised; None for equal weights.
    """

    datum: Int[Tensor, " n"] | None
    weight: Float[Tensor, " n"] | None

    @classmethod
    def of(
        cls, rows: Mapping[str, Any], row_ids: Mapping[str, Any] | None, weights: Mapping[str, Any] | None
    ) -> "Parts":
        """Read both in the order in which `split` numbers the rows.

        Raises:
            ArrayError: not one a row, a datum in two splits, or a weight that is not above 0.
        """
        order = [s for s in ("train", "selection", "heldout") if s in rows]
        sizes = {s: _length(s, rows[s]) for s in order}
        datum, start = None, 0
        names: dict[Any, str] = {}
        if row_ids is not None:
            numbers = []
            for s in order:
                ids = _column("row_ids", row_ids, s, sizes[s])
                known_ids = {x: i for i, x in enumerate(dict.fromkeys(ids))}
                twice = [x for x in known_ids if x in names]
                if twice:
                    raise ArrayError(
                        f"row_ids: expected each datum in one split, got {twice[0]!r} in {names[twice[0]]} and {s}"
                    )
                names |= dict.fromkeys(known_ids, s)
                numbers += [start + known_ids[x] for x in ids]
                start += len(known_ids)
            datum = torch.tensor(numbers)
        weight = None
        if weights is not None:
            found = [torch.as_tensor(_column("weights", weights, s, sizes[s]), dtype=torch.float64) for s in order]
            weight = torch.cat(found)
            if not bool((torch.isfinite(weight) & (weight > 0)).all()):
                raise ArrayError(f"weights: expected numbers above 0, got {float(weight.min()):g} among them")
        return cls(datum, weight)

    def posteriors(self, rows: Rows, mean: Tensor, scale: Tensor | None) -> MemoryPosteriors:
        """Posteriors of some of the rows, whose ids say where they stood."""
        datum = rows.ids if self.datum is None else self.datum[rows.ids]
        weight = None if self.weight is None else self.weight[rows.ids]
        if weight is None and self.datum is not None:  # every datum counts the same, however many parts it has
            weight = 1 / torch.bincount(datum)[datum].double()
        return MemoryPosteriors(
            mean,
            scale,
            row_ids=datum,
            weights=None if weight is None else weight / weight.sum(),
            labels=rows.labels,
        )

    def check(self, posteriors: Mapping[str, MemoryPosteriors]) -> None:
        """Raise `ArrayError` where groups have put the parts of a datum into two splits."""
        if self.datum is None:
            return
        seen = torch.cat([torch.unique(p.row_ids) for p in posteriors.values()])
        if len(torch.unique(seen)) < len(seen):
            raise ArrayError("groups: expected all parts of a datum (row_ids) in one group, got some in two")

    def says(self, train: MemoryPosteriors) -> list[str]:
        """What to know of these posteriors."""
        if train.datum is None:
            return []
        data = len(torch.unique(train.datum))
        return [
            f"{train.n:,} training rows are parts of the posteriors of {data:,} data: errors count data, and "
            "leave-one-out drops all parts of a datum"
        ]


def _length(split: str, rows: Any) -> int:
    if not hasattr(rows, "__len__") or isinstance(rows, str):
        raise UsageError(f"mean: expected an array [n, d] in {split}, got {type(rows).__name__}")
    return len(rows)


def _column(name: str, given: Mapping[str, Any], split: str, n: int) -> list[Any]:
    if split not in given:
        raise ArrayError(f"{name}: expected those of the {split} rows, got {', '.join(given) or 'none'}")
    values = given[split]
    if not hasattr(values, "__len__") or isinstance(values, str):
        raise ArrayError(f"{name}: expected {n} for {split}, one a row, got {type(values).__name__}")
    column = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(column) != n:
        raise ArrayError(f"{name}: expected {n} for {split}, one a row, got {len(column)}")
    return column


def _joined(scale: Float[Tensor, "n d"], factor: Tensor) -> Float[Tensor, "n d d"]:
    """Cholesky factors of factor factor^T + diag scale^2.

    Raises:
        ArrayError: a factor of another shape.
        UsageError: they do not fit into memory.
    """
    n, d = scale.shape
    if factor.ndim != 3 or factor.shape[:2] != (n, d):
        raise ArrayError(f"factor: expected shape [{n}, {d}, r], got {list(factor.shape)}")
    memory.need(
        24 * n * d * d,
        f"posteriors: {n:,} covariances of {d:,} dimensions",
        "give the diagonal alone (scale), or fewer rows",
    )
    wide = factor.double()
    covariance = wide @ wide.mT + torch.diag_embed(scale.double().square())
    tril: Tensor = torch.linalg.cholesky(covariance)
    return tril.to(scale.dtype)


__all__ = ["Parts", "arrays"]

"""product-of-experts: p(z | X = D) for one latent that every row of a group shares, as a product of experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution, need_standard
from zprime.errors import UsageError
from zprime.latent.centre import GAUSSIANS, NO_AVERAGE, Natural, from_precision, mixture_of_one
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.posteriors import Form, Posteriors
from zprime.schema import FACTOR, FINITE, POSITIVE, Array, Maybe, Real, Schema, Whole


@final
@dataclass(frozen=True, repr=False, eq=False)
class ProductOfExperts(GaussianDistribution):
    """One Gaussian, the narrower the more rows share it.

    Attributes:
        mean, scale: of the Gaussian; `scale` is standard deviations, or a lower triangular factor of its covariance.
        rows: how many share it.
        least_rows: effective ones, in the dimension where they are fewest: a row enters with its precision there.
    """

    kind: ClassVar[str] = "product-of-experts"
    schema: ClassVar[Schema] = Schema(
        {"rows": Whole(1), "least_rows": Maybe(Real(0))},
        {"mean": Array({"d": FINITE}), "scale": Array({"d": POSITIVE, "d d": FACTOR})},
    )
    only_shown: ClassVar[bool] = True
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"] | Float[Tensor, "d d"]
    rows: int
    least_rows: float | None = None

    @cached_property
    def components(self) -> Diagonal | Full:
        """A mixture of one."""
        return mixture_of_one(self.mean, self.scale)

    @property
    def label(self) -> str:
        """With the number of rows that share it."""
        return f"product-of-experts({self.rows})"

    def tensors(self) -> dict[str, Tensor]:
        """Mean, and standard deviations or Cholesky factor."""
        return {"mean": self.mean, "scale": self.scale}

    def config(self) -> dict[str, Any]:
        """How many rows share it, and the effective ones."""
        return {"rows": self.rows, "least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale"], int(config["rows"]), config["least_rows"])


@final
@dataclass(frozen=True)
class ProductOfExpertsSettings(Settings):
    """`p(z) prod_i [q_i(z) / p(z)]` over a group of rows (docs/theory.md, section 5).

    With P_i the precision of q_i that of the product is `I + sum_i (P_i - I)`, and its mean the inverse of that times
    `sum_i P_i mu_i`. Exact if every q_i is the true posterior; the encoder's errors are multiplied by the size of the
    group. It concentrates like 1/n: its draws make one average datum over and over, which is what p(z | X = D) means if
    taken literally.

    Attributes:
        group: row ids of the group; empty means the whole data set. Every row counts once, whatever its weight.
        label: take the rows of this label in place of `group`.
    """

    kind: ClassVar[str] = ProductOfExperts.kind
    about: ClassVar[About] = About(
        "2d numbers", "one pass", "one latent behind a group of rows: p(z | X = D), if the encoder is exact"
    )
    quick: ClassVar[bool] = True
    takes: ClassVar[frozenset[Form]] = GAUSSIANS
    instead_of_parts: ClassVar[str] = NO_AVERAGE
    group: tuple[int, ...] = ()
    label: int | None = None

    def fit(self, task: Task) -> Fit[LatentDistribution]:
        """Multiply the group's posteriors; the prior, and an outcome that says so, where the product is no density.

        Raises:
            UsageError: row ids that do not exist or stand twice, a label that no row has, or both given; or a
                prior that is not N(0, I).
        """
        need_standard(task.prior, f"kind {self.kind}")
        train = task.train
        take = members(train, group=self.group, label=self.label)
        inside = torch.zeros(train.n, dtype=torch.bool)
        inside[take] = True
        n = len(take)
        if train.form == "full":
            return _full(task, inside)
        precision = torch.full((train.d,), float(1 - n), dtype=torch.float64)
        shift = torch.zeros(train.d, dtype=torch.float64)
        total, square = shift.clone(), shift.clone()
        dtype = torch.float32
        for s in train.shards():
            dtype = s.mean.dtype
            mine = s.scale[inside[s.rows]].double().pow(-2)
            precision = precision + mine.sum(0)
            total, square = total + mine.sum(0), square + mine.square().sum(0)
            shift = shift + (mine * s.mean[inside[s.rows]].double()).sum(0)
        # rounding alone leaves about n times 1e-16 here where all posteriors equal the prior
        bad = (precision <= 1e-12 * n).nonzero().flatten().tolist()
        if bad:
            shown = ", ".join(str(j) for j in bad[:5]) + (", ..." if len(bad) > 5 else "")
            return _no_density(task.prior, n, f"{len(bad)} of {train.d} dimensions ({shown})", float(precision[bad[0]]))
        least = float((total.square() / square).min())
        product = ProductOfExperts((shift / precision).to(dtype), precision.rsqrt().to(dtype), n, least)
        return Fit(product, Outcome(message="exact, in closed form"))


def _full(task: Task, inside: Bool[Tensor, " n"]) -> Fit[LatentDistribution]:
    """The product of posteriors with full covariances."""
    n, d = int(inside.sum()), task.train.d
    sums = Natural.of(task.train, inside.double())
    precision = sums.precision - (n - 1) * torch.eye(d, dtype=torch.float64)
    value = torch.linalg.eigvalsh(precision)
    # rounding leaves what the sum leaves, about 1e-16 times its largest entries
    bad = value <= max(1e-12 * n, 1e-14 * float(value[-1]))
    if bool(bad.any()):
        return _no_density(task.prior, n, f"{int(bad.sum())} of {d} principal directions", float(value[0]))
    mean, tril = from_precision(precision, sums.shift)
    product = ProductOfExperts(mean.to(sums.dtype), tril.to(sums.dtype), n, sums.least_rows)
    return Fit(product, Outcome(message="exact, in closed form"))


def _no_density(prior: LatentDistribution, n: int, where: str, precision: float) -> Fit[LatentDistribution]:
    """The prior, and why the product of n posteriors is no distribution."""
    return Fit(
        prior,
        Outcome(
            ok=False,
            message=f"the product of {n} posteriors is no density: its precision in {where} is {precision:.3g}, "
            "because posteriors there are wider than the prior (no exact Gaussian posterior is, under a bounded "
            "likelihood); the prior is returned in its place: train the encoder for longer, or use kind shared-nuts, "
            "which asks the decoder alone",
        ),
    )


def members(posteriors: Posteriors, *, group: tuple[int, ...], label: int | None) -> Int[Tensor, " m"]:
    """Positions of the rows in a group: by row ids, by label, or all of them.

    Raises:
        UsageError: row ids that do not exist or stand twice, a label that no row has, or both given.
    """
    if group and label is not None:
        raise UsageError(f"group and label: expected one of them, got {len(group)} row ids and label {label}")
    if label is not None:
        if posteriors.labels is None:
            raise UsageError(
                f"label: expected labelled rows, got label {label} and data without labels; name rows in group"
            )
        rows = (posteriors.labels == label).nonzero().flatten()
        if not len(rows):
            known = ", ".join(str(v) for v in torch.unique(posteriors.labels).tolist()[:10])
            raise UsageError(f"label: expected a label of the training rows ({known}), got {label}")
        return rows
    if not group:
        return torch.arange(posteriors.n)
    ids = torch.tensor(group, dtype=torch.long)
    if len(torch.unique(ids)) < len(ids):
        raise UsageError("group: expected every row id once, got some of them twice")
    at = posteriors.positions(ids)
    if bool((at < 0).any()):
        missing = ids[at < 0].tolist()
        raise UsageError(
            f"group: expected row ids of the training split, got {len(missing)} others (first: {missing[0]}); "
            "see row_ids of the posteriors"
        )
    return at

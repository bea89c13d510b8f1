"""What log-pool, barycentre and product-of-experts have in common: one Gaussian, from sums over all posteriors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, is_full
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.posteriors import Form, Posteriors, Shard
from zprime.schema import FACTOR, FINITE, POSITIVE, Array, Maybe, Real, Schema

GAUSSIANS: frozenset[Form] = frozenset({"diagonal", "full"})
"""What has a density, of which these averages are made."""

NO_AVERAGE = (
    "this average of mixtures has no closed form; fit gaussian, which matches the moments of mixtures too, or give one "
    "Gaussian a datum"
)
"""What to do where posteriors have several components."""

FLOATS = 1 << 21  # entries of the factors that are worked on at once (16 MB)


@dataclass(frozen=True, repr=False, eq=False)
class Centre(GaussianDistribution):
    """N(mean, diag(scale^2)), or N(mean, scale scale^T) where `scale` is a lower triangular factor."""

    schema: ClassVar[Schema] = Schema(
        {"least_rows": Maybe(Real(0))},
        {"mean": Array({"d": FINITE}), "scale": Array({"d": POSITIVE, "d d": FACTOR})},
    )
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"] | Float[Tensor, "d d"]
    least_rows: float | None = None

    @property
    def components(self) -> Diagonal | Full:
        """A mixture of one."""
        return mixture_of_one(self.mean, self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """Mean, and standard deviations or Cholesky factor."""
        return {"mean": self.mean, "scale": self.scale}

    def config(self) -> dict[str, Any]:
        """The effective rows behind it."""
        return {"least_rows": self.least_rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["mean"], tensors["scale"], config["least_rows"])


def mixture_of_one(mean: Float[Tensor, " d"], scale: Float[Tensor, " d"] | Float[Tensor, "d d"]) -> Diagonal | Full:
    """One Gaussian as a mixture; `scale` is standard deviations or a Cholesky factor."""
    one = torch.zeros(1, dtype=mean.dtype, device=mean.device)
    form: type[Diagonal] | type[Full] = Full if is_full(mean, scale) else Diagonal
    return form(one, mean[None], scale[None])


def averages(
    posteriors: Posteriors, *quantities: Callable[[Shard], Float[Tensor, "b d"]]
) -> tuple[list[Float[Tensor, " d"]], torch.dtype]:
    """Weighted means over all rows of quantities of a shard, float64, and the dtype of the posteriors.

    Quantities that are functions of a module are computed by all processes of a job.
    """
    dtype = next(iter(posteriors.shards())).mean.dtype
    return posteriors.total(_weighted, quantities), dtype


def _weighted(posteriors: Posteriors, s: Shard, quantities: Sequence[Callable[[Shard], Tensor]]) -> list[Tensor]:
    weights = posteriors.log_weights_of(s.rows).exp()
    return [weights @ f(s) for f in quantities]


def means(s: Shard) -> Float[Tensor, "b d"]:
    """Means, float64."""
    return s.mean.double()


def deviations(s: Shard) -> Float[Tensor, "b d"]:
    """Standard deviations, float64."""
    return s.scale.double()


def precisions(s: Shard) -> Float[Tensor, "b d"]:
    """Precisions, float64."""
    return s.scale.double().pow(-2)


def shifts(s: Shard) -> Float[Tensor, "b d"]:
    """Means times precisions, float64."""
    return s.mean.double() * s.scale.double().pow(-2)


def parts(posteriors: Posteriors) -> Iterator[Shard]:
    """All rows in order, so few at a time that work on their factors takes little memory."""
    some = max(1, FLOATS // posteriors.d**2)
    for shard in posteriors.shards():
        for rows in blocks(len(shard.mean), some):
            yield Shard(shard.start + rows.start, shard.mean[rows], shard.scale[rows])


@dataclass(frozen=True)
class Natural:
    """Sums of natural parameters of Gaussians with full covariances, float64.

    Attributes:
        precision: `sum_i w_i P_i`, P_i the inverse covariance of q_i.
        shift: `sum_i w_i P_i mu_i`.
        least_rows: effective rows in the dimension where they are fewest; row i enters with weight w_i (P_i)_jj.
        dtype: of the posteriors.
    """

    precision: Float[Tensor, "d d"]
    shift: Float[Tensor, " d"]
    least_rows: float
    dtype: torch.dtype

    @classmethod
    def of(cls, posteriors: Posteriors, weights: Float[Tensor, " n"]) -> "Natural":
        """The sums over all rows, with these weights; a block of rows at a time."""
        d, dtype = posteriors.d, torch.float32
        precision, eye = torch.zeros(d, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
        shift, total, square = (torch.zeros(d, dtype=torch.float64) for _ in range(3))
        for s in parts(posteriors):
            dtype, w = s.mean.dtype, weights[s.rows]
            kept = w > 0
            scale, mean, w = s.scale[kept].double(), s.mean[kept].double(), w[kept]
            inverse = torch.linalg.solve_triangular(scale, eye.expand_as(scale), upper=False)
            rooted = (inverse * w.sqrt()[:, None, None]).reshape(-1, d)
            precision += rooted.T @ rooted
            white = (inverse @ mean[..., None])[..., 0] * w[:, None]
            shift += (inverse.mT @ white[..., None])[..., 0].sum(0)
            share = w[:, None] * inverse.square().sum(1)
            total, square = total + share.sum(0), square + share.square().sum(0)
        return cls(precision, shift, float((total.square() / square).min()), dtype)


def from_precision(
    precision: Float[Tensor, "d d"], shift: Float[Tensor, " d"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean `P^-1 h` and lower triangular factor of P^-1, for a positive definite P.

    With P = U U^T, U upper triangular, the factor is U^-T: the inverse itself is never made.
    """
    upper = torch.linalg.cholesky(precision.flip(0, 1)).flip(0, 1)
    tril: Tensor = torch.linalg.solve_triangular(upper.T, torch.eye(len(shift), dtype=torch.float64), upper=False)
    return tril @ (tril.T @ shift), tril

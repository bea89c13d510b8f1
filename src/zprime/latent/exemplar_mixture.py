"""The mixture that the kind `exemplars` fits: Gaussians that are posteriors, smoothed by one kernel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, check_matrix, covariances, is_full
from zprime.components import Diagonal, Full, Tilted
from zprime.distribution import LatentDistribution
from zprime.latent.smoothed import CLOSED_FORM, Smoothed
from zprime.schema import FACTOR, FINITE, POSITIVE, WEIGHTS, Array, Real, Schema

FLOATS = 1 << 21  # entries of covariances that are made at once


@final
@dataclass(frozen=True, repr=False, eq=False)
class Exemplars(LatentDistribution):
    """Liu & West's kernel: components `N(a (mu_i - m) + m, a^2 R_i + h^2 S)`, `a = sqrt(1 - h^2)`, R_i of q_i.

    With m and S the mean and covariance of the aggregated posterior the mixture has them too, for every bandwidth h:
    h = 0 is the aggregated posterior, h = 1 one Gaussian. Stored are the posteriors as they were, in `scale`
    their standard deviations or Cholesky factors, m, and in `tril` the Cholesky factor of S; or, shape [d], its
    standard deviations: then the kernel is diagonal, and correlations shrink by a^2.
    """

    kind: ClassVar[str] = "exemplars"
    schema: ClassVar[Schema] = Schema(
        {"bandwidth": Real(0, 1)},
        {
            "mean": Array({"n d": FINITE}),
            "scale": Array({"n d": POSITIVE, "n d d": FACTOR}),
            "centre": Array({"d": FINITE}),
            "tril": Array({"d": POSITIVE, "d d": FACTOR}),
            "weights": Array({"n": WEIGHTS}, "real", optional=True),
        },
    )
    stores_rows: ClassVar[bool] = True
    mean: Float[Tensor, "n d"]
    scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
    centre: Float[Tensor, " d"]
    tril: Float[Tensor, "d d"] | Float[Tensor, " d"]
    bandwidth: float
    weights: Float[Tensor, " n"] | None = None

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @cached_property
    def components(self) -> Diagonal | Full | Smoothed:
        """The mixture that this distribution is, in the dtype of what is stored."""
        h = self.bandwidth
        if h == 1:  # all components are the same
            one = torch.zeros(1, dtype=self.mean.dtype, device=self.mean.device)
            shape: type[Diagonal] | type[Full] = Diagonal if self.tril.ndim == 1 else Full
            return shape(one, self.centre[None], self.tril[None])
        if is_full(self.mean, self.scale):
            return self._full()
        if self.tril.ndim == 1 or h == 0:
            return diagonal_kernel(self)
        mean, scale = self._shrunk()
        dtype = self.mean.dtype
        return Smoothed(self._log_weight(), mean.to(dtype), scale.to(dtype), (h * self.tril.double()).to(dtype))

    def _full(self) -> Full:
        """Full covariances for all components, a block at a time; at h = 0 their factors as they are stored."""
        h, d, mean, scale = self.bandwidth, self.d, *self._shrunk()
        tril = self.tril.double()
        kernel = h**2 * (torch.diag(tril.square()) if tril.ndim == 1 else tril @ tril.T)
        factor = self.scale.clone()
        if h > 0:
            for rows in blocks(len(mean), max(1, FLOATS // d**2)):
                own = covariances(mean[rows], scale[rows])
                factor[rows] = torch.linalg.cholesky(own + kernel).to(factor.dtype)
        return Full(self._log_weight(), mean.to(self.mean.dtype), factor)

    def _log_weight(self) -> Float[Tensor, " n"]:
        n = len(self.mean)
        weights = torch.full((n,), 1 / n, dtype=torch.float64) if self.weights is None else self.weights.double()
        return weights.log().to(self.mean.device)

    def _shrunk(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"] | Float[Tensor, "n d d"]]:
        """A (mu - m) + m and a s, float64."""
        a = math.sqrt(1 - self.bandwidth**2)
        mean = self.mean.double()
        # in this form nothing is rounded at h = 0
        return mean - (1 - a) * (mean - self.centre.double()), a * self.scale.double()

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "the posteriors, smoothed"

    @property
    def label(self) -> str:
        """With the number of rows and the bandwidth."""
        return f"exemplars({len(self.mean)}, h={self.bandwidth:g})"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        return self.components.log_prob(check_matrix("z", z, d=self.d))

    def log_prob_without(
        self, z: Float[Tensor, "n d"], position: Int[Tensor, " n"], datum: Int[Tensor, " k"] | None = None
    ) -> Float[Tensor, " n"]:
        """Log r(z) with one component masked for every point and the rest renormalised; -1 masks none.

        Args:
            z: points.
            position: of the component that is masked for each point; with `datum` the number of a datum, all of whose
                components are.
            datum: what each component is a part of; None where each is a datum of its own.
        """
        r = self.components
        if len(r.mean) == 1:
            return r.log_prob(z)
        if datum is None:
            others, weight = _masked(r, z, position), r.log_weight.double().exp()
            return others - torch.where(position >= 0, torch.log1p(-weight[position.clamp(min=0)]), 0.0)
        weight = r.log_weight.double().exp()
        own = torch.bincount(datum, weight, minlength=int(position.max()) + 1)[position.clamp(min=0)]
        # the n-th components of all data are a mixture of which one component at most belongs to a datum
        order = datum.argsort(stable=True)
        count = torch.bincount(datum)
        nth = torch.arange(len(datum)) - (count.cumsum(0) - count)[datum[order]]
        terms = []
        for n in range(int(count.max())):
            some = order[nth == n]  # in the order of their data
            at = torch.searchsorted(datum[some], position.contiguous()).clamp(max=len(some) - 1)
            terms.append(_masked(_those(r, some), z, torch.where(datum[some][at] == position, at, -1)))
        others = torch.logsumexp(torch.stack(terms), 0) - torch.where(position >= 0, torch.log1p(-own), 0.0)
        return others.masked_fill((position >= 0) & (own > 1 - 1e-12), -torch.inf)  # nothing is left

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws: a row at random, its posterior drawn towards the middle, and the kernel's noise."""
        return self.components.sample(n, rng=rng)

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """Closed form; None for full covariances of more than 1,024 rows, which would take hours."""
        r = self.components
        if isinstance(r, Full) and len(r.mean) > CLOSED_FORM:
            return None
        return r.tilt(mean, scale, draws=draws, rng=rng)

    def tensors(self) -> dict[str, Tensor]:
        """Means, and standard deviations or factors, of the rows; mean and factor of the whole; weights, if unequal."""
        tensors = {"mean": self.mean, "scale": self.scale, "centre": self.centre, "tril": self.tril}
        return tensors if self.weights is None else {**tensors, "weights": self.weights}

    def config(self) -> dict[str, Any]:
        """The bandwidth."""
        return {"bandwidth": self.bandwidth}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors and bandwidth."""
        return cls(
            tensors["mean"],
            tensors["scale"],
            tensors["centre"],
            tensors["tril"],
            float(config["bandwidth"]),
            tensors.get("weights"),
        )


def diagonal_kernel(r: Exemplars) -> Diagonal:
    """The mixture with the diagonal of S for S, of posteriors with standard deviations."""
    mean, scale = r._shrunk()
    kernel = (r.tril if r.tril.ndim == 1 else r.tril.square().sum(1).sqrt()).double()
    scale = (scale.square() + (r.bandwidth * kernel).square()).sqrt()
    return Diagonal(r._log_weight(), mean.to(r.mean.dtype), scale.to(r.mean.dtype))


def _masked(r: Diagonal | Full | Smoothed, z: Float[Tensor, "m d"], position: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Log of the weighted sum of all components but one for every point, or -1; not renormalised."""
    if isinstance(r, Smoothed):
        return r.value(z, leave_out=position)
    return r.prepared.log_prob(z, leave_out=position)


def _those(r: Diagonal | Full | Smoothed, some: Int[Tensor, " k"]) -> Diagonal | Full | Smoothed:
    """Some of the components, with the weights that they have."""
    weight, mean = r.log_weight[some], r.mean[some]
    if isinstance(r, Full):
        return Full(weight, mean, r.scale_tril[some])
    if isinstance(r, Smoothed):
        return Smoothed(weight, mean, r.scale[some], r.tril)
    return Diagonal(weight, mean, r.scale[some])

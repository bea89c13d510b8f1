"""z' as a function of random numbers, for every latent distribution that is one Gaussian or a mixture of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import memory
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.errors import UsageError
from zprime.latent import Active, Affine, Conditional, Defensive, Exemplars, Kronecker
from zprime.latent.smoothed import Smoothed
from zprime.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class FromNoise:
    """The map from a uniform number and standard normal numbers to z' (the inverse CDF picks the component).

    `z' = mean[k] + scale[k] * e + factor[which[k]] f`, where k is the number of cumulative weights that are at most
    the uniform number, and e and f are the first d and the other normal numbers. Component k has the covariance
    `diag(scale[k]^2) + F F^T`, with F the factor that `which[k]` names, or none where that is -1.

    Attributes:
        cumulative: shares of the components, summed up; the last is 1. float64.
        mean, scale: shape [k, d], float32.
        factor: shape [f, d, r], float32; None where all covariances are diagonal.
        which: shape [k], int64; None beside no factors.
    """

    cumulative: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"]
    factor: Float[Tensor, "f d r"] | None = None
    which: Int[Tensor, " k"] | None = None

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @property
    def columns(self) -> int:
        """How many normal numbers one z' takes: d, and one for each column of a factor."""
        return self.d + (0 if self.factor is None else self.factor.shape[2])

    def tensors(self) -> dict[str, Tensor]:
        """All arrays that the map consists of."""
        plain = {"cumulative": self.cumulative, "mean": self.mean, "scale": self.scale}
        if self.factor is None or self.which is None:
            return plain
        return {**plain, "factor": self.factor, "which": self.which}

    def __call__(self, uniform: Float[Tensor, " n"], normal: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """Draws of z' from uniform numbers in [0, 1) and standard normal numbers, `columns` of these each.

        It consists of comparisons, sums, look-ups and products alone, which every runtime of ONNX has.
        """
        k = (uniform[:, None] >= self.cumulative[:-1]).sum(1)
        z = self.mean[k] + self.scale[k] * normal[:, : self.d]
        if self.factor is None or self.which is None:
            return z
        f, which = normal[:, self.d :], self.which[k]
        if len(self.factor) == 1:  # one for all: no copy of it for each draw
            return z + (which >= 0).to(z.dtype)[:, None] * (f @ self.factor[0].T)
        with_none = torch.cat([self.factor, torch.zeros_like(self.factor[:1])])  # -1 is the last
        return z + (with_none[which + (which < 0) * len(with_none)] @ f[:, :, None])[:, :, 0]


def from_noise(r: LatentDistribution) -> FromNoise:
    """The map from random numbers to draws of `r`.

    Raises:
        UsageError: `r` is neither a Gaussian nor a mixture of Gaussians, nor one of these with a share of the prior, in
            other coordinates or on some dimensions.
    """
    parts = _parts(r)
    cumulative = parts.log_weight.exp().cumsum(0)
    cumulative = cumulative / cumulative[-1]  # by the very sum, so that no rounding picks a last component of weight 0
    mean, scale = parts.mean.float(), parts.scale.float()
    if parts.factor is None:
        return FromNoise(cumulative, mean, scale)
    return FromNoise(cumulative, mean, scale, parts.factor.float(), parts.which)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Components as `FromNoise` has them, float64, with log-weights."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"]
    factor: Float[Tensor, "f d r"] | None = None
    which: Int[Tensor, " k"] | None = None

    def moved(self, loc: Float[Tensor, " d"], scale: Float[Tensor, " d"] | Float[Tensor, "d d"]) -> "_Parts":
        """Of `loc + scale z'`; by a matrix, every component gets a factor of its own."""
        if scale.ndim == 2:
            factors = scale * self.scale[:, None]
            if self.factor is not None and self.which is not None:
                own = torch.where((self.which >= 0)[:, None, None], self.factor[self.which], 0.0)
                factors = torch.cat([factors, scale @ own], 2)
            mean, none = loc + self.mean @ scale.T, torch.zeros_like(self.scale)
            return _Parts(self.log_weight, mean, none, factors, torch.arange(len(mean)))
        factor = None if self.factor is None else scale[:, None] * self.factor
        return replace(self, mean=loc + scale * self.mean, scale=scale * self.scale, factor=factor)

    def among(self, dims: Sequence[int], d: int) -> "_Parts":
        """Of z' in `dims` of `d` dimensions, with N(0, 1) in each of the others."""
        at, k = list(dims), len(self.mean)
        mean = torch.zeros(k, d, dtype=torch.float64)
        scale = torch.ones(k, d, dtype=torch.float64)
        mean[:, at], scale[:, at] = self.mean, self.scale
        if self.factor is None:
            return replace(self, mean=mean, scale=scale)
        factor = torch.zeros(len(self.factor), d, self.factor.shape[2], dtype=torch.float64)
        factor[:, at] = self.factor
        return replace(self, mean=mean, scale=scale, factor=factor)


def _parts(r: LatentDistribution) -> _Parts:
    if isinstance(r, Affine):
        return _parts(r.base).moved(r.loc.cpu().double(), r.scale.cpu().double())
    if isinstance(r, Active):
        return _parts(r.base).among(r.dims, r.d)
    if isinstance(r, Defensive):
        share = torch.tensor([1 - r.epsilon, r.epsilon], dtype=torch.float64)
        return _joined([_parts(r.base), _parts(r.prior)], share.log())
    if isinstance(r, Conditional):
        return _joined([_parts(base) for base in r.bases], r.log_weight.cpu().double())
    if isinstance(r, Kronecker):
        memory.need(12 * r.d**2, f"export: a factor of {r.d:,} x {r.d:,} numbers", "take gaussian")
        factor = torch.kron(r.channels.cpu().double(), r.positions.cpu().double())
        return _full(torch.zeros(1), r.mean[None], factor[None])
    if isinstance(r, GaussianDistribution | Exemplars):
        return _of_components(r.components)
    raise UsageError(
        f"export: {r.label} is neither a Gaussian nor a mixture of Gaussians, and has no sampler of a few lines; take "
        "another latent distribution, such as gaussian, mixture or exemplars, or save it for zprime: model.save(path)"
    )


def _of_components(c: Diagonal | Full | LowRank | Smoothed) -> _Parts:
    if isinstance(c, Full):
        return _full(c.log_weight, c.mean, c.scale_tril)
    log_weight, mean, scale = (t.cpu().double() for t in (c.log_weight, c.mean, c.scale))
    if isinstance(c, Diagonal):
        return _Parts(log_weight, mean, scale)
    if isinstance(c, LowRank):
        return _Parts(log_weight, mean, scale, c.factor.cpu().double(), torch.arange(len(mean)))
    one = torch.zeros(len(mean), dtype=torch.long)  # the kernel's factor is that of all components
    return _Parts(log_weight, mean, scale, c.tril.cpu().double()[None], one)


def _full(log_weight: Float[Tensor, " k"], mean: Float[Tensor, "k d"], tril: Float[Tensor, "k d d"]) -> _Parts:
    log_weight, mean, tril = (t.cpu().double() for t in (log_weight, mean, tril))
    return _Parts(log_weight, mean, torch.zeros_like(mean), tril, torch.arange(len(mean)))


def _joined(parts: Sequence[_Parts], log_share: Float[Tensor, " p"]) -> _Parts:
    """The mixture of mixtures, with these shares of each; factors with fewer columns get columns of zeros."""
    shares = zip(parts, log_share, strict=True)
    log_weight = torch.cat([s + p.log_weight - p.log_weight.logsumexp(0) for p, s in shares])
    mean, scale = torch.cat([p.mean for p in parts]), torch.cat([p.scale for p in parts])
    columns = max((p.factor.shape[2] for p in parts if p.factor is not None), default=0)
    if not columns:
        return _Parts(log_weight, mean, scale)
    factors, which, before = [], [], 0
    for p in parts:
        if p.factor is None or p.which is None:
            which.append(torch.full((len(p.mean),), -1))
            continue
        factors.append(torch.nn.functional.pad(p.factor, (0, columns - p.factor.shape[2])))
        which.append(torch.where(p.which < 0, -1, p.which + before))
        before += len(p.factor)
    return _Parts(log_weight, mean, scale, torch.cat(factors), torch.cat(which))

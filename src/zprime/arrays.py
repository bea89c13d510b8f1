"""Checks and small numerics on arrays that every other file uses."""

import math
from collections.abc import Iterator
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.errors import ArrayError, NumericalError, UsageError

LOG_2PI = math.log(2 * math.pi)
LOOKED_AT = 1 << 20  # numbers at a time that are compared with something
SEARCHED = 1 << 12  # rows at a time among which those are looked for that are not finite
WIDE = 1024  # dimensions up to which what is drawn or scored does not depend on them


def need_positive(name: str, value: object) -> None:
    """Raise `UsageError` for what is not a number above 0."""
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise UsageError(f"{name}: expected a number above 0, got {value!r}")


def blocks(n: int, size: int) -> Iterator[slice]:
    """Cut `range(n)` into slices of at most `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def in_proportion(count: int, d: int) -> int:
    """`count`, and fewer above 1,024 dimensions: so many that they are as many numbers."""
    return count * WIDE // max(WIDE, d)


def check_matrix(name: str, x: Tensor, *, d: int | None = None) -> Tensor:
    """Return `x` if it is a finite, non-empty floating-point matrix, shape [n, d].

    Raises:
        ArrayError: says which of these fails, with the shape, or the first row and column.
    """
    want = f"[n, {d if d is not None else 'd'}]"
    if x.ndim != 2 or (d is not None and x.shape[1] != d):
        raise ArrayError(f"{name}: expected shape {want}, got {list(x.shape)}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ArrayError(f"{name}: expected at least one row and one column, got {list(x.shape)}")
    if not x.is_floating_point():
        raise ArrayError(f"{name}: expected floating-point numbers, got {x.dtype}; use x.float()")
    check_finite(name, x)
    return x


def count_columns(x: Float[Tensor, "n *datum"]) -> Bool[Tensor, " c"] | None:
    """Which columns of a table hold counts (whole numbers, 0 or more); None unless 90 % do and some entry exceeds 1."""
    if x.ndim != 2 or not len(x):
        return None
    whole, above = (torch.full(x.shape[1:], value, dtype=torch.bool, device=x.device) for value in (True, False))
    for part in _parts(x):
        whole &= ((part >= 0) & (part == part.round())).all(0)
        if bool(whole.double().mean() < 0.9):
            return None
        above |= (part > 1).any(0)
    return whole if bool((whole & above).any()) else None


def is_binary(x: Float[Tensor, "n *datum"]) -> bool:
    """Whether every entry is 0 or 1."""
    return all(bool(((part == 0) | (part == 1)).all()) for part in _parts(x))


def _parts(x: Float[Tensor, "n *datum"]) -> Iterator[Float[Tensor, "k *datum"]]:
    """The rows, so few at a time that what is made of them is small."""
    for block in blocks(len(x), max(1, LOOKED_AT // max(1, x[:1].numel()))):
        yield x[block]


def check_finite(name: str, x: Tensor) -> None:
    """Raise `ArrayError` naming the first rows of `x` that hold NaN or infinity."""
    if not x.is_floating_point():
        return
    # a finite sum means finite entries; a sum that is not finite may have overflowed, so rows are looked at one by one
    if bool(torch.isfinite(x.sum())):
        return
    parts = [~torch.isfinite(x[b].flatten(1)).all(dim=1) for b in blocks(len(x), SEARCHED)] if x.ndim > 1 else []
    bad = torch.cat(parts) if parts else ~torch.isfinite(x)
    rows = bad.nonzero().flatten().tolist()
    if rows:
        shown = ", ".join(str(r) for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
        values = x[rows[0]].flatten()
        value = values[~torch.isfinite(values)][0].item()
        raise ArrayError(
            f"{name}: expected finite numbers, got {value} in {len(rows)} of {x.shape[0]} rows "
            f"(row {shown}); drop or impute these rows"
        )


def is_full(mean: Tensor, scale: Tensor) -> bool:
    """Whether a scale is a lower triangular Cholesky factor, [..., d, d] for means [..., d]."""
    return scale.ndim == mean.ndim + 1


def row_major(matrix: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
    """The matrix laid out row by row, as a saved one is.

    Cholesky factors come column by column, and on some machines the last bits of a product depend on that: what was
    fitted would give other draws than the same read again.
    """
    return matrix.contiguous()


def times(scale: Tensor, noise: Float[Tensor, "*n d"]) -> Tensor:
    """Standard normal numbers given this scale: by standard deviations, or by a Cholesky factor."""
    if not is_full(noise, scale):
        return scale * noise
    if scale.ndim > 3 and scale.shape[-3] == 1:  # one factor for many numbers
        return noise @ scale.squeeze(-3).mT
    return (scale @ noise[..., None])[..., 0]


def variances(
    mean: Float[Tensor, "*n d"], scale: Float[Tensor, "*n d"] | Float[Tensor, "*n d d"]
) -> Float[Tensor, "*n d"]:
    """Variance in every dimension, in the dtype of the scale."""
    return scale.square().sum(-1) if is_full(mean, scale) else scale.square()


def covariances(
    mean: Float[Tensor, "*n d"], scale: Float[Tensor, "*n d"] | Float[Tensor, "*n d d"]
) -> Float[Tensor, "*n d d"]:
    """Covariance matrices, float64."""
    wide = scale.double()
    return wide @ wide.mT if is_full(mean, scale) else torch.diag_embed(wide.square())


def log_volume(
    mean: Float[Tensor, "*n d"], scale: Float[Tensor, "*n d"] | Float[Tensor, "*n d d"]
) -> Float[Tensor, "*n"]:
    """Half the log-determinant of the covariance."""
    return (scale.diagonal(dim1=-2, dim2=-1) if is_full(mean, scale) else scale).log().sum(-1)


def whitened(gap: Float[Tensor, "*n d"], scale: Tensor) -> Tensor:
    """The inverse of `times`: a difference from the mean in units of the scale."""
    if not is_full(gap, scale):
        return gap / scale
    if scale.ndim > 3 and scale.shape[-3] == 1:
        together: Tensor = torch.linalg.solve_triangular(scale.squeeze(-3), gap.mT, upper=False)
        return together.mT
    solved: Tensor = torch.linalg.solve_triangular(scale, gap[..., None], upper=False)
    return solved[..., 0]


def gaussian_log_prob(
    z: Float[Tensor, "*n d"], mean: Float[Tensor, "*#n d"], scale: Float[Tensor, "*#n d"] | Float[Tensor, "*#n d d"]
) -> Float[Tensor, "*n"]:
    """Log-density in nats of Gaussians, row by row: log N(z; mean, diag(scale^2)), or N(z; mean, scale scale^T).

    In the inputs' dtype; in float64 where float32 cannot hold the squares.
    """
    d = z.shape[-1]
    if is_full(mean, scale):
        u = whitened(z - mean, scale)
        return -0.5 * (d * LOG_2PI + u.square().sum(-1)) - log_volume(mean, scale)
    u = (z - mean) / scale
    log_prob = -0.5 * (d * LOG_2PI + u.square().sum(-1)) - scale.log().sum(-1)
    if log_prob.dtype == torch.float64 or bool(torch.isfinite(log_prob).all()):
        return log_prob
    return gaussian_log_prob(z.double(), mean.double(), scale.double())


def weighed(log_terms: Float[Tensor, "*m k"], log_weight: Float[Tensor, " k"]) -> Float[Tensor, "*m k"]:
    """Terms plus the log-weights of their components; a component of weight 0 adds nothing, whatever its term."""
    total, empty = log_terms + log_weight, log_weight == -torch.inf
    return total.masked_fill(empty, -torch.inf) if bool(empty.any()) else total


def standard_log_prob(z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """Log-density in nats of N(0, I), in float64."""
    z = z.double()
    return -0.5 * (z.shape[-1] * LOG_2PI + z.square().sum(-1))


def standard_kl(mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """KL(N(mean, scale^2) || N(0, 1)) in nats, per row and dimension (Kingma & Welling 2014, B).

    In the inputs' dtype; in float64 where float32 cannot hold the squares.
    """
    kl = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
    if kl.dtype == torch.float64 or bool(torch.isfinite(kl).all()):
        return kl
    return standard_kl(mean.double(), scale.double())


def full_kl(mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d d"]) -> Float[Tensor, " n"]:
    """KL(N(mean, scale scale^T) || N(0, I)) in nats, per row, in the inputs' dtype; the factor is lower triangular."""
    trace = scale.square().sum((-2, -1))
    return 0.5 * (trace + mean.square().sum(1) - mean.shape[1]) - log_volume(mean, scale)


def standard_kl_rows(
    mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"]
) -> Float[Tensor, " n"]:
    """KL(q_i || N(0, I)) in nats, per row, float64."""
    mean, scale = mean.double(), scale.double()
    if not is_full(mean, scale):
        return standard_kl(mean, scale).sum(1)
    return full_kl(mean, scale)


def cholesky(name: str, covariance: Float[Tensor, "*k d d"]) -> Float[Tensor, "*k d d"]:
    """Cholesky factors of covariances.

    Raises:
        NumericalError: a covariance is not positive definite in double precision.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()):
        var = covariance.diagonal(dim1=-2, dim2=-1)
        raise NumericalError(
            f"{name}: a covariance is not positive definite in double precision (variances from "
            f"{float(var.min()):.1e} to {float(var.max()):.1e}); drop rows that lie far from "
            "all others, or use diagonal covariances"
        )
    return factor

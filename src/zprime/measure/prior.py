"""What measures ask of the prior p(z): its log-density, draws, and the KL from it.

For N(0, I) these are cheap closed forms; any other prior is asked for them by its own methods, where it has them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import distribution
from zprime.arrays import standard_kl, standard_log_prob
from zprime.distribution import LatentDistribution, is_standard


def need_standard(prior: LatentDistribution | None, what: str) -> None:
    """Refuse a prior other than N(0, I), for a closed form that is known for N(0, I) alone; None stands for N(0, I).

    Raises:
        UsageError: it is another one.
    """
    if prior is not None:
        distribution.need_standard(prior, what)


def prior_log_prob(prior: LatentDistribution | None, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """Log p(z) in nats, float64."""
    if prior is None or is_standard(prior):
        return standard_log_prob(z)
    return prior.log_prob(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])


def prior_sample(
    prior: LatentDistribution | None, shape: tuple[int, int], *, dtype: torch.dtype, rng: torch.Generator
) -> Float[Tensor, "n d"]:
    """Draws of p in a precision; `shape` is [n, d]."""
    if prior is None or is_standard(prior):
        return torch.randn(shape, generator=rng, dtype=dtype)
    return prior.sample(shape[0], rng=rng).to(dtype)


def prior_kl(
    prior: LatentDistribution | None, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]
) -> Float[Tensor, "n d"]:
    """KL(N(mean, scale^2) || p) in nats, float64, by row and dimension.

    Raises:
        UsageError: the prior is not N(0, I).
    """
    need_standard(prior, "KL(q||p)")
    return standard_kl(mean.double(), scale.double())

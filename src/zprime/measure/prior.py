"""What measures ask of the prior p(z): its log-density, draws, the KL from it, its width, and tilts by it.

For N(0, I) these are cheap closed forms. Any other prior is asked for its log-density and its draws, and what has no
closed form under it is an average over draws of the posteriors.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import is_full, standard_kl_rows, standard_log_prob, times
from zprime.components import Tilted
from zprime.distribution import GaussianDistribution, LatentDistribution, is_standard
from zprime.latent.affine import Affine
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

WIDTH = 10_000
"""Draws that the width of a prior is measured at."""
KL_DRAWS = 16


def closed(prior: LatentDistribution | None) -> bool:
    """Whether what is asked about the prior has closed forms: it is N(0, I), for which None stands too."""
    return prior is None or is_standard(prior)


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


def prior_width(prior: LatentDistribution | None, d: int) -> Float[Tensor, " d"]:
    """Standard deviation of p in each dimension, float64; that of 10,000 draws where p is not N(0, I)."""
    if prior is None or is_standard(prior):
        return torch.ones(d, dtype=torch.float64)
    return prior.sample(WIDTH, rng=stream(0, "width of the prior")).double().std(0)


def prior_kl(
    prior: LatentDistribution | None, posteriors: MemoryPosteriors, *, rng: torch.Generator
) -> Float[Tensor, " n"]:
    """KL(q_i||p) of every row in nats, float64: in closed form for N(0, I), else the mean over 16 draws of the row.

    Where the posterior of a datum has several components, by draws too: of each component, with the density of all.
    """
    if (prior is None or is_standard(prior)) and posteriors.datum is None:
        return standard_kl_rows(posteriors.mean, posteriors.scale)
    z = posteriors.draw(rng=rng, draws=KL_DRAWS)
    return (posteriors.own_log_prob(z) - prior_log_prob(prior, z)).reshape(KL_DRAWS, -1).mean(0)


def tilt(
    prior: LatentDistribution | None,
    r: LatentDistribution,
    mean: Float[Tensor, "m d"],
    scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
    *,
    draws: int,
    rng: torch.Generator,
) -> Tilted | None:
    """Log E_q[r/p] and draws of q_r for q = N(mean, scale^2); None where no closed form is known.

    Scales may be Cholesky factors, [m, d, d]: then what is a Gaussian or a mixture of Gaussians has closed forms.
    `LatentDistribution.tilt` has them for p = N(0, I). For another prior there is one case: r = p, whose q_r is q.
    """
    if prior is None or is_standard(prior):
        if is_full(mean, scale) and not isinstance(r, GaussianDistribution | Affine):
            return None
        return r.tilt(mean, scale, draws=draws, rng=rng)
    if r is not prior:
        return None
    noise = torch.randn(len(mean), draws, mean.shape[1], generator=rng, dtype=mean.dtype, device=mean.device)
    return Tilted(torch.zeros(len(mean), dtype=torch.float64), mean[:, None] + times(scale[:, None], noise))

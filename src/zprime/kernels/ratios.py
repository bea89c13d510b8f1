"""Sums of E_q[r_k/p] over the components of a mixture, for any number of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, weighed
from zprime.kernels.mixture import Ratio

PANEL = 1 << 16  # components of a panel
ROWS = 64  # posteriors beside them


@torch.no_grad()
def log_ratio_sums(
    ratio: Ratio,
    posteriors: tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]],
    components: tuple[Float[Tensor, " n"], Float[Tensor, "n d"], Float[Tensor, "n d"]],
    *,
    groups: tuple[Int[Tensor, " m"], Int[Tensor, " n"]] | None = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Log sum_k w_k E_{q_i}[r_k/p] for every i, and the same over the components of the posterior's own group alone.

    Terms of one panel of components and `ROWS` posteriors are held at a time.

    Args:
        ratio: `diagonal_ratio_form` of these posteriors and components.
        posteriors: means and standard deviations of the q_i.
        components: log-weights, means and standard deviations of the r_k.
        groups: of each posterior, and of each component. Components of the posterior's group are left out of the first
            sum, and are the second one, which is log 0 without groups.

    Returns:
        Both in nats, float64, shape [m].
    """
    (mu, s), (log_weight, mean, scale) = posteriors, components
    others, own = torch.full((2, len(mu)), -torch.inf, dtype=torch.float64, device=mu.device)
    for some in blocks(len(mean), PANEL):
        w, m, t = log_weight[some].to(mu.dtype), mean[some].to(mu.dtype), scale[some].to(mu.dtype)
        for rows in blocks(len(mu), ROWS):
            terms = weighed(ratio(mu[rows], s[rows], m, t), w).double()
            if groups is not None:
                same = groups[0][rows, None] == groups[1][some]
                if bool(same.any()):
                    theirs = torch.logsumexp(terms.masked_fill(~same, -torch.inf), 1)
                    own[rows] = torch.logaddexp(own[rows], theirs)
                    terms.masked_fill_(same, -torch.inf)
            others[rows] = torch.logaddexp(others[rows], torch.logsumexp(terms, 1))
    return others, own

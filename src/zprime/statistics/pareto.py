"""Pareto k-hat of importance weights (Vehtari et al. 2024), for many rows at once."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 10 * torch.finfo(torch.float64).eps
LEAST = 25  # draws a row: a tail of five


def pareto_khat(log_weights: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Shape of the generalised Pareto distribution that fits each row's largest weights.

    The largest 3 sqrt(k) of k weights (a fifth of them up to 225 draws), by the empirical Bayes fit of Zhang & Stephens
    (2009) with the prior of Vehtari et al.: the same numbers as arviz-stats' `psislw`, in one pass over all rows and
    not a call a row (1 ms each). -inf where the largest weights are all equal: there is no tail; +inf where so few
    weights differ from zero that none can be fitted.

    Args:
        log_weights: of each row's draws, up to a constant a row; below 25 draws k-hat is NaN.
    """
    k = log_weights.shape[1]
    count = math.floor(3 * math.sqrt(k)) if k > 225 else k // 5
    if k < LEAST:
        return torch.full_like(log_weights[:, 0], torch.nan)
    top = log_weights.double().topk(count + 1, dim=1).values
    top = (top - top[:, :1]).exp()
    tail = (top[:, :count] - top[:, count:]).flip(1)  # smallest first
    quartile, largest = tail[:, int(count / 4 + 0.5) - 1, None], tail[:, -1:]
    m = 30 + int(math.sqrt(count))
    grid = 1 - torch.sqrt(m / (torch.arange(1, m + 1, dtype=torch.float64, device=tail.device) - 0.5))
    b = grid / (3 * quartile) + 1 / largest
    shape = torch.log1p(-b[..., None] * tail[:, None]).mean(2)
    log_likelihood = count * (torch.log(-b / shape) - shape - 1)
    weight = torch.softmax(log_likelihood, 1)
    weight = weight.masked_fill(weight < EPS, 0.0)
    b = (weight * b).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    khat = torch.log1p(-b * tail).mean(1)
    khat = (count * khat + 10 * 0.5) / (count + 10)
    khat = khat.nan_to_num(torch.inf)
    return torch.where(top[:, 0] - top[:, count - 1] < torch.finfo(torch.float64).tiny, -torch.inf, khat)

"""Which rows to keep as exemplars, and with which weights: at random, medoids, or a sparse mixing distribution."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.components import Diagonal
from zprime.kernels import diagonal_log_ratio
from zprime.latent.selection import EPSILONS, Codes
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.statistics.kmeans import seeds

NPMLE_STEPS = 60
PAIRS = 1 << 22
TINY = 1e-9  # a weight below so many times the equal one counts as none


@dataclass(frozen=True)
class Subset:
    """Positions of the rows that are kept, in ascending order, and their weights.

    Attributes:
        rows: positions.
        weights: adding up to 1, or None for equal ones.
        steps: EM steps that the weights took, where they did.
        trace: name -> one number a step.
    """

    rows: Int[Tensor, " k"]
    weights: Float[Tensor, " k"] | None
    steps: int
    trace: dict[str, list[float]]

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " k"],
        weights: Float[Tensor, " k"] | None,
        *,
        steps: int = 0,
        trace: dict[str, list[float]] | None = None,
    ) -> "Subset":
        """Sort and normalise."""
        order = rows.argsort()
        if weights is not None:
            weights = (weights / weights.sum())[order]
        return cls(rows[order], weights, steps, trace or {})


def at_random(data: MemoryPosteriors, k: int, *, rng: torch.Generator) -> Subset:
    """`k` data without replacement, with all their rows, whose weights are renormalised."""
    rows = torch.randperm(data.n, generator=rng)[:k] if data.datum is None else data.pick(k, rng=rng)
    return Subset.of(rows, None if data.weights is None else data.weights[rows])


def k_medoids(
    data: MemoryPosteriors, k: int, whiten: Float[Tensor, "d d"], *, rng: torch.Generator, iterations: int = 25
) -> Subset:
    """`k` rows in the middle of as many clusters, each weighted by its cluster's part of the rows.

    Squared distances between whitened means; k-means++ seeds, then Voronoi iterations (Park & Jun 2009). The medoid of
    a cluster, under squared distance, is the member nearest to the cluster's mean. No iteration raises the mean
    distance; clusters that lose all rows are dropped.
    """
    x = data.mean.double() @ whiten.T
    x = x - x.mean(0)
    weight = data.log_weights.exp()
    some = torch.randperm(len(x), generator=rng)[: max(10 * k, 2000)]
    start = int(torch.multinomial(weight[some], 1, generator=rng))
    medoids = some[torch.tensor(seeds(x[some], k, first=start, rng=rng, weight=weight[some]))]
    owner, _ = _nearest(x, x[medoids])
    for _ in range(iterations):
        mass = torch.zeros(len(medoids), dtype=torch.float64).index_add_(0, owner, weight)
        centre = torch.zeros(len(medoids), x.shape[1], dtype=torch.float64).index_add_(0, owner, weight[:, None] * x)
        gap = (x - (centre / mass.clamp(min=1e-300)[:, None])[owner]).square().sum(1)
        closest = torch.full((len(medoids),), torch.inf, dtype=torch.float64).scatter_reduce_(0, owner, gap, "amin")
        first = torch.full((len(medoids),), data.n, dtype=torch.long)
        hit = (gap == closest[owner]).nonzero().flatten()
        first.scatter_reduce_(0, owner[hit], hit, "amin")
        new = torch.where(first < data.n, first, medoids)
        if bool((new == medoids).all()):
            break
        medoids = new
        owner, _ = _nearest(x, x[medoids])
    mass = torch.zeros(len(medoids), dtype=torch.float64).index_add_(0, owner, weight)
    return Subset.of(medoids[mass > 0], mass[mass > 0])


def _nearest(x: Float[Tensor, "n d"], y: Float[Tensor, "k d"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Which of `y` is nearest to each of `x` (the first of equals), and the squared distance."""
    owner = torch.empty(len(x), dtype=torch.long)
    distance = torch.empty(len(x), dtype=torch.float64)
    square = y.square().sum(1)
    for rows in blocks(len(x), max(1, PAIRS // len(y))):
        gap = square - 2 * x[rows] @ y.T
        distance[rows], owner[rows] = gap.min(1)
        distance[rows] += x[rows].square().sum(1)
    return owner, distance.clamp_(min=0)


def reweighed(
    e: Float[Tensor, "n k"], mass: Float[Tensor, " n"], weight: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " n"]]:
    """One step of EM on mixing weights alone, `w_k <- sum_i mass_i w_k E_ik / sum_l w_l E_il`; and what each row gets.

    Args:
        e: E_ik, each row in units of its own.
        mass: weights of the rows, adding up to 1.
        weight: of the components, adding up to 1.

    Returns:
        The new weights, and `sum_l w_l E_il` under the old ones. A row where that is 0 in float64 leaves them as they
        are.
    """
    explained = e @ weight
    seen = explained > 0
    pull = torch.where(seen, mass / explained.clamp(min=1e-300), 0.0)
    weight = weight * (pull @ e + torch.where(seen, 0.0, mass).sum())
    return weight / weight.sum(), explained


def npmle(
    data: MemoryPosteriors,
    components: Diagonal,
    k: int,
    codes: Codes,
    *,
    rng: torch.Generator,
    progress: Progress = silent,
) -> Subset:
    """Nonparametric maximum likelihood of the mixing weights on fixed components, stopped early.

    docs/theory.md, section 4.
    `w_k <- mean_i w_k E_ik / sum_l w_l E_il` with `E_ik = E_{q_i}[r_k/p]` for component r_k, made from row k, and
    `E_ii = 0`: no row explains itself. No step lowers `mean_i log sum_l w_l E_il`. Its limit is discrete, so the step
    with the best ELBO gain on the selection split is taken (with the best epsilon).

    Args:
        data: the rows, with the weights to start from.
        components: one for each of them.
        k: keep the `k` largest weights (of equal ones some at random); 0 keeps all above 0.
        codes: of the selection split.
        rng: for the choice among equal weights.
        progress: called once a step.
    """
    mass = data.log_weights.exp()
    if data.n < 2:
        return Subset.of(torch.arange(data.n), mass)
    # above a scale of 1, the prior's, E may be infinite: that proves this posterior inexact and says nothing of weights
    mean, scale = data.mean.double(), data.scale.double().clamp(max=1)
    m, t = components.mean.double(), components.scale.double()
    e = torch.cat([diagonal_log_ratio(mean[b], scale[b], m, t) for b in blocks(data.n, 256)])
    e.fill_diagonal_(-torch.inf)
    peak = e.amax(1, keepdim=True)
    e = e.sub_(peak).exp_()
    some = max(1, PAIRS // (data.n * data.d))
    density = torch.cat([((codes.z[b, None] - m) / t).square_().sum(2) for b in blocks(len(codes.z), some)])
    density.add_(2 * t.log().sum(1) + data.d * LOG_2PI).mul_(-0.5)
    top = density.amax(1, keepdim=True)
    density = density.sub_(top).exp_()
    trace: dict[str, list[float]] = {"likelihood": [], "gain": []}
    weight = mass
    best = (-math.inf, weight, 0)
    for step in range(NPMLE_STEPS + 1):
        progress("exemplars: weights", step, NPMLE_STEPS)
        log_r = (density @ weight).log() + top[:, 0]
        gain = max(codes.gain(log_r, epsilon).mean for epsilon in EPSILONS)
        following, explained = reweighed(e, mass, weight)
        trace["gain"].append(gain)
        seen = explained > 0
        trace["likelihood"].append(float((mass[seen] * (explained[seen].log() + peak[seen, 0])).sum()))
        if gain > best[0]:
            best = (gain, weight, step)
        weight = following
    _, weight, steps = best
    order = torch.randperm(data.n, generator=rng)
    order = order[weight[order].argsort(descending=True, stable=True)]
    kept = order[weight[order] > TINY / data.n]
    kept = kept[:k] if k else kept
    return Subset.of(kept, weight[kept], steps=steps, trace=trace)

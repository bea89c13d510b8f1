"""The joint gain: what a density of whole grids says more than one of each position (docs/theory.md, section 10).

Held-out mean of `log r_whole(z) - sum_j log r_j(z_j)`. All densities are fitted to training data, each sort's best is
taken on the selection split, and the held-out split is opened once. Whole ones are Gaussian copulas over the r_j of
positions: what an r_j gets wrong, r_whole gets wrong likewise, so that only what positions tell of each other is left.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.latent.factors import Matrix, RowsAndNoise, Scatter, factor_analysis
from zprime.latent.selection import TIE
from zprime.statistics.design import EQUAL, Design
from zprime.statistics.estimate import Estimate, exact, mean_estimate, skew_checked

UNIT = "nats per grid"
LEAST = 1e-3  # standard deviation of a position, at least, in units of its channel: corners may be all but constant
CHANNELS = 64  # up to which positions have covariances of channels
OWN = 5  # data a channel, from which each position has a covariance of its own
DENSE = 512  # numbers of a grid up to which a full covariance is tried, and positions up to which Kronecker's is
RANKS = (1, 2, 4, 8, 16, 32, 64)
WAIT = 4  # the rank from which a rank that is no better than the best so far is the last one
ITERATIONS = 50
MIXED = 4  # components of a mixture of one number
MIXED_ROWS = 100  # data, at least, for such mixtures
MIXED_NUMBERS = 1 << 20  # that they are fitted to, at most
HELD = 5.0  # data that are added to a component, with a variance of 0.2: none shrinks onto a single number
Z = Float[Tensor, "n p c"]
OTHER = Float[Tensor, "m p c"]
ROWS = Float[Tensor, " n"]


@dataclass(frozen=True)
class JointGain:
    """How much more a density of whole grids says than densities of positions.

    Attributes:
        estimate: held-out mean of `log r_whole(z) - sum_j log r_j(z_j)`, nats a grid; its error is over data.
        whole: what r_whole is; `positions` where none was better than the r_j on the selection split (the gain is 0).
        positions: what the r_j are.
    """

    estimate: Estimate
    whole: str
    positions: str

    @property
    def joined(self) -> bool:
        """Whether positions measurably tell of each other."""
        return self.estimate.low > TIE

    @property
    def sentence(self) -> str:
        """The number, its densities, and what it means for draws of single positions."""
        if self.whole == "positions":
            return (
                f"Joint gain 0: no Gaussian of whole grids was better than positions by themselves ({self.positions}) "
                "on the selection split; dependence that a Gaussian does not see is not ruled out."
            )
        said = (
            f"Joint gain {self.estimate} {self.estimate.unit}, held-out: {self.whole} over all positions beside "
            f"{self.positions}"
        )
        if self.joined:
            return f"{said}. Draws of single positions make no image, whatever r of a position is."
        return f"{said}. Whether positions depend on each other is not clear from these data."


class Marginals(NamedTuple):
    """Densities r_j of positions: coordinates in which each is N(0, I), and `sum_j log r_j`."""

    name: str
    normal: Callable[[Z], tuple[Z, ROWS]]


class Whole(NamedTuple):
    """N(0, S) of whole grids in those coordinates, and the product of its own positions, both less N(0, I)."""

    name: str
    ratio: Callable[[Z], ROWS]
    product: Callable[[Z], ROWS] | None


def joint_gain(z: Mapping[str, Z], design: Design = EQUAL, *, seed: int | None = None) -> JointGain:
    """The joint gain of draws, or of codes, in units of each channel.

    Args:
        z: train, selection and held-out draws, float64, one a datum.
        design: of the held-out data.
        seed: of the draws; None for codes.
    """
    base = _base(z["train"], z["selection"])
    u = {s: base.normal(v) for s, v in z.items()}
    best, most = None, 0.0
    product: Callable[[Z], ROWS] = _nothing
    name, top = base.name, 0.0
    for whole in _wholes(u["train"][0], u["selection"][0]):
        gained = float(whole.ratio(u["selection"][0]).mean())
        if gained > most:
            best, most = whole, gained
        if whole.product is not None and (own := float(whole.product(u["selection"][0]).mean())) > top:
            name, product, top = f"{base.name}, each with what {whole.name} says of it", whole.product, own
    held = u["heldout"][0]
    if best is None or most <= top:  # r_whole is the product of the r_j
        return JointGain(exact(0.0, n=len(held), unit=UNIT, split="heldout"), "positions", name)
    gain = best.ratio(held) - product(held)
    e = mean_estimate(gain, unit=UNIT, split="heldout", seed=seed, design=design)
    return JointGain(skew_checked(e, gain, design), best.name, name)


def _nothing(u: Z) -> ROWS:
    return u.new_zeros(len(u))


def _base(train: Z, selection: OTHER) -> Marginals:
    """Densities of positions that are best on the selection split: Gaussians, or mixtures in their coordinates."""
    gaussians = list(_gaussians(train))
    best = max(gaussians, key=lambda m: float(m.normal(selection)[1].mean()))
    n, p, c = train.shape
    rows = MIXED_NUMBERS // (p * c)
    if min(n, rows) < MIXED_ROWS:
        return best
    mixed = _mixtures(best, train[:rows])
    return max((best, mixed), key=lambda m: float(m.normal(selection)[1].mean()))


def _gaussians(train: Z) -> Iterator[Marginals]:
    """Every position with its own mean; with its own variances, a covariance of channels for all, or its own."""
    n, _, c = train.shape
    mean = train.mean(0)
    std = train.std(0, correction=0).clamp(min=LEAST)
    yield Marginals("a Gaussian of each position and channel", _affine(mean, std, None))
    if c == 1 or c > CHANNELS:
        return
    w = (train - mean) / std
    pooled = torch.einsum("npc,npd->cd", w, w) / w[..., 0].numel()
    tril = torch.linalg.cholesky(pooled + LEAST**2 * torch.eye(c).double())
    yield Marginals(
        "a Gaussian of each position, with the correlations of channels of all", _affine(mean, std, tril[None])
    )
    if n >= OWN * c:
        own = torch.einsum("npc,npd->pcd", w, w) / n
        tril = torch.linalg.cholesky(own + LEAST**2 * torch.eye(c).double())
        yield Marginals("a Gaussian of each position", _affine(mean, std, tril))


def _affine(
    mean: Float[Tensor, "p c"], std: Float[Tensor, "p c"], tril: Float[Tensor, "#p c c"] | None
) -> Callable[[Z], tuple[Z, ROWS]]:
    log_det = float(std.log().sum())
    inverse = None
    if tril is not None:
        eye = torch.eye(tril.shape[1]).double().expand(tril.shape)
        inverse = torch.linalg.solve_triangular(tril, eye, upper=False)
        each = tril.diagonal(dim1=1, dim2=2).log().sum(1)
        log_det += float(each.sum()) * (len(mean) if len(tril) == 1 else 1)

    def normal(z: Z) -> tuple[Z, ROWS]:
        u = (z - mean) / std
        if inverse is not None:
            u = torch.einsum("npd,pcd->npc", u, inverse.expand(len(mean), -1, -1))
        return u, _standard(u) - log_det

    return normal


def _standard(u: Float[Tensor, "n *k"]) -> ROWS:
    """Log N(u; 0, I)."""
    flat = u.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


def _mixtures(base: Marginals, train: Z) -> Marginals:
    """Each number of each position as a mixture of Gaussians, in coordinates in which a Gaussian fits best (EM)."""
    u = base.normal(train)[0]
    at = torch.quantile(u, torch.linspace(0, 1, 2 * MIXED + 1, dtype=u.dtype)[1::2], dim=0)  # [k, p, c]
    scale, weight = torch.full_like(at, 0.5), torch.full_like(at, 1 / MIXED)
    for _ in range(ITERATIONS):
        share = torch.softmax(_terms(u, weight, at, scale), 0)
        size = share.sum(1) + 1e-9
        at = (share * u).sum(1) / size
        away = (share * (u - at[:, None]).square()).sum(1)
        scale = ((away + 0.2 * HELD) / (size + HELD)).sqrt()
        weight = (size + 1) / (len(u) + MIXED)

    def normal(z: Z) -> tuple[Z, ROWS]:
        inner, log_density = base.normal(z)
        out, gained = torch.empty_like(inner), torch.empty_like(log_density)
        for rows in blocks(len(inner), 256):
            x = inner[rows]
            side = (x - at[:, None]) / scale[:, None]
            below, above = ((weight[:, None] * torch.special.ndtr(t)).sum(0) for t in (side, -side))
            tail = torch.special.ndtri(torch.minimum(below, above).clamp(min=1e-300))
            out[rows] = torch.where(below < above, tail, -tail)
            density = torch.logsumexp(_terms(x, weight, at, scale), 0).flatten(1).sum(1)
            gained[rows] = density - _standard(x)
        return out, log_density + gained

    return Marginals(f"{base.name}, as mixtures of {MIXED} in each number", normal)


def _terms(u: Z, weight: Tensor, at: Tensor, scale: Tensor) -> Float[Tensor, "k n p c"]:
    """Log weight and log-density of every component."""
    side = (u - at[:, None]) / scale[:, None]
    return (weight.log() - scale.log())[:, None] - 0.5 * (side.square() + math.log(2 * math.pi))


def _wholes(train: Z, selection: OTHER) -> Iterator[Whole]:
    """Gaussians of whole grids, fitted to coordinates in which positions are N(0, I)."""
    n, p, c = train.shape
    # a number that hardly varies (`LEAST`) is as wide as its r_j says: a smaller width is nothing that positions share
    lacks = (1 - train.square().mean(0)).clamp(min=0)
    if p <= DENSE:
        shared = torch.einsum("npc,nqc->pq", train, train) / (n * c) + torch.diag(lacks.mean(1))
        tril = _factor(shared, n * c)
        yield Whole(
            "one correlation of positions for all channels",
            lambda u: _dense(u.transpose(1, 2), tril[None].expand(c, -1, -1)) - _standard(u),
            None,  # of a position it says what r_j does
        )
    flat = train.flatten(1)
    scatter: Scatter = RowsAndNoise(flat / math.sqrt(n), lacks.flatten())
    if n >= p * c:
        scatter = Matrix(scatter.dense())
    if p * c <= DENSE and n >= 2 * p * c:
        yield _full(scatter.dense(), n, p)
    most = 0.0
    for rank in RANKS:
        if rank > min(p * c - 1, n // 4):
            return
        whole = _of_rank(scatter, rank, p)
        yield whole
        gained = float(whole.ratio(selection).mean())
        if rank >= WAIT and gained <= most:
            return
        most = max(most, gained)


def _factor(covariance: Float[Tensor, "k k"], rows: int) -> Float[Tensor, "k k"]:
    """Cholesky factor, after one datum's worth of N(0, I) was added."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    factor: Tensor = torch.linalg.cholesky((rows * covariance + eye) / (rows + 1))
    return factor


def _full(covariance: Float[Tensor, "d d"], n: int, p: int) -> Whole:
    tril = _factor(covariance, n)
    whole = tril @ tril.T
    c = len(whole) // p
    blocks_ = whole.reshape(p, c, p, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    own = torch.linalg.cholesky(blocks_)
    return Whole(
        "a full covariance",
        lambda u: _dense(u.flatten(1)[:, None], tril[None]) - _standard(u),
        lambda u: _dense(u, own) - _standard(u),
    )


def _of_rank(scatter: Scatter, rank: int, p: int) -> Whole:
    d = len(scatter.diagonal)
    factor, noise, _ = factor_analysis(scatter, rank, iterations=ITERATIONS, tolerance=max(1e-3, 1e-6 * d))
    noise = noise.clamp(min=LEAST**2)  # numbers that follow from the others are known to so much, not without error
    return Whole(
        f"a covariance of rank {rank} and a diagonal",
        lambda u: _low_rank(u.flatten(1)[:, None], noise[None], factor[None]) - _standard(u),
        lambda u: _low_rank(u, noise.reshape(p, -1), factor.reshape(p, -1, rank)) - _standard(u),
    )


def _dense(u: Float[Tensor, "n g k"], tril: Float[Tensor, "g k k"]) -> ROWS:
    """Sum over g of log N(u_g; 0, L_g L_g^T)."""
    solved = torch.linalg.solve_triangular(tril, u.permute(1, 2, 0), upper=False)
    log_det = tril.diagonal(dim1=1, dim2=2).log().sum()
    log_prob: Tensor = -0.5 * (solved.square().sum((0, 1)) + u[0].numel() * math.log(2 * math.pi)) - log_det
    return log_prob


def _low_rank(u: Float[Tensor, "n g k"], noise: Float[Tensor, "g k"], factor: Float[Tensor, "g k r"]) -> ROWS:
    """Sum over g of log N(u_g; 0, F_g F_g^T + diag(v_g)), by Woodbury's identity."""
    scaled = factor / noise[..., None]
    eye = torch.eye(factor.shape[2], dtype=factor.dtype)
    tril = torch.linalg.cholesky(eye + factor.mT @ scaled)
    pull = torch.linalg.solve_triangular(tril, scaled.mT, upper=False)  # [g, r, k]
    away = (u.square() / noise).sum((1, 2)) - torch.einsum("ngk,grk->ngr", u, pull).square().sum((1, 2))
    log_det = noise.log().sum() + 2 * tril.diagonal(dim1=1, dim2=2).log().sum()
    log_prob: Tensor = -0.5 * (away + log_det + u[0].numel() * math.log(2 * math.pi))
    return log_prob

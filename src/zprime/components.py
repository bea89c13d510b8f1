"""Mixtures of Gaussians as values: density, draws, and products with an encoder's posterior.

`Diagonal` and `Full` differ in their covariances; every Gaussian kind of latent distribution uses one of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from zprime.arrays import blocks, is_full, row_major, times, weighed
from zprime.errors import NumericalError, UsageError
from zprime.kernels import (
    Components,
    DiagonalMixture,
    FullMixture,
    Products,
    Whitened,
    diagonal_ratio_form,
    far,
    log_ratio_sums,
    ratios,
)

PAIRS = 1 << 20  # pairs of posterior and component handled at once
DRAWN = 1 << 13  # draws that are made at once


@dataclass(frozen=True)
class Tilted:
    """q_r(z|x), in proportion to q(z|x) r(z)/p(z), for a block of posteriors.

    Attributes:
        log_ratio: log E_q[r/p] in nats, shape [m]; +inf where the integral diverges.
        draws: draws from q_r, shape [m, draws, d]; NaN where the integral diverges, for there is no q_r.
    """

    log_ratio: Float[Tensor, " m"]
    draws: Float[Tensor, "m k d"]

    def __post_init__(self) -> None:
        """Raise `NumericalError` for a log-ratio that is not a number."""
        lost = self.log_ratio.isnan().nonzero().flatten()
        if len(lost):
            raise NumericalError(
                f"E_q[r/p]: not a number for {len(lost)} of {len(self.log_ratio)} posteriors (row {int(lost[0])}); "
                "look at the means and standard deviations of these rows and of the components"
            )


@dataclass(frozen=True)
class Diagonal:
    """Mixture of diagonal Gaussians: log-weights, means, standard deviations."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @cached_property
    def prepared(self) -> DiagonalMixture:
        """The kernel that evaluates the density; it is prepared once."""
        return DiagonalMixture(self.mean, self.scale, self.log_weight)

    @cached_property
    def components(self) -> Components:
        """What log-ratios are computed beside; laid out once."""
        return Components(self.mean, self.scale)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log-density in nats, float64; differentiable in z."""
        return differentiable(z, self)

    def value(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-density without a gradient."""
        return self.prepared.log_prob(z)

    def value_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z."""
        return self.prepared.log_prob_and_score(z)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws."""
        which = choose(self.log_weight, n, rng)
        noise = torch.randn(n, self.d, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        return ancestral(noise, which, self.mean, self.scale)

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted:
        """Log E_q[r/p] and draws of q_r, p = N(0, I) (closed form); q has standard deviations or Cholesky factors."""
        if is_full(mean, scale):
            return Full(self.log_weight, self.mean, torch.diag_embed(self.scale)).tilt(
                mean, scale, draws=draws, rng=rng
            )
        form = diagonal_ratio_form(mean, scale, self.mean, self.scale)
        wide = form is far.diagonal_log_ratio
        dtype = torch.float64 if wide else torch.promote_types(mean.dtype, self.mean.dtype)
        mu, s = mean.to(dtype), scale.to(dtype)
        m, t = self.mean.to(dtype), self.scale.to(dtype)
        u, z = _noise(len(mu), draws, self.d, dtype, rng)
        if not draws and len(m) > ratios.PANEL:
            return Tilted(log_ratio_sums(form, (mu, s), (self.log_weight, m, t))[0], z)
        beside = self.components if m is self.mean and t is self.scale else Components(m, t)
        ratio = torch.empty(len(mu), dtype=torch.float64, device=mu.device)
        for rows in blocks(len(mu), max(1, PAIRS // len(m))):
            terms = weighed(beside.log_ratio(form, mu[rows], s[rows]), self.log_weight.to(dtype))
            ratio[rows], k = total_and_choice(terms, u[rows])
            if draws:
                tk, mk = t[k].square(), m[k]
                v = s[rows, None].square()
                a = far.product(s[rows, None], t[k]) if wide else v + tk - v * tk
                z[rows] = (mu[rows, None] * tk + mk * v) / a + (v * tk / a).sqrt() * z[rows]
        return Tilted(ratio, z)


@dataclass(frozen=True)
class Full:
    """Mixture of Gaussians with full covariance: log-weights, means, Cholesky factors."""

    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale_tril: Float[Tensor, "k d d"]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.mean.shape[1]

    @property
    def prepared(self) -> FullMixture:
        """What evaluates the density, with a component left out where that is asked for."""
        return FullMixture(self.mean, self.scale_tril, self.log_weight)

    @cached_property
    def whitened(self) -> Whitened:
        """The kernel that evaluates the density; it is prepared once."""
        return Whitened(self.mean, self.scale_tril, self.log_weight)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log-density in nats, float64; differentiable in z."""
        return differentiable(z, self)

    def value(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-density without a gradient."""
        return self.whitened.log_prob(z)

    def value_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z."""
        value = self.value(z)
        return value, self.whitened.score(z, value)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws, one matrix product a component, then put in random order."""
        which = choose(self.log_weight, n, rng)
        counts = torch.bincount(which, minlength=len(self.mean)).tolist()
        noise = torch.randn(n, self.d, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        parts = [
            self.mean[k] + block @ row_major(self.scale_tril[k]).T
            for k, block in enumerate(torch.split(noise, counts))
            if len(block)
        ]
        by_component = torch.cat(parts) if parts else noise
        return by_component[torch.randperm(n, generator=rng, device=by_component.device)]

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted:
        """Log E_q[r/p] and draws of q_r, p = N(0, I) (closed form); q has standard deviations or Cholesky factors."""
        ratio = torch.empty(len(mean), dtype=torch.float64, device=mean.device)
        u, z = _noise(len(mean), draws, self.d, torch.float64, rng)
        products = Products(self.mean, self.scale_tril)
        fast = products.fast(mean, scale)
        for rows in blocks(len(mean), products.size(fast=fast, draws=draws)):
            terms, chosen = products.beside(mean[rows], scale[rows], fast=fast)
            terms = weighed(terms, self.log_weight.double())
            ratio[rows] = torch.logsumexp(terms, 1)
            if draws:
                centre, factor = chosen(choose_rows(terms, u[rows]))
                spread = torch.linalg.solve_triangular(factor.mT, z[rows, :, :, None], upper=True)
                z[rows] = centre + spread[..., 0]
        return Tilted(ratio, z)


@runtime_checkable
class WithScore(Protocol):
    """A mixture with a log-density and its gradient, both computed without autograd."""

    def value(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-density."""
        ...

    def value_and_score(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """The log-density and its gradient in z."""
        ...


class _Density(torch.autograd.Function):
    """A mixture's log-density with its score as the gradient in z: autograd never sees the N components."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, mixture: WithScore) -> Tensor:
        value, score = mixture.value_and_score(z)
        ctx.save_for_backward(z, score.to(z.dtype))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        score: Tensor = _First.apply(*ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradients[0][:, None].to(score.dtype) * score, None


class _First(torch.autograd.Function):
    """The score. It has no gradient and raises where one is asked for; otherwise torch would take it for zero."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, score: Tensor) -> Tensor:  # noqa: ARG004
        return score.view_as(score)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:  # noqa: ARG004
        raise UsageError(
            "log_prob of a mixture has first derivatives only; "
            "for second ones use zprime.kernels.trainable_mixture_log_prob (diagonal) or torch.distributions"
        )


def differentiable(z: Float[Tensor, "n d"], mixture: WithScore) -> Float[Tensor, " n"]:
    """The mixture's log-density, with a gradient (of first order) where `z` asks for one."""
    if not (torch.is_grad_enabled() and z.requires_grad):
        return mixture.value(z)
    log_prob: Tensor = _Density.apply(z, mixture)  # type: ignore[no-untyped-call]
    return log_prob


def choose(log_weight: Float[Tensor, " k"], n: int, rng: torch.Generator) -> Tensor:
    """Draw `n` component indices by the inverse distribution function, for any number of components."""
    if len(log_weight) == 1:
        return torch.zeros(n, dtype=torch.long, device=log_weight.device)
    cumulative = log_weight.double().exp().cumsum(0)
    u = torch.rand(n, generator=rng, dtype=torch.float64, device=log_weight.device) * cumulative[-1]
    last = len(log_weight) - 1
    if n > last and bool((log_weight == log_weight[0]).all()):
        # with equal weights the index is known but for rounding; the search is done where rounding matters
        which = (u * (len(cumulative) / cumulative[-1])).long().clamp_(max=last)
        below = torch.cat([cumulative.new_zeros(1), cumulative])
        off = ((below.index_select(0, which) > u) | (cumulative.index_select(0, which) <= u)).nonzero().flatten()
        which[off] = torch.searchsorted(cumulative, u[off], right=True).clamp_(max=last)
        return which
    # right=True: a component of weight zero is never drawn
    return torch.searchsorted(cumulative, u, right=True).clamp_(max=last)


def ancestral(
    noise: Float[Tensor, "n d"],
    which: Int[Tensor, " n"],
    mean: Float[Tensor, "k d"],
    scale: Float[Tensor, "k d"] | Float[Tensor, "k d d"],
) -> Float[Tensor, "n d"]:
    """Turn standard normal numbers into draws of the chosen components, in place, block by block."""
    for rows in blocks(len(noise), DRAWN):
        k = which[rows]
        if is_full(mean, scale):
            noise[rows] = times(scale.index_select(0, k), noise[rows]).add_(mean.index_select(0, k))
            continue
        noise[rows].mul_(scale.index_select(0, k)).add_(mean.index_select(0, k))
    return noise


def choose_rows(log_terms: Float[Tensor, "m k"], u: Float[Tensor, "m draws"]) -> Int[Tensor, "m draws"]:
    """For each row of unnormalised log-weights, the indices that uniform numbers `u` stand for.

    Where a row has entries of +inf, these count as equal.
    """
    terms = log_terms.double()
    infinite = terms == torch.inf
    if bool(infinite.any()):
        diverged = infinite.any(1, keepdim=True)
        terms = torch.where(diverged, torch.where(infinite, 0.0, -torch.inf), terms)
    cumulative = torch.softmax(terms, 1).cumsum(1)
    return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp_(max=terms.shape[1] - 1)


PART = 512  # terms whose sum is known when one of them is chosen
NOTHING = -80.0
"""A term so far below the largest counts as this, which changes no sum; smaller exponentials are slow to compute."""


def total_and_choice(
    log_terms: Float[Tensor, "m k"], u: Float[Tensor, "m draws"]
) -> tuple[Float[Tensor, " m"], Int[Tensor, "m draws"]]:
    """Log of the sum of each row's terms in nats, float64, and what `choose_rows` gives: each term has one exponential.

    It is computed in the terms' own type, in parts whose sums are added up in float64.
    """
    top = log_terms.amax(1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        return torch.logsumexp(log_terms.double(), 1), choose_rows(log_terms, u)
    terms = (log_terms - top).clamp_(min=NOTHING).exp_()
    if terms.shape[1] <= PART * max(8, u.shape[1]):  # then a running sum over all terms costs less
        cumulative = terms.cumsum(1, dtype=torch.float64)
        chosen = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp_(max=terms.shape[1] - 1)
        return top[:, 0].double() + cumulative[:, -1].log(), chosen
    some = -(-terms.shape[1] // PART)
    parts = functional.pad(terms, (0, some * PART - terms.shape[1])).view(len(terms), some, PART)
    sums = parts.sum(2).double()
    cumulative = sums.cumsum(1)
    wanted = u * cumulative[:, -1:]
    # first the part of the terms, then the term in it
    part = torch.searchsorted(cumulative, wanted, right=True).clamp_(max=some - 1)
    rest = (wanted - (cumulative - sums).gather(1, part)) / sums.gather(1, part)
    inside = parts[torch.arange(len(u), device=u.device)[:, None], part].cumsum(2, dtype=torch.float64)
    term = torch.searchsorted(inside, rest[..., None] * inside[..., -1:], right=True)[..., 0].clamp_(max=PART - 1)
    chosen = (part * PART + term).clamp_(max=terms.shape[1] - 1)
    return top[:, 0].double() + cumulative[:, -1].log(), chosen


def _noise(m: int, draws: int, d: int, dtype: torch.dtype, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform numbers and noise for all rows at once, so that no draw depends on the size of blocks."""
    u = torch.rand(m, draws, generator=rng, dtype=torch.float64, device=rng.device)
    return u, torch.randn(m, draws, d, generator=rng, dtype=dtype, device=rng.device)

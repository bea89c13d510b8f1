"""What a training goes down: the negative ELBO, or another objective by its name. All are in nats a row."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime import likelihoods, model_prior
from zprime.arrays import standard_kl
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.train_settings import TrainSettings
from zprime.trainable_prior import TrainablePrior
from zprime.vae import VAE

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the kernel, as in the code of Tolstikhin et al. (2018)."""
MATRIX = 2


class Objective(ABC):
    """What is minimised, a number a row; the mean over the rows of a batch is its loss."""

    vectors: int = 1
    """Standard normal vectors of d numbers that a row needs."""
    together: ClassVar[bool] = False
    """Whether what a row counts depends on the others of its batch: then no batch is shared out to processes."""
    by_elbo: ClassVar[bool] = True
    """Whether the best epoch is that of the best ELBO; else it is that of the best objective."""
    forms: tuple[str, ...] = ("diagonal", "full", "flow")
    """Forms of q(z|x) that it is written for."""
    learns: ClassVar[bool] = False
    """Whether p(z) may be learned by it."""

    def noise(self, vae: VAE, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> Float[Tensor, "n k d"]:
        """All that is random in the losses of these rows."""
        like = next(vae.parameters(), x)
        return torch.randn(len(x), self.vectors, vae.latents, generator=rng, dtype=like.dtype, device=like.device)

    @abstractmethod
    def rows(
        self,
        vae: VAE,
        x: Float[Tensor, "n *datum"],
        noise: Float[Tensor, "n k d"],
        *,
        beta: float,
        at: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """The loss of each row, nats.

        Args:
            vae: what is trained.
            x: a batch.
            noise: for these rows.
            beta: weight of the KL term.
            at: which training rows these are, for a prior that leaves out the row that a code belongs to; None for
                other rows.
        """

    def drawn(
        self,
        vae: VAE,
        x: Float[Tensor, "n *datum"],
        rng: torch.Generator,
        *,
        beta: float,
        at: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """`rows` with noise from `rng`."""
        return self.rows(vae, x, self.noise(vae, x, rng), beta=beta, at=at)

    def check(self, vae: VAE) -> None:  # noqa: B027 (most take any)
        """Raise `UsageError` for a VAE that cannot be trained by it."""


@final
class Elbo(Objective):
    """`beta * KL(q(z|x) || p(z)) - log p(x|z)` at one draw of z (Kingma & Welling 2014; Higgins et al. 2017)."""

    learns = True

    def rows(self, vae: VAE, x: Tensor, noise: Tensor, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The loss of each row."""
        log_likelihood, kl = vae.elbo_terms(x, noise=noise[:, 0], rows=at)
        return beta * kl - log_likelihood

    def drawn(self, vae: VAE, x: Tensor, rng: torch.Generator, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The same with noise from `rng`."""
        log_likelihood, kl = vae.elbo_terms(x, rng=rng, rows=at)
        return beta * kl - log_likelihood


@final
class FreeBits(Objective):
    """`beta * sum_j max(least, mean over the batch of KL_j) - log p(x|z)` (Kingma et al. 2016, equation 15).

    A dimension whose mean KL is below `least` has no gradient from it.
    """

    together = True
    forms = ("diagonal",)

    def __init__(self, least: float) -> None:
        """Take how many nats of a dimension are free."""
        self.least = least

    def rows(self, vae: VAE, x: Tensor, noise: Tensor, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The loss of each row; that of the KL is the same for all rows of a batch."""
        mean, scale = vae.encode(x)
        kl = _by_dimension(vae, mean, scale).mean(0).clamp(min=self.least).sum()
        return beta * kl - vae.decode(mean + scale * noise[:, 0]).log_prob(x)

    def check(self, vae: VAE) -> None:
        """Raise `UsageError` for a prior under which the KL is no sum over dimensions."""
        if not model_prior.standard(vae.prior) and model_prior.diagonal(vae.prior) is None:
            raise UsageError(
                "free_bits: expected a prior that is one Gaussian of independent dimensions, for only then is the KL a "
                f"sum over dimensions, got {vae.prior}; leave free_bits out"
            )


def _by_dimension(vae: VAE, mean: Tensor, scale: Tensor) -> Float[Tensor, "n d"]:
    """KL(q(z_j|x) || p(z_j)), nats."""
    if model_prior.standard(vae.prior):
        return standard_kl(mean, scale)
    units = model_prior.diagonal(vae.prior)
    assert units is not None  # it was checked
    loc, width = (t.to(mean) for t in units)
    return standard_kl((mean - loc) / width, scale / width)


@final
class IWAE(Objective):
    """`- log (1/K) sum_k p(x|z_k) (p(z_k) / q(z_k|x))^beta` at K draws from q (Burda et al. 2016).

    With beta 1 it is in expectation no less than -log p(x), and falls towards it as K grows.
    """

    by_elbo = False
    learns = True

    def __init__(self, draws: int) -> None:
        """Take K."""
        self.vectors = draws

    def rows(self, vae: VAE, x: Tensor, noise: Tensor, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The loss of each row."""
        n, k, _ = noise.shape
        drawn = vae.draw(x, noise=noise)
        z = drawn.z
        log_likelihood = vae.decode(z.flatten(0, 1)).log_prob(x.repeat_interleave(k, 0)).reshape(n, k)
        if bool(torch.isfinite(z).all()):
            of = None if at is None else at.repeat_interleave(k)
            log_p = model_prior.log_prob(vae.prior, z.flatten(0, 1), of).reshape(n, k)
            log_likelihood = log_likelihood + beta * (log_p - drawn.log_q)
        else:  # a density takes finite z only; whoever trains sees that the loss is not finite
            log_likelihood = log_likelihood * torch.nan
        return math.log(k) - log_likelihood.logsumexp(1)


@final
class WithMMD(Objective):
    """`- log p(x|z) + beta * KL + weight * MMD^2(q(z), p(z))`, z one draw of each row of the batch.

    Without the KL it is WAE-MMD (Tolstikhin et al. 2018); with it InfoVAE (Zhao et al. 2019), whose alpha is 1 - beta
    and whose lambda is weight + beta.
    """

    vectors = 2
    together = True
    by_elbo = False

    def __init__(self, weight: float, *, kl: bool) -> None:
        """Take the weight of MMD^2, and whether the KL counts."""
        self.weight, self.kl = weight, kl
        self.forms = ("diagonal", "full", "flow", *(() if kl else ("points",)))

    def noise(self, vae: VAE, x: Tensor, rng: torch.Generator) -> Tensor:
        """Of z, and draws from the prior."""
        noise = super().noise(vae, x, rng)
        if not model_prior.standard(vae.prior):
            noise[:, 1] = _prior_draws(vae.prior, len(x), rng).to(noise)
        return noise

    def rows(self, vae: VAE, x: Tensor, noise: Tensor, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The loss of each row; that of the distance is the same for all rows of a batch."""
        drawn = vae.draw(x, noise=noise[:, 0])
        loss = self.weight * mmd(drawn.z, noise[:, 1]) - vae.decode(drawn.z).log_prob(x)
        return loss + beta * vae.kl_of(drawn) if self.kl else loss


def _prior_draws(
    prior: LatentDistribution | Distribution | TrainablePrior, n: int, rng: torch.Generator
) -> Float[Tensor, "n d"]:
    assert not isinstance(prior, TrainablePrior)  # `check_learned`
    if isinstance(prior, LatentDistribution):
        return prior.sample(n, rng=rng)
    own = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
    return likelihoods.draw(prior.expand([n]), rng=own)


def mmd(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """MMD^2 between two samples of one size, unbiased: it may be below 0; 0 for fewer than two rows.

    The kernel is a sum of inverse multiquadratics, `C / (C + |a - b|^2)` with `C = 2 d s` for the seven s of `SCALES`
    (Tolstikhin et al. 2018, section 4, for a prior with variances about 1).
    """
    n, d = a.shape
    if n < 2:
        return a.new_zeros(())
    inside = ~torch.eye(n, dtype=torch.bool, device=a.device)
    own = [_kernel(t, t, d)[inside].mean() for t in (a, b)]
    return own[0] + own[1] - 2 * _kernel(a, b, d).mean()


def _kernel(a: Tensor, b: Tensor, d: int) -> Float[Tensor, "n n"]:
    square = (a[:, None] - b[None]).square().sum(2)
    total = torch.zeros_like(square)
    for s in SCALES:
        total = total + 2 * d * s / (2 * d * s + square)
    return total


@final
class RAE(Objective):
    """`- log p(x|z) + beta * |z|^2 / 2 + penalty * R`, z the code of a deterministic encoder (Ghosh et al. 2020).

    R is one of: `l2`, the sum of squares of the decoder's weights; `spectral`, the sum of the squared largest singular
    values of its layers (the penalty of Yoshida & Miyato 2017 in place of the constraint of RAE-SN); `gradient`, the
    squared Frobenius norm of the decoder's Jacobian at z, by one random direction, whose expectation it is.
    """

    by_elbo = False
    forms = ("points",)

    def __init__(self, regulariser: str, penalty: float) -> None:
        """Take what is put on the decoder, and its weight."""
        self.regulariser, self.penalty = regulariser, penalty

    def rows(self, vae: VAE, x: Tensor, noise: Tensor, *, beta: float, at: Tensor | None = None) -> Tensor:
        """The loss of each row."""
        z, _ = vae.encode(x)
        if self.regulariser == "gradient":
            output, slope = _slope(vae.decoder, z, noise[:, 0])
            on_decoder, p = slope.square().flatten(1).sum(1), vae.likelihood(output)
        else:
            on_decoder, p = REGULARISED[self.regulariser](vae.decoder), vae.decode(z)
        loss: Tensor = 0.5 * beta * z.square().sum(1) + self.penalty * on_decoder - p.log_prob(x)
        return loss


def _slope(decoder: nn.Module, z: Float[Tensor, "n d"], direction: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """What a decoder answers at z, and the derivative of that in a direction."""
    # torch's forward derivative of group norm takes views of its input, which features with channels last do not allow
    norms = [m for m in decoder.modules() if isinstance(m, nn.GroupNorm)]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),)) for m in norms]
    try:
        parts: tuple[Tensor, ...] = torch.func.jvp(decoder, (z,), (direction,))
    finally:
        for hook in hooks:
            hook.remove()
    output, slope = parts
    return output, slope


def _weights(decoder: nn.Module) -> list[Tensor]:
    """The weights of its layers as matrices, without biases."""
    return [p.flatten(1) for p in decoder.parameters() if p.ndim >= MATRIX]


def sum_of_squares(decoder: nn.Module) -> Float[Tensor, ""]:
    """Of all weights of the layers, without biases."""
    return torch.stack([w.square().sum() for w in _weights(decoder)]).sum()


def spectral(decoder: nn.Module) -> Float[Tensor, ""]:
    """Sum over the layers of the squared largest singular value of their weights, as matrices of their first axis."""
    total = []
    for w in _weights(decoder):
        with torch.no_grad():
            wide = w.double()
            small = wide @ wide.mT if len(w) <= w.shape[1] else wide.mT @ wide
            top = torch.linalg.eigh(small)[1][:, -1].to(w)
        total.append((top @ w if len(w) <= w.shape[1] else w @ top).square().sum())
    return torch.stack(total).sum()


REGULARISED: Mapping[str, Callable[[nn.Module], Tensor]] = {"l2": sum_of_squares, "spectral": spectral}


def build(settings: TrainSettings) -> Objective:
    """The objective that the settings name."""
    if settings.objective == "iwae":
        return IWAE(settings.iwae_draws)
    if settings.objective in ("wae-mmd", "infovae"):
        return WithMMD(settings.mmd, kl=settings.objective == "infovae")
    if settings.objective == "rae":
        return RAE(settings.regulariser, settings.penalty)
    return FreeBits(settings.free_bits) if settings.free_bits else Elbo()


def check_form(settings: TrainSettings, form: str) -> None:
    """Raise `UsageError` for an objective that is not written for q(z|x) of this form."""
    forms = build(settings).forms
    if form not in forms:
        name = "free_bits" if settings.free_bits else f"objective {settings.objective}"
        *others, last = forms
        known = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"posterior: {name} takes {known}, got {form}; give --posterior {forms[0]}")


def check_learned(settings: TrainSettings, form: str, kind: str) -> None:
    """Raise `UsageError` for an objective, or q(z|x) of a form, with which no prior of this kind can be learned."""
    if not build(settings).learns:
        name = "free_bits" if settings.free_bits else f"objective {settings.objective}"
        raise UsageError(
            f"prior: {name} takes one that stays as it is, got {kind}, which is to be learned; train by elbo or iwae"
        )
    if form != "diagonal":
        raise UsageError(
            f"posterior: a prior is learned with diagonal posteriors, got {form}; give --posterior diagonal, or leave "
            f"--prior {kind} out"
        )

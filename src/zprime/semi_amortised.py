"""Semi-amortised posteriors: from the encoder's answer, gradient steps on the Gaussian of each row by itself.

Kim et al. 2018, *Semi-amortized variational autoencoders*; Cremer et al. 2018, *Inference suboptimality*.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import model_prior
from zprime.arrays import blocks, is_full, standard_kl
from zprime.errors import NumericalError, UsageError
from zprime.rng import stream
from zprime.vae import VAE, Decoder, Encoder, Model

ROWS = 64  # rows that are worked on at once
PAIRS = 8  # pairs of points mu +- s e that a gradient is taken at, at most; one a dimension where there are fewer
JUDGED = 32  # pairs of draws by which a row's first and last q are compared
RATE = 0.2  # of Adam, in standard deviations of the encoder's q, at the first step; it falls to 0 as a half cosine
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class SemiAmortised:
    """A model whose encoder's answer is improved row by row: Adam on (mu, log s) of each q to raise its ELBO.

    q of a row is a function of this row and of the model alone, as the encoder's is: nothing of other rows goes into
    it, so held-out rows may be encoded so too. Noise is a function of the row's numbers. So neither the rows beside it
    nor its place matter, but for rounding. A row keeps the encoder's q where its ELBO, by the same draws of both, is
    not better.

    The gradient is taken at `mu +- sqrt(d) s e`, e orthonormal directions, turned at random for each step: a cubature
    rule that is exact for a quadratic log p(x, z) if there are d pairs (Genz & Monahan 1998).

    Attributes:
        model: encoder and decoder. Its decoder is as it is, and so is what else it has.
        steps: gradient steps, from 1 on.
        prior: p(z) of the ELBO; None is the model's own, if it has one, else N(0, I).
    """

    model: Model
    steps: int
    prior: model_prior.Own | None = None

    def __getattr__(self, name: str) -> Any:
        """What the model has beside encoder and decoder."""
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of each row's q after the steps.

        Raises:
            UsageError: the decoder gives no gradient in z, or the encoder full covariances.
            NumericalError: the decoder answers what is no distribution.
        """
        with torch.no_grad():
            mean, scale = self.model.encode(x)
        if is_full(mean, scale):
            raise UsageError(
                "steps: expected an encoder that gives standard deviations, got full covariances; encode with steps=0"
            )
        if not (len(x) and bool(torch.isfinite(mean).all() & torch.isfinite(scale).all())):
            return mean, scale  # whoever takes them says which row is not usable
        parts = [self._improved(x[b], mean[b].detach(), scale[b].detach()) for b in blocks(len(x), ROWS)]
        return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])

    def decode(self, z: Float[Tensor, "n d"]) -> torch.distributions.Distribution:
        """p(x|z) of the model."""
        return self.model.decode(z)

    @property
    def _of_elbo(self) -> model_prior.Own | None:
        return getattr(self.model, "prior", None) if self.prior is None else self.prior

    def _improved(self, x: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """One block of rows: steps of Adam, then the better of first and last."""
        noise = [stream(0, "semi-amortised", row_hash(row)) for row in x]
        joint = Joint(self.model, x, self._of_elbo)
        at = torch.zeros(2, *mean.shape, dtype=mean.dtype, device=mean.device)  # in units of the encoder's q
        first, second = torch.zeros_like(at), torch.zeros_like(at)
        for t in range(self.steps):
            s = scale * at[1].exp()
            pull = joint.gradient(mean + scale * at[0], s, _directions(noise, mean))
            pull[0] *= scale
            pull = pull.nan_to_num(0.0, 0.0, 0.0)
            first = BETAS[0] * first + (1 - BETAS[0]) * pull
            second = BETAS[1] * second + (1 - BETAS[1]) * pull.square()
            size = (second / (1 - BETAS[1] ** (t + 1))).sqrt() + 1e-8
            rate = 0.5 * RATE * (1 + math.cos(math.pi * t / self.steps))
            at = at + rate * first / (1 - BETAS[0] ** (t + 1)) / size
        last = mean + scale * at[0], scale * at[1].exp()
        draws = _draws(noise, mean)
        better = joint.elbo(*last, draws) > joint.elbo(mean, scale, draws)
        better &= torch.isfinite(last[0]).all(1) & torch.isfinite(last[1]).all(1) & (last[1] > 0).all(1)
        return torch.where(better[:, None], last[0], mean), torch.where(better[:, None], last[1], scale)


@dataclass(frozen=True)
class Joint:
    """Log p(x, z) of some rows x, at points in pairs on either side of a mean.

    Attributes:
        decoder: gives p(x|z).
        x: the rows.
        prior: p(z); None is N(0, I).
    """

    decoder: Decoder
    x: Float[Tensor, "n *datum"]
    prior: model_prior.Own | None = None

    @property
    def standard(self) -> bool:
        """Whether KL(q||p) has its closed form."""
        return model_prior.standard(self.prior)

    def _at(self, z: Float[Tensor, "m n d"]) -> Float[Tensor, "m n"]:
        """Log p(x|z), and log p(z) where the KL has no closed form."""
        points = z.flatten(0, 1)
        rows = self.x.repeat(len(z), *[1] * (self.x.ndim - 1))
        try:
            value: Tensor = self.decoder.decode(points).log_prob(rows)
        except ValueError as error:  # of torch, e.g. for parameters that are not finite
            raise NumericalError(
                f"steps: the decoder gives no p(x|z) at a point near a posterior ({str(error).splitlines()[0]}); "
                "encode with steps=0"
            ) from error
        if not self.standard and self.prior is not None:
            value = value + model_prior.log_prob(self.prior, points)
        return value.view(z.shape[:2])

    @torch.no_grad()
    def elbo(
        self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], draws: Float[Tensor, "n k d"]
    ) -> Float[Tensor, " n"]:
        """Every row's ELBO in nats by draws `mean +- scale e`, but for a constant where p is not N(0, I)."""
        z = _pairs(mean, scale, draws)
        value = torch.zeros_like(mean[:, 0], dtype=torch.float64)
        for some in blocks(len(z), 2 * PAIRS):
            value += self._at(z[some]).double().sum(0) / len(z)
        return value + (-standard_kl(mean, scale).sum(1) if self.standard else scale.log().sum(1)).double()

    def gradient(
        self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], e: Float[Tensor, "n k d"]
    ) -> Float[Tensor, "2 n d"]:
        """Its gradient in the mean, and in the log of the scale.

        Raises:
            UsageError: the decoder gives no gradient in z.
        """
        z = _pairs(mean, scale, e).requires_grad_()
        with torch.enable_grad():
            value = self._at(z)
            if not value.requires_grad:
                raise UsageError(
                    "steps: the decoder gives no gradient in z: it computes outside torch, or under torch.no_grad; "
                    "encode with steps=0"
                )
            (slope,) = torch.autograd.grad(value.sum(), z)
        slope = slope.detach() / len(z)
        moved = (slope * (z.detach() - mean)).sum(0)
        if self.standard:
            return torch.stack([slope.sum(0) - mean, moved + 1 - scale.square()])
        return torch.stack([slope.sum(0), moved + 1])


def _pairs(mean: Tensor, scale: Tensor, e: Tensor) -> Tensor:
    """Points on either side of the mean, each beside its other, shape [2 k, n, d]."""
    away = (scale[:, None] * e).transpose(0, 1)
    return torch.stack([mean + away, mean - away], 1).flatten(0, 1)


def _directions(noise: list[torch.Generator], mean: Float[Tensor, "n d"]) -> Float[Tensor, "n k d"]:
    """Orthogonal directions of length sqrt(d) for every row, uniform on the sphere: the next of each row's stream."""
    d = mean.shape[1]
    numbers = torch.stack([torch.randn(d, min(d, PAIRS), generator=g, dtype=torch.float64) for g in noise])
    q: Tensor = torch.linalg.qr(numbers).Q
    return (math.sqrt(d) * q.mT).to(mean)


def _draws(noise: list[torch.Generator], mean: Float[Tensor, "n d"]) -> Float[Tensor, "n k d"]:
    """Draws of every row's stream, with the second moments of N(0, I): so no q is better by the luck of its draws.

    Above 16 dimensions each dimension has its variance, and products of two what they have by chance.
    """
    d = mean.shape[1]
    e = torch.stack([torch.randn(JUDGED, d, generator=g, dtype=torch.float64) for g in noise])
    if d > JUDGED // 2:
        return (e / e.square().mean(1, keepdim=True).sqrt()).to(mean)
    whole: Tensor = torch.linalg.qr(e).Q
    return (math.sqrt(JUDGED) * whole).to(mean)


def row_hash(row: Float[Tensor, "*datum"]) -> str:
    """What noise of a row depends on: its numbers."""
    return hashlib.sha256(row.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def check_steps(steps: object, form: str = "diagonal") -> None:
    """Raise `UsageError` for what is no number of steps, and for steps on posteriors of a form that has none."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"steps: expected a whole number from 0 on, got {steps!r}")
    if steps and form != "diagonal":
        raise UsageError(f"steps: expected posteriors that are diagonal Gaussians, got {form}; encode with steps=0")


@overload
def semi_amortised(model: Model, steps: int, prior: model_prior.Own | None = None) -> Model: ...


@overload
def semi_amortised(model: Encoder, steps: int, prior: model_prior.Own | None = None) -> Encoder: ...


def semi_amortised(model: Encoder, steps: int, prior: model_prior.Own | None = None) -> Encoder:
    """A model that encodes with so many steps; the model itself for 0.

    Raises:
        UsageError: a number of steps that cannot be used, or a model without a decoder.
    """
    check_steps(steps, model.form if isinstance(model, VAE) else "diagonal")
    if not steps:
        return model
    if not isinstance(model, Model):
        raise UsageError(
            f"steps: expected a model with decode(z) beside encode(x), whose ELBO the steps raise, got "
            f"{type(model).__name__}; encode with steps=0"
        )
    return SemiAmortised(model, steps, prior)

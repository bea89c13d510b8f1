"""Closed forms to test against, written without any of the code that they test.

`LinearGaussian` is probabilistic PCA as a VAE: x = W z + b + e, z ~ N(0, I), e ~ N(0, var I), with orthogonal columns
of W, so that the exact posteriors are diagonal. Everything is float64.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from zprime import likelihoods
from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.latent import Defensive
from zprime.low_rank import LowRank
from zprime.rng import stream
from zprime.vae import VAE


class Exact(nn.Module):
    """The exact posterior as an encoder; `widen` makes it wrong by a factor of the scales."""

    def __init__(self, model: "LinearGaussian", widen: float) -> None:
        super().__init__()
        self.model, self.widen = model, widen

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.model.posterior(x)
        return mean, scale * self.widen


class Affine(nn.Module):
    """z -> W z + b."""

    def __init__(self, model: "LinearGaussian") -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.model.weight.T + self.model.bias


@dataclass(frozen=True)
class LinearGaussian:
    """The model; `gram` is the diagonal of W^T W."""

    weight: Float[Tensor, "D d"]
    bias: Float[Tensor, " D"]
    var: float

    @property
    def gram(self) -> Float[Tensor, " d"]:
        return self.weight.square().sum(0)

    def posterior(self, x: Float[Tensor, "n D"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """p(z|x): mean M^-1 W^T (x - b), variance var M^-1, with M = W^T W + var I."""
        precision = self.gram + self.var
        mean = (x - self.bias) @ self.weight / precision
        return mean, (self.var / precision).sqrt().expand_as(mean).clone()

    def vae(self, *, widen: float = 1.0) -> VAE:
        """This model as zprime sees a VAE; with `widen` other than 1 the encoder's scales are wrong by that factor."""
        likelihood = likelihoods.Gaussian(scale=1.0)
        likelihood.log_scale = torch.tensor(0.5 * math.log(self.var), dtype=torch.float64)
        return VAE(Exact(self, widen), Affine(self), likelihood, latents=self.weight.shape[1])

    def log_evidence(
        self,
        x: Float[Tensor, "n D"],
        *,
        log_weight: Float[Tensor, " k"] | None = None,
        mean: Float[Tensor, "k d"] | None = None,
        covariance: Float[Tensor, "k d d"] | None = None,
    ) -> Float[Tensor, " n"]:
        """log p_r(x) when z ~ r, a mixture of Gaussians; without arguments r is N(0, I)."""
        d = self.weight.shape[1]
        log_weight = torch.zeros(1, dtype=torch.float64) if log_weight is None else log_weight.double()
        mean = torch.zeros(1, d, dtype=torch.float64) if mean is None else mean.double()
        covariance = torch.eye(d, dtype=torch.float64)[None] if covariance is None else covariance.double()
        eye = torch.eye(len(self.bias), dtype=torch.float64)
        marginal = self.weight @ covariance @ self.weight.T + self.var * eye
        parts = MultivariateNormal(mean @ self.weight.T + self.bias, marginal)
        return MixtureSameFamily(Categorical(logits=log_weight), parts).log_prob(x)

    def elbo(self, x: Float[Tensor, "n D"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """E_q[log p(x|z)] and KL(q||p) at the exact posterior, row by row."""
        mean, scale = self.posterior(x)
        residual = (x - mean @ self.weight.T - self.bias).square().sum(1) + (scale.square() * self.gram).sum(1)
        fit = -0.5 * (x.shape[1] * math.log(2 * math.pi * self.var) + residual / self.var)
        return fit, gaussian_kl(mean, torch.diag_embed(scale.square()))

    def sample(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n d"]]:
        """x and the z that made it."""
        rng = stream(seed, "linear-gaussian")
        z = torch.randn(n, self.weight.shape[1], generator=rng, dtype=torch.float64)
        noise = torch.randn(n, len(self.bias), generator=rng, dtype=torch.float64)
        return z @ self.weight.T + self.bias + math.sqrt(self.var) * noise, z


def linear_gaussian(D: int = 6, d: int = 2, *, var: float = 0.3, seed: int = 0) -> LinearGaussian:
    """A model with orthogonal columns of differing length."""
    rng = stream(seed, "weights")
    basis = torch.linalg.qr(torch.randn(D, d, generator=rng, dtype=torch.float64)).Q
    length = torch.linspace(1.5, 0.7, d, dtype=torch.float64)
    return LinearGaussian(basis * length, torch.randn(D, generator=rng, dtype=torch.float64), var)


def maximum_likelihood(x: Float[Tensor, "n D"], d: int) -> tuple[LinearGaussian, Float[Tensor, " D"]]:
    """Tipping & Bishop 1999: the model, and the eigenvalues of the data covariance (divisor n), largest first."""
    bias = x.mean(0)
    values, vectors = torch.linalg.eigh((x - bias).T @ (x - bias) / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    var = float(values[d:].mean())
    return LinearGaussian(vectors[:, :d] * (values[:d] - var).sqrt(), bias, var), values


def gaussian_kl(mean: Float[Tensor, "*n d"], covariance: Float[Tensor, "*n d d"]) -> Float[Tensor, "*n"]:
    """KL(N(mean, covariance) || N(0, I)) in nats."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[-1] - torch.logdet(covariance))


def torch_mixture(mean: Tensor, scale: Tensor, log_weight: Tensor) -> MixtureSameFamily:
    """torch's own mixture, in float64: diagonal where `scale` is [k, d], full (lower triangular) where [k, d, d]."""
    mean, scale = mean.double(), scale.double()
    parts = Independent(Normal(mean, scale), 1) if scale.ndim == 2 else MultivariateNormal(mean, scale_tril=scale)
    return MixtureSameFamily(Categorical(logits=log_weight.double()), parts)


def grid(half: float = 9.0, n: int = 121) -> tuple[Float[Tensor, "m 2"], float]:
    """Points of a square about 0 and the area of each: exact to 1e-9 for smooth densities with scales from 0.2 up."""
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (2 * half / (n - 1)) ** 2


def hermite(mean: Float[Tensor, "n 2"], scale: Float[Tensor, "n 2"], n: int = 32) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes [n, m, 2] and weights [m] for expectations under each N(mean_i, diag(scale_i^2))."""
    import numpy as np

    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    nodes = mean[:, None].double() + scale[:, None].double() * torch.cartesian_prod(x, x)
    return nodes, torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)


def evidence(model: LinearGaussian, x: Tensor, r: LatentDistribution) -> Tensor:
    """Exact log p_r(x): in closed form where r is a mixture of Gaussians as stored, else by quadrature over z."""
    if isinstance(r, Defensive):
        return torch.logaddexp(
            evidence(model, x, r.base) + math.log1p(-r.epsilon), model.log_evidence(x) + math.log(r.epsilon)
        )
    if not isinstance(r, GaussianDistribution):
        z, area = grid()
        log_r, p = r.log_prob(z), model.vae().decode(z)
        log_joint = [log_r + p.log_prob(row) for row in x]
        return torch.logsumexp(torch.stack(log_joint), 1) + math.log(area)
    c = r.components
    if isinstance(c, Diagonal | LowRank):
        covariance = torch.diag_embed(c.scale.double().square())
    else:
        covariance = c.scale_tril.double() @ c.scale_tril.double().mT
    if isinstance(c, LowRank):
        covariance += c.factor.double() @ c.factor.double().mT
    return model.log_evidence(x, log_weight=c.log_weight, mean=c.mean, covariance=covariance)

"""What a VAE was trained with, as a latent distribution: ours, or a torch Distribution with one latent as its event."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from zprime.arrays import check_matrix
from zprime.as_torch import TorchDistribution
from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.latent.gaussian import Gaussian
from zprime.latent.gaussians import Mixture
from zprime.likelihoods import draw
from zprime.low_rank import LowRank
from zprime.schema import Schema

Given = LatentDistribution | Distribution | None
"""A prior as it is given: None is N(0, I)."""
LOOK = 8  # draws that are looked at


def prior_of(prior: Given, d: int) -> LatentDistribution:
    """The prior as a latent distribution in `d` dimensions.

    Gaussians of torch, and their mixtures, become ours; any other torch Distribution is wrapped, with its own
    log-density and draws. Such a one cannot be saved: its class is not known where it would be loaded.

    Raises:
        UsageError: it has other dimensions, no density, is discrete, or answers NaN.
    """
    if prior is None:
        return Prior(d)
    if not isinstance(prior, LatentDistribution | Distribution):
        raise UsageError(
            f"prior: expected a torch Distribution or a latent distribution of zprime, got {type(prior).__name__}; "
            "leave it out for N(0, I)"
        )
    ours = prior if isinstance(prior, LatentDistribution) else _of_torch(prior, d)
    if ours.d != d:
        raise UsageError(f"prior: expected {d} latents, as the posteriors have, got {ours.d} ({ours.label})")
    if ours.density == "none":
        raise UsageError(f"prior: expected a distribution with a log-density, got {ours.label}, which has draws only")
    z = ours.sample(LOOK, rng=torch.Generator().manual_seed(0))
    if not bool(torch.isfinite(ours.log_prob(z)).all()):
        raise UsageError(
            f"prior: expected a finite log-density at its own draws, got {ours.label} with one that is not"
        )
    standard = isinstance(ours, GaussianDistribution) and _is_standard(ours)
    return Prior(d) if standard else ours


def _is_standard(r: GaussianDistribution) -> bool:
    c = r.components
    if len(c.mean) != 1 or isinstance(c, LowRank) or bool((c.mean != 0).any()):
        return False
    scale = c.scale[0] if isinstance(c, Diagonal) else c.scale_tril[0]
    return torch.equal(scale, torch.ones_like(scale) if scale.ndim == 1 else torch.eye(len(scale)).to(scale))


def _of_torch(prior: Distribution, d: int) -> LatentDistribution:
    if isinstance(prior, TorchDistribution):
        if isinstance(prior.latent, LatentDistribution) and not prior.batch_shape:
            return prior.latent
    elif isinstance(prior, MixtureSameFamily) and not prior.batch_shape:
        gaussians = _gaussians(prior.component_distribution, d)
        if gaussians is not None:
            return Mixture(prior.mixture_distribution.logits.detach().double().log_softmax(0), *gaussians)
    else:
        one = _gaussians(prior, d)
        if one is not None and len(one[0]) == 1:
            return Gaussian(one[0][0], one[1][0])
    if prior.batch_shape or len(prior.event_shape) != 1:
        raise UsageError(
            f"prior: expected a Distribution with one latent, shape [{d}], as its event, got a batch of shape "
            f"{list(prior.batch_shape)} of events of shape {list(prior.event_shape)}; Independent(..., 1) makes the "
            "last dimension of a batch the event"
        )
    if _discrete(prior):
        raise UsageError(
            f"prior: expected a density, got {_name(prior)}, which is discrete; latents that are discrete are "
            "not supported"
        )
    _check_support(prior, d)
    return FromTorch(prior)


def _check_support(p: Distribution, d: int) -> None:
    """Raise `UsageError` where the density is 0 somewhere: posteriors, which are Gaussians, would lie there too."""
    far = torch.tensor([-1e3, -1.0, 0.0, 1.0, 1e3])[:, None].expand(-1, d)
    try:
        inside = p.support is None or bool(p.support.check(far).all())  # type: ignore[no-untyped-call]
    except NotImplementedError:
        return
    if not inside:
        raise UsageError(
            f"prior: expected a density on all of R^{d}, got {_name(p)}, which is on a part of it; give the latents "
            "before they are mapped there (posteriors and decoder with them)"
        )


def _name(p: Distribution) -> str:
    """The class of a distribution, of what is inside where dimensions are only put together."""
    while isinstance(p, Independent):
        p = p.base_dist
    return type(p).__name__


def _discrete(p: Distribution) -> bool:
    try:
        return bool(p.support is not None and p.support.is_discrete)
    except NotImplementedError:  # some distributions do not say
        return False


def _gaussians(p: Distribution, d: int) -> tuple[Tensor, Tensor] | None:
    """Means [k, d] and standard deviations [k, d], or Cholesky factors, of one Gaussian or a batch of them."""
    while isinstance(p, Independent):
        p = p.base_dist
    if isinstance(p, MultivariateNormal):
        loc, scale = p.loc, p.scale_tril
    elif isinstance(p, Normal):
        loc, scale = p.loc, p.scale
        if loc.ndim < 1 or (loc.ndim == 1 and len(loc) == 1):
            loc, scale = loc.expand(d), scale.expand(d)
    else:
        return None
    loc, scale = loc.detach().double().cpu(), scale.detach().double().cpu()
    if loc.ndim == 1:
        loc, scale = loc[None], scale[None]
    return (loc.contiguous(), scale.contiguous()) if loc.ndim == 2 and loc.shape[1] == d else None


@final
@dataclass(frozen=True, repr=False, eq=False)
class FromTorch(LatentDistribution):
    """A torch Distribution with one latent as its event, e.g. a trained flow. It cannot be saved.

    Attributes:
        p: the distribution; event shape [d], no batch.
    """

    kind: ClassVar[str] = "torch"
    p: Distribution

    @property
    def d(self) -> int:
        """Latent dimension."""
        return int(self.p.event_shape[0])

    @property
    def bytes(self) -> int:
        """Of its parameters nothing is known: they are the model's."""
        return 0

    @property
    def label(self) -> str:
        """The name of its class."""
        return _name(self.p)

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "a torch Distribution"

    @cached_property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return draw(self.p, rng=torch.Generator()).dtype

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Its own log-density in nats, as float64; computed in the precision of its draws.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        answer: Tensor = self.p.log_prob(check_matrix("z", z, d=self.d).to(self.dtype))
        return answer.double()

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Its own draws; `rng` decides them."""
        seed = int(torch.randint(2**62, (), generator=rng))
        return draw(self.p.expand((n,)), rng=torch.Generator().manual_seed(seed)).detach()

    def tensors(self) -> dict[str, Tensor]:
        """None to save.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"prior: {self.label} is of a class that would not be known where it is loaded; to ship the decoder, ship "
            "it with what was fitted, or give the prior as a Gaussian or a mixture of them"
        )

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """Not possible.

        Raises:
            UsageError: always.
        """
        raise UsageError("prior: nothing was saved that it could be rebuilt from")


@final
@dataclass(frozen=True, repr=False, eq=False)
class StandardNormal(GaussianDistribution):
    """N(0, I) as a candidate, where the prior is another one. Nothing is stored.

    Attributes:
        dim: latent dimension.
    """

    kind: ClassVar[str] = "standard-normal"
    schema: ClassVar[Schema] = Schema({"dim": Prior.schema.config["dim"]})
    dim: int

    @property
    def components(self) -> Diagonal:
        """One Gaussian."""
        return Prior(self.dim).components

    @property
    def label(self) -> str:
        """In symbols."""
        return "N(0, I)"

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "what most VAEs are trained with, and this one was not"

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def config(self) -> dict[str, Any]:
        """The dimension."""
        return {"dim": self.dim}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the dimension."""
        return cls(int(config["dim"]))
